// Holds the gateway to end what is in flight when its mandate is revoked, whatever it waits for, and to say so to the
// caller, the upstream and the audit (contract sections 5, 6 and 8).
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { get as httpGet, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer, type Socket } from 'node:net'
import { before, describe, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { request as undiciRequest } from 'undici'
import { validEvent } from '../audit-schema.ts'
import { startTcpProxy } from '../tcp-proxy.ts'
import { stalled, until } from '../until.ts'
import { answers, assertRefusal } from '../wire/wire.ts'
import {
  type AuditEvent,
  call,
  head,
  listen,
  RESOURCE,
  type Stack,
  startGateway,
  startStack,
  Wire,
} from './harness.ts'
import { metricsOf, risen } from './refusal.ts'
import { revoke, suiteCleanup } from './support.ts'

/** The claims of a mandate, and the field of a message that revokes each. */
const ANCHORS = [
  ['sid', 'session_id'],
  ['root_sid', 'session_id'],
  ['agent_session_id', 'agent_session_id'],
  ['delegation_edge_id', 'delegation_edge_id'],
] as const

const REFUSED = { status: 401, error: 'invalid_token', description: 'session revoked' }
const CUTS = 'caracal_gateway_revocation_cut_seconds_count'
const TRAILER = '0\r\nX-Caracal-Revoked: true\r\n\r\n'
const SSE = { 'content-type': 'text/event-stream; charset=utf-8' }

type Handler = (request: IncomingMessage, response: ServerResponse) => void

/** One thing that a request can be doing when it is revoked, and how it must end. */
interface Phase {
  readonly line?: string
  readonly headers?: readonly string[]
  /** What is sent behind the head. */
  readonly upload?: string
  /** Answers; without one the upstream is never reached. */
  readonly upstream?: Handler
  /** Where the directive leads instead. */
  readonly url?: () => string
  /** Whether the exchange waits. */
  readonly exchange?: boolean
  /** What the caller has of the body when the revocation comes; `undefined`: it waits for headers. */
  readonly got?: string
  /** All that it gets of the body. `refused`: it is refused instead. */
  readonly body: 'refused' | ((id: string) => string)
  /** What becomes of the caller's connection. */
  readonly connection: 'usable' | 'closed' | 'reset'
  /** Members of the event beside those that all have. */
  readonly event: Readonly<Record<string, unknown>>
}

const chunk = (text: string) => `${text.length.toString(16)}\r\n${text}\r\n`
const lastEvent = (id: string) =>
  `event: caracal-revoked\ndata: ${JSON.stringify({ error: 'invalid_token', error_description: 'session revoked', requestId: id })}\n\n`

/** Sends headers and this much of a body, and then nothing. */
const begins =
  (headers: Record<string, string>, text: string | Buffer): Handler =>
  (_request, response) => {
    response.writeHead(200, headers)
    response.flushHeaders()
    if (text.length > 0) response.write(text)
  }

const refusedAt = (dispatched: string) => ({ dispatched, gateway_status: 401, response_bytes: 0 })
const streamed = (bytes: number) => ({
  gateway_status: 200,
  upstream_status: 200,
  result_class: 'success',
  response_bytes: bytes,
  error_kind: 'response_copy_failed',
})

let silentPort = 0

const PHASES: Readonly<Record<string, Phase>> = {
  'waiting for the exchange': {
    exchange: true,
    body: 'refused',
    connection: 'usable',
    event: refusedAt('no'),
  },
  'connecting to the upstream': {
    url: () => `https://127.0.0.1:${silentPort}`,
    body: 'refused',
    connection: 'usable',
    event: refusedAt('no'),
  },
  "waiting for the upstream's headers": {
    upstream: () => {},
    body: 'refused',
    connection: 'usable',
    event: refusedAt('unknown'),
  },
  'in the middle of an upload': {
    line: 'POST /up',
    headers: ['Content-Length: 20'],
    upload: 'half of it',
    upstream: request => void request.resume(),
    body: 'refused',
    connection: 'usable',
    event: refusedAt('unknown'),
  },
  'in a body of chunks': {
    upstream: begins({}, 'part one'),
    got: chunk('part one'),
    body: () => chunk('part one') + TRAILER,
    connection: 'usable',
    event: streamed(8),
  },
  'before the first byte of a body': {
    upstream: begins({}, ''),
    got: '',
    body: () => TRAILER,
    connection: 'usable',
    event: streamed(0),
  },
  'while both bodies flow': {
    line: 'POST /both',
    headers: ['Content-Length: 20'],
    upload: 'half of it',
    upstream: begins({}, 'part one'),
    got: chunk('part one'),
    body: () => chunk('part one') + TRAILER,
    connection: 'usable',
    event: streamed(8),
  },
  'in a body of declared length': {
    upstream: begins({ 'content-length': '100' }, 'part one'),
    got: 'part one',
    body: () => 'part one',
    connection: 'closed',
    event: streamed(8),
  },
  'in an idle event stream': {
    upstream: begins(SSE, 'data: 1\n\n'),
    got: chunk('data: 1\n\n'),
    body: id => chunk('data: 1\n\n') + chunk(lastEvent(id)) + TRAILER,
    connection: 'usable',
    event: streamed(9),
  },
  'in an event stream without an event': {
    upstream: begins(SSE, ''),
    got: '',
    body: id => chunk(lastEvent(id)) + TRAILER,
    connection: 'usable',
    event: streamed(0),
  },
  'between the lines of an event': {
    upstream: begins(SSE, 'event: pay\r\ndata: 1\r'),
    got: chunk('event: pay\r\ndata: 1\r'),
    body: id => chunk('event: pay\r\ndata: 1\r') + chunk(lastEvent(id)) + TRAILER,
    connection: 'usable',
    event: streamed(20),
  },
  'in the line of an event': {
    upstream: begins(SSE, 'data: 10'),
    got: chunk('data: 10'),
    body: id => chunk('data: 10') + chunk(`\n${lastEvent(id)}`) + TRAILER,
    connection: 'usable',
    event: streamed(8),
  },
  'in a compressed event stream': {
    upstream: begins(
      { ...SSE, 'content-encoding': 'gzip' },
      gzipSync('data: 1\n\n').subarray(0, 9),
    ),
    got: chunk(gzipSync('data: 1\n\n').subarray(0, 9).toString('latin1')),
    body: () => chunk(gzipSync('data: 1\n\n').subarray(0, 9).toString('latin1')) + TRAILER,
    connection: 'usable',
    event: streamed(9),
  },
  'in an event stream of declared length': {
    upstream: begins({ ...SSE, 'content-length': '100' }, 'data: 1\n\n'),
    got: 'data: 1\n\n',
    body: () => 'data: 1\n\n',
    connection: 'closed',
    event: streamed(9),
  },
  'in a body that ends with its connection': {
    line: 'GET /old HTTP/1.0',
    upstream: begins({}, 'part one'),
    got: 'part one',
    body: () => 'part one',
    connection: 'reset',
    event: streamed(8),
  },
  'in an event stream that ends with its connection': {
    line: 'GET /old HTTP/1.0',
    upstream: begins(SSE, 'data: 1\n\n'),
    got: 'data: 1\n\n',
    body: id => `data: 1\n\n${lastEvent(id)}`,
    connection: 'reset',
    event: streamed(9),
  },
}

describe('the gateway', () => {
  const suite = suiteCleanup()
  const handlers = new Map<string, Handler>()
  const urls = new Map<string, string>()
  /** Requests whose exchange waits until its caller gives up. */
  const waiting = new Set<string>()
  /** Requests as they reached the STS, and the upstream. */
  const exchanged = new Set<string>()
  const arrived = new Map<string, ServerResponse>()
  /** Requests whose connection to the upstream has closed. */
  const left = new Set<string>()
  const silent = new Set<Socket>()
  let stack: Stack
  let bystander: Wire
  let bystanderUpstream: ServerResponse
  let ticks = 0

  before(async () => {
    stack = await startStack(suite)
    const server = createServer(socket => {
      silent.add(socket)
      socket.on('error', () => undefined)
    })
    silentPort = await listen(server)
    suite.after(async () => {
      server.close()
      for (const socket of silent) socket.destroy()
    })
    stack.sts.respond = async ({ fields }) => {
      const id = fields['gateway_request_id'] ?? ''
      exchanged.add(id)
      if (waiting.has(id)) await new Promise(() => {})
      const url = urls.get(id)
      return url === undefined ? {} : { directive: { url, auth_mode: 'none' } }
    }
    stack.upstream.handler = (request, response, body) => {
      const id = String(request.headers['x-request-id'])
      arrived.set(id, response)
      response.on('close', () => left.add(id))
      const handler = handlers.get(id)
      if (handler === undefined) {
        body.then(
          () => response.end('ok'),
          () => response.destroy(),
        )
      } else handler(request, response)
    }
    const id = randomUUID()
    handlers.set(id, begins(SSE, ': hello\n\n'))
    bystander = open('GET /bystander', { sid: 'bystander' }, id)
    await bystander.receives(/: hello/)
    bystanderUpstream = arrived.get(id) ?? assert.fail('no bystander')
    suite.after(async () => bystander.close())
  })

  /** Sends a request up to its head's end. */
  function open(
    line: string,
    claims: Record<string, string>,
    id: string,
    headers: readonly string[] = [],
  ): Wire {
    const wire = new Wire(stack.gateway.port)
    const [request = '', version = 'HTTP/1.1'] = line.split(/ (?=HTTP)/)
    const text = head(request, stack.mint(claims), `X-Request-Id: ${id}`, ...headers)
    wire.send(`${text.replace('HTTP/1.1', version)}\r\n`)
    return wire
  }

  const bodyOf = (wire: Wire) => wire.text.slice(wire.text.indexOf('\r\n\r\n') + 4)

  /** The one event of a request, valid, and there is no second. */
  async function eventOf(id: string): Promise<AuditEvent> {
    const events = await stack.eventsOf(id)
    assert.equal(events.length, 1)
    const [event = assert.fail('no event')] = events
    assert.ok(validEvent(event), JSON.stringify(validEvent.errors))
    return event
  }

  const latencies: number[] = []

  /** Revokes, and resolves once the condition holds. */
  async function cut(field: string, anchor: string, done: () => boolean): Promise<void> {
    const startedAt = performance.now()
    await revoke(stack.redis, { [field]: anchor })
    await until(done, 10_000)
    latencies.push(performance.now() - startedAt)
  }

  /** The requests of others go on. */
  async function assertOthersUnharmed(): Promise<void> {
    const tick = `: tick ${ticks++}\n\n`
    bystanderUpstream.write(tick)
    await bystander.receives(new RegExp(tick))
  }

  /** Whether the phase that a request is to be revoked in has come. */
  function isReady(phase: Phase, id: string, wire: Wire, connections: number): boolean {
    if (phase.exchange === true) return exchanged.has(id)
    if (phase.url !== undefined) return silent.size > connections
    if (phase.got === undefined) return arrived.has(id)
    return wire.text.includes('\r\n\r\n') && bodyOf(wire).length >= phase.got.length
  }

  for (const [name, phase] of Object.entries(PHASES)) {
    describe(`ends a request ${name}`, () => {
      for (const [claim, field] of ANCHORS) {
        test(`by ${claim}`, async t => {
          const [id, anchor] = [randomUUID(), randomUUID()]
          if (phase.upstream !== undefined) handlers.set(id, phase.upstream)
          if (phase.url !== undefined) urls.set(id, phase.url())
          if (phase.exchange === true) waiting.add(id)
          const connections = silent.size
          const counted = await metricsOf(stack.gateway.url)
          const { line = 'GET /v1/invoices', headers = [], upload = '' } = phase
          const wire = open(line, { [claim]: anchor }, id, headers)
          t.after(() => wire.close())
          let failure: NodeJS.ErrnoException | undefined
          wire.socket.on('error', error => {
            failure = error
          })
          wire.send(upload)
          await until(() => isReady(phase, id, wire, connections))
          if (phase.got !== undefined) assert.equal(bodyOf(wire), phase.got)

          const { body, connection } = phase
          const expected = body === 'refused' ? undefined : body(id)
          const isCut = () =>
            wire.closed ||
            (expected === undefined
              ? wire.text.endsWith('}')
              : bodyOf(wire).length >= expected.length)
          await cut(field, anchor, connection === 'usable' ? isCut : () => wire.closed)

          const { dispatched, ...members } = phase.event
          if (expected === undefined) {
            const [answer] = await answers(wire)
            assertRefusal(answer, { ...REFUSED, dispatched: String(dispatched) })
          } else {
            assert.match(wire.text, /^HTTP\/1\.1 200 OK\r\n/)
            assert.equal(bodyOf(wire), expected)
          }
          if (phase.upstream !== undefined) await until(() => left.has(id))

          const event = await eventOf(id)
          const { metadata_json: metadata } = event
          const latency = metadata['revocation_latency_ms']
          assert.ok(Number.isInteger(latency) && Number(latency) >= 0, String(latency))
          assert.equal(metadata['revoked_anchor'], claim)
          if (phase.exchange === true) {
            assert.equal(event.event_type, 'gateway_request_denied')
            assert.equal(event.evaluation_status, 'revoked')
            assert.equal(metadata['reason'], 'revoked')
            assert.equal(metadata['gateway_status'], 401)
          } else {
            assert.equal(event.event_type, 'gateway_resource_request')
            assert.equal(event.evaluation_status, 'upstream_error')
            assert.equal(metadata['revocation_interrupted'], true)
            for (const [member, value] of Object.entries(members)) {
              assert.equal(metadata[member], value, member)
            }
          }

          const after = await metricsOf(stack.gateway.url)
          const rise = risen(counted, after)
          const { requests_denied_total, streams_revoked_total, sts_exchange_errors_total } = rise
          assert.deepEqual(
            [requests_denied_total, streams_revoked_total, sts_exchange_errors_total],
            expected === undefined ? [1, undefined, undefined] : [undefined, 1, undefined],
          )
          assert.equal(after.get(CUTS), (counted.get(CUTS) ?? 0) + 1)
          const lines = () => stack.gateway.logs.filter(({ reqId }) => reqId === id)
          // The log comes by another way than the event.
          await until(() => lines().length > 0)
          assert.deepEqual(
            lines().map(({ level, check, anchor, zone, client, resource }) => [
              level,
              check,
              anchor,
              zone,
              typeof client,
              resource,
            ]),
            [
              [
                30,
                'revoked',
                expected === undefined ? undefined : claim,
                'zone-1',
                'string',
                RESOURCE,
              ],
            ],
          )

          if (connection === 'usable') {
            const before = wire.text.length
            wire.send('x'.repeat(upload === '' ? 0 : 20 - upload.length))
            wire.send(`${head('GET /next', stack.mint())}\r\n`)
            await until(() => wire.text.slice(before).endsWith('\r\n\r\nok') || wire.closed)
            assert.match(wire.text.slice(before), /^HTTP\/1\.1 200 OK\r\n/)
          } else {
            assert.equal(failure?.code, connection === 'reset' ? 'ECONNRESET' : undefined)
          }
          await assertOthersUnharmed()
        })
      }
    })
  }

  test('ends a request while Redis has not answered whether its mandate is spent', async t => {
    const proxy = await startTcpProxy(t, stack.redis.port)
    const gateway = await startGateway(t, {
      ...stack.env,
      REDIS_URL: `redis://127.0.0.1:${proxy.port}`,
      REDIS_READ_TIMEOUT: '20s',
    })
    const [id, sid] = [randomUUID(), randomUUID()]
    const keys = async () => Number(await stack.redis.command('DBSIZE'))
    const spent = await keys()
    // The revocations are read on a connection of their own.
    const release = proxy.holdAnswers('xread')
    const answer = call(gateway.url, '/', {
      token: stack.mint({ sid }),
      headers: { 'x-request-id': id },
    })
    await until(async () => (await keys()) > spent)
    await revoke(stack.redis, { session_id: sid })
    const { status, text, headers } = await answer
    assert.equal(status, 401, text)
    assert.equal(headers['x-caracal-dispatched'], 'no')
    assert.ok(!exchanged.has(id) && !arrived.has(id))
    release()
    const { event_type: type, metadata_json: metadata } = await eventOf(id)
    assert.equal(type, 'gateway_request_denied')
    assert.equal(metadata['reason'], 'revoked')
    assert.equal(metadata['revoked_anchor'], 'sid')
    assert.ok(Number(metadata['revocation_latency_ms']) < 10_000)
    assert.ok(!exchanged.has(id) && !arrived.has(id), 'the answer to the claim changes nothing')
    assert.equal(await gateway.stop(), 0)
  })

  test('has cut within 100 ms of the message', () => {
    latencies.sort((a, b) => a - b)
    // Half of them: the others may have waited for a busy machine.
    const median = latencies[Math.floor(latencies.length / 2)] ?? Infinity
    assert.ok(median < 100, `median ${median} ms of ${latencies.length}`)
  })

  test('has ended each exchange that it cut', async () => {
    // Their requests would otherwise still hold connections to the STS, and the circuit would have counted them.
    assert.equal(waiting.size, ANCHORS.length)
    assert.equal(await stack.metric('sts_circuit_open'), 0)
    assert.equal((await stack.call()).status, 200)
  })

  test('passes nothing on to a caller that does not read, and closes its connection', async t => {
    for (const headers of [{}, { 'content-length': String(2 ** 30) }]) {
      const [id, sid] = [randomUUID(), randomUUID()]
      let sent = 0
      handlers.set(id, (_request, response) => {
        response.writeHead(200, headers)
        const pour = () => {
          if (response.destroyed) return
          sent += 65_536
          if (response.write(Buffer.alloc(65_536, 'x'))) setImmediate(pour)
          else response.once('drain', pour)
        }
        pour()
      })
      const wire = open('GET /big', { sid }, id)
      t.after(() => wire.close())
      await wire.receives(/\r\n\r\nx|\r\n\r\n\w+\r\nx/)
      wire.socket.pause()
      await stalled(() => sent, 20_000)
      await revoke(stack.redis, { session_id: sid })
      await until(() => left.has(id))
      const { metadata_json: metadata } = await eventOf(id)
      assert.equal(metadata['revocation_interrupted'], true)
      const passed = Number(metadata['response_bytes'])
      // The gateway has let go of the connection: what still comes is what the network had taken.
      wire.socket.resume()
      await stalled(() => wire.received.length)
      const body = bodyOf(wire).replaceAll(/[^x]/g, '').length
      assert.ok(passed < sent, `${passed} of ${sent}`)
      assert.ok(body <= passed + 65_536, `${body} of ${passed}`)
    }
    await assertOthersUnharmed()
  })

  test('breaks off an answer that is whole but waits behind another of its connection', async t => {
    const [first, second] = [randomUUID(), randomUUID()]
    const [sid, other] = [randomUUID(), randomUUID()]
    handlers.set(first, begins({}, 'slow'))
    handlers.set(second, (_request, response) => void response.end('secret'))
    const wire = open('GET /first', { sid: other }, first)
    t.after(() => wire.close())
    await wire.receives(/slow/)
    wire.send(`${head('GET /second', stack.mint({ sid }), `X-Request-Id: ${second}`)}\r\n`)
    await until(() => arrived.get(second)?.writableFinished === true)
    const before = await stack.metric('streams_revoked')
    await revoke(stack.redis, { session_id: sid })
    await until(async () => (await stack.metric('streams_revoked')) > before)
    arrived.get(first)?.end('er')
    const text = await wire.ended()
    assert.ok(text.endsWith(`${chunk('slow')}${chunk('er')}0\r\n\r\n`), text)
    const event = await eventOf(second)
    assert.equal(event.metadata_json['revocation_interrupted'], true)
    assert.equal((await eventOf(first)).evaluation_status, 'executed')
  })

  test('shows the end to the clients that agents use', async () => {
    const ask = (sid: string, headers = SSE) => {
      const id = randomUUID()
      handlers.set(id, begins(headers, 'data: 1\n\n'))
      const options = {
        headers: {
          authorization: `Bearer ${stack.mint({ sid })}`,
          'x-caracal-resource': RESOURCE,
          'x-request-id': id,
        },
      }
      return { id, options, url: `${stack.gateway.url}/sse` }
    }
    const [a, b, c] = [randomUUID(), randomUUID(), randomUUID()]

    const fetched = ask(a)
    const answer = await fetch(fetched.url, fetched.options)
    await revoke(stack.redis, { session_id: a })
    assert.equal(await answer.text(), `data: 1\n\n${lastEvent(fetched.id)}`)

    const plain = ask(b)
    const { promise, resolve } = Promise.withResolvers<IncomingMessage>()
    httpGet(plain.url, { ...plain.options, agent: false }, resolve)
    const response = await promise
    await revoke(stack.redis, { session_id: b })
    let text = ''
    for await (const piece of response.setEncoding('utf8')) text += piece
    assert.equal(text, `data: 1\n\n${lastEvent(plain.id)}`)
    assert.deepEqual(response.trailers, { 'x-caracal-revoked': 'true' })

    const last = ask(c, { 'content-type': 'text/plain' })
    const { body, trailers } = await undiciRequest(last.url, last.options)
    await revoke(stack.redis, { session_id: c })
    assert.equal(await body.text(), 'data: 1\n\n')
    assert.deepEqual(trailers, { 'x-caracal-revoked': 'true' })
  })

  test('leaves whole answers alone', async () => {
    const sid = randomUUID()
    const id = randomUUID()
    const wire = open('HEAD /x', { sid }, id)
    await wire.receives(/\r\n\r\n/)
    assert.equal((await eventOf(id)).evaluation_status, 'executed')
    await revoke(stack.redis, { session_id: sid })
    wire.send(`${head('GET /next', stack.mint())}\r\n`)
    await wire.receives(/\r\n\r\nok$/)
    wire.close()
    assert.equal((await stack.eventsOf(id)).length, 1)
  })

  test('cuts hundreds of idle streams at once, and serves others meanwhile', async () => {
    const sid = randomUUID()
    const before = await stack.metric('streams_open')
    const upstreams = stack.upstream.server
    const wires = await Promise.all(
      Array.from({ length: 300 }, async () => {
        const id = randomUUID()
        handlers.set(id, begins(SSE, 'data: 1\n\n'))
        const wire = open('GET /sse', { root_sid: sid, sid: randomUUID() }, id)
        await wire.receives(/data: 1/)
        return { wire, id }
      }),
    )
    assert.equal(await stack.metric('streams_open'), before + 300)
    const [answer] = await Promise.all([
      stack.call(),
      revoke(stack.redis, { session_id: sid }),
      until(() =>
        wires.every(({ wire, id }) => wire.text.endsWith(lastEvent(id) + `\r\n${TRAILER}`)),
      ),
    ])
    assert.equal(answer.status, 200)
    await until(() => wires.every(({ id }) => left.has(id)))
    await until(async () => (await stack.metric('streams_open')) === before)
    for (const { wire } of wires) wire.close()
    // The upstream is not asked for other connections in place of those that were closed.
    await until(
      () => new Promise(resolve => upstreams.getConnections((_, count) => resolve(count < 20))),
    )
    await assertOthersUnharmed()
  })
})
