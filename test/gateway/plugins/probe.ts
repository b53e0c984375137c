// A plugin that does what a request tells it to in `x-probe`, a list of `stage:action`, and tells what it saw.
import { Transform } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import { Denial } from 'caracal-gateway'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'

type Action = (request: FastifyRequest, reply: FastifyReply) => unknown

function denial(): Denial {
  return new Denial({
    check: 'team_quota',
    status: 429,
    error: 'quota',
    description: 'quota used up',
  })
}

function upperCase(): Transform {
  return new Transform({
    transform: (chunk: Buffer, _encoding, done) => done(null, chunk.toString().toUpperCase()),
  })
}

const ACTIONS: Record<string, Action> = {
  deny: () => {
    throw denial()
  },
  fail: () => {
    throw new Error('a canary that no caller may see')
  },
  headers: (_request, reply) => void reply.header('x-team', 'was here'),
  answer: (_request, reply) => void reply.code(203).send({ by: 'team' }),
  wait: () => pause(60_000, undefined, { ref: false }),
  annotate: request => request.annotate('team.tier', 'gold'),
  annotateMuch: request => {
    for (let n = 0; n < 16; n++) request.annotate(`key-${n}`, 'x'.repeat(256))
    for (const [key, value] of [
      ['key-16', 'x'],
      ['key-1', 'x'.repeat(257)],
      ['a key', 'x'],
    ] as const) {
      try {
        request.annotate(key, value)
      } catch (error) {
        request.annotate('key-0', error instanceof Error ? error.message : '')
      }
    }
    request.annotate('key-1', 'again')
  },
  set: request => {
    request.upstreamHeaders.set('X-Team', 'billing')
    request.upstreamHeaders.set('Accept-Encoding', 'identity')
  },
  setReserved: (request, reply) => {
    const refused: string[] = []
    for (const [name, value] of [
      ['Host', 'a'],
      ['authorization', 'a'],
      ['X-Caracal-Identity', 'a'],
      ['Connection', 'a'],
      ['X-Forwarded-For', 'a'],
      ['not a name', 'a'],
      ['X-Team', 'a\r\nb: c'],
    ] as const) {
      try {
        request.upstreamHeaders.set(name, value)
      } catch (error) {
        if (error instanceof TypeError) refused.push(name)
      }
    }
    void reply.header('x-refused', refused.join())
  },
  exchange: (request, reply) => void reply.header('x-exchange', JSON.stringify(request.exchange)),
  read: async (request, reply) => {
    const first = await request.readBody(1_000)
    const again = await request.readBody(1_000)
    void reply.header('x-read', `${first.length} ${first.equals(again)}`)
  },
  readUnawaited: request => void request.readBody(1_000),
  rewrite: (_request, reply) => reply.rewriteBody(upperCase()),
  rewriteTwice: (_request, reply) => {
    reply.rewriteBody(upperCase())
    reply.rewriteBody(
      new Transform({
        transform: (chunk: Buffer, _encoding, done) =>
          done(null, chunk.toString().replaceAll('A', '-')),
      }),
    )
  },
  rewriteFails: (_request, reply) =>
    reply.rewriteBody(
      new Transform({
        transform(chunk: Buffer, _encoding, done) {
          if (chunk.includes('!')) done(new Error('a canary that no caller may see'))
          else done(null, chunk)
        },
      }),
    ),
}

async function act(stage: string, request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
  for (const step of String(request.headers['x-probe'] ?? '').split(' ')) {
    const [at, action = ''] = step.split(':')
    if (at === stage) await ACTIONS[action]?.(request, reply)
  }
  return reply.sent ? reply : undefined
}

export default async function probe(app: FastifyInstance): Promise<void> {
  const seen = new app.metrics.client.Counter({
    name: 'team_requests_total',
    help: 'Requests that the probe saw',
    labelNames: ['stage'],
    registers: [app.metrics],
  })
  const spentBy: string[] = []
  app.addHook('onRequest', async (request, reply) => {
    seen.inc({ stage: 'onRequest' })
    await act('onRequest', request, reply)
  })
  app.addHook('preValidation', (request, reply, done) => {
    act('preValidation', request, reply).then(
      () => done(),
      (error: Error) => done(error),
    )
  })
  app.addHook('preHandler', async (request, reply) => {
    spentBy.push(request.id)
    await act('preHandler', request, reply)
  })
  app.addHook('onSend', async (request, reply) => {
    void reply.header('x-seen-content-type', request.headers['content-type'] ?? '-')
    // A refusal passes here as well.
    if (reply.statusCode < 400) await act('onSend', request, reply)
  })

  app.get('/team/open', request => ({
    passage: request.passage === null,
    mandate: attempt(() => request.mandate.clientId),
  }))
  app.post('/team/echo', request => ({ got: request.body }))
  app.post('/team/guarded', { config: { protected: true } }, request => ({
    client: request.mandate.clientId,
    exchange: attempt(() => request.exchange.host),
    got: request.body,
  }))
  app.get('/team/refusing', () => {
    throw denial()
  })
  await app.register(async scope => {
    scope.addHook('onRequest', (_request, reply, done) => {
      void reply.header('x-scope', 'own')
      done()
    })
    scope.options('/*', async (_request, reply) => reply.code(204).send())
    scope.get('/team/scoped', { config: { protected: true } }, async () => 'scoped')
  })
}

function attempt(read: () => string): string {
  try {
    return read()
  } catch (error) {
    return error instanceof Error ? error.message : ''
  }
}
