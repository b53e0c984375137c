// Holds the gateway to keeping no request that is over, however it ended, and to cutting many without a stall.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import type { Readable } from 'node:stream'
import { test, type TestContext } from 'node:test'
import type { FastifyInstance } from 'fastify'
import { AUDIT_STREAM } from '../../plugins/audit/index.ts'
import { REVOCATION_STREAM } from '../../plugins/revocations/index.ts'
import { head, Wire } from '../gateway/harness.ts'
import { inParallel } from '../gateway/raw.ts'
import { createTestGateway, startWorld, type World } from '../in-process.ts'
import { until } from '../until.ts'

interface Started {
  readonly world: World
  readonly app: FastifyInstance
  /** Sends a request with these claims; the path tells the upstream what to do. */
  readonly open: (line: string, claims: Record<string, string>, upload?: string) => Wire
  readonly revoke: (sid: string) => Promise<void>
}

async function start(t: TestContext): Promise<Started> {
  const world = await startWorld(t)
  world.upstream.handler = (request, response, body) => {
    const [, what] = (request.url ?? '').split('/')
    body.catch(() => undefined)
    if (what === 'quick') response.end('ok')
    else if (what === 'stream' || what === 'broken') {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write('data: 1\n\n', () => {
        if (what === 'broken') response.destroy()
      })
    } else if (what === 'hang-up') request.socket.destroy()
  }
  // An STS that never answers must not open the circuit to others, however long a busy machine takes.
  const patient = { STS_TIMEOUT: '2m', UPSTREAM_TIMEOUT: '2m', READ_TIMEOUT: '5m' }
  const app = await createTestGateway(t, world, patient)
  const port = Number(new URL(await app.listen({ port: 0, host: '127.0.0.1' })).port)
  const wires: Wire[] = []
  t.after(() => wires.forEach(wire => wire.close()))
  return {
    world,
    app,
    open(line, claims, upload = '') {
      const wire = new Wire(port)
      wires.push(wire)
      wire.send(`${head(line, world.mint({ root_sid: 'root', ...claims }))}\r\n${upload}`)
      return wire
    },
    async revoke(sid) {
      const [error] = await app.store.append(REVOCATION_STREAM, [{ session_id: sid }])
      assert.ok(!error)
    },
  }
}

test('the gateway keeps none of 2,000 requests that ended in every way', async t => {
  const { app, world, open, revoke } = await start(t)
  world.sts.respond = async ({ fields }) => {
    const path = fields['request_path'] ?? ''
    if (path.startsWith('/unanswered')) await new Promise(() => {})
    return path.startsWith('/refused') ? { status: 403, body: { error: 'access_denied' } } : {}
  }
  const answered = async (wire: Wire) => {
    await wire.receives(/^HTTP\/1\.1 \d{3}/)
    wire.close()
  }
  const ways: readonly ((sid: string) => Promise<void>)[] = [
    sid => answered(open('GET /quick', { sid })),
    sid => answered(open('HEAD /quick', { sid })),
    sid => answered(open('GET /refused', { sid })),
    sid => answered(open('GET /hang-up', { sid })),
    sid => answered(open('POST /quick', { sid }, 'nobody reads this')),
    // The caller goes: at once, while the STS is asked, while the upstream is, in a body.
    async sid => open('GET /quick', { sid }).close(),
    async sid => {
      const asked = world.sts.exchanges.length
      const wire = open('GET /unanswered', { sid })
      await until(() => world.sts.exchanges.length > asked)
      wire.close()
      // Its exchange goes on until the STS answers or is late, or the session is revoked; nobody is in flight.
    },
    async sid => {
      const arrived = world.upstream.arrivals.length
      const wire = open('GET /silent', { sid })
      await until(() => world.upstream.arrivals.length > arrived)
      wire.close()
    },
    async sid => {
      const wire = open('GET /stream', { sid })
      await wire.receives(/data: 1/)
      wire.close()
    },
    async sid => {
      const wire = open('GET /broken', { sid })
      await wire.ended()
    },
    // The session is revoked: in a body, while the STS is asked, while the upstream is.
    async sid => {
      const wire = open('GET /stream', { sid, agent_session_id: sid, delegation_edge_id: sid })
      await wire.receives(/data: 1/)
      await revoke(sid)
      await wire.receives(/X-Caracal-Revoked/)
      wire.close()
    },
    async sid => {
      const wire = open('GET /unanswered', { sid })
      await until(() => app.liveRequests.anchors > 0)
      await revoke(sid)
      await answered(wire)
    },
    async sid => {
      const wire = open('GET /silent', { sid })
      await until(() => app.liveRequests.anchors > 0)
      await revoke(sid)
      await answered(wire)
    },
    // Both at once.
    async sid => {
      const wire = open('GET /stream', { sid })
      await wire.receives(/data: 1/)
      const revoked = revoke(sid)
      wire.close()
      await revoked
    },
  ]
  await inParallel(Array.from({ length: 2_000 }), 40, async (_, index) => {
    await ways[index % ways.length]?.(randomUUID())
  })
  await until(() => app.liveRequests.anchors === 0, 20_000)
  await until(() => app.liveRequests.streams === 0)
  assert.equal(app.overload.inFlight, 0)
})

test('the gateway registers a request under all its anchors, and only while it is in flight', async t => {
  const { app, open } = await start(t)
  const claims = { sid: 's', agent_session_id: 'a', delegation_edge_id: 'd' }
  const first = open('GET /stream', claims)
  await first.receives(/data: 1/)
  assert.deepEqual([app.liveRequests.anchors, app.liveRequests.streams], [4, 1])
  const second = open('GET /stream', { ...claims, root_sid: 's' })
  await second.receives(/data: 1/)
  assert.deepEqual([app.liveRequests.anchors, app.liveRequests.streams], [4, 2])
  first.close()
  await until(() => app.liveRequests.streams === 1)
  assert.equal(app.liveRequests.anchors, 3)
  second.close()
  await until(() => app.liveRequests.anchors === 0)
})

test('the gateway begins the last event on a line of its own, whatever it has and does not pass on', async t => {
  const { app, world, open, revoke } = await start(t)
  const upstream = Promise.withResolvers<ServerResponse>()
  world.upstream.handler = (_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write('data: 10')
    upstream.resolve(response)
  }
  const source = Promise.withResolvers<Readable>()
  app.server.prependOnceListener('request', (_request, response: ServerResponse) => {
    response.once('pipe', source.resolve)
  })
  const wire = open('GET /slow', { sid: 'slow' })
  await wire.receives(/data: 10/)
  const body = await source.promise
  // As while a caller takes nothing more.
  body.pause()
  ;(await upstream.promise).write('0\n\n')
  await until(() => body.readableLength === 3)
  await revoke('slow')
  const text = await wire.receives(/X-Caracal-Revoked/)
  assert.match(text, /\r\ndata: 10\r\n[0-9a-f]+\r\n\nevent: caracal-revoked\n/)
})

test('the gateway ends hundreds that one revocation concerns, and others have their turn in between', async t => {
  const { app, open, revoke } = await start(t)
  const wires = Array.from({ length: 300 }, () => open('GET /stream', {}))
  await Promise.all(wires.map(wire => wire.receives(/data: 1/)))
  const left: number[] = []
  const look = () => {
    const { streams } = app.liveRequests
    if (streams < 300 && left.at(-1) !== streams) left.push(streams)
    if (streams > 0) setImmediate(look)
  }
  look()
  await revoke('root')
  await Promise.all(wires.map(wire => wire.receives(/X-Caracal-Revoked/)))
  await until(() => app.liveRequests.anchors === 0)
  // Not in one go.
  assert.ok(left.length > 2, String(left))
})

test('the gateway leaves the evidence of all that it cut, although it is closed right then', async t => {
  const { app, open, revoke } = await start(t)
  const wires = Array.from({ length: 300 }, () => open('GET /stream', {}))
  await Promise.all(wires.map(wire => wire.receives(/data: 1/)))
  const append = t.mock.method(app.store, 'append')
  await revoke('root')
  await until(() => app.liveRequests.streams === 0)
  await app.close()
  const events = append.mock.calls.flatMap(({ arguments: [stream, entries] }) =>
    stream === AUDIT_STREAM ? entries : [],
  )
  assert.deepEqual([events.length, app.audit.lost], [300, false])
})
