// Holds the exchange on the wire to contract sections 2 and 4: signed, once, bounded, and named when it fails.

import assert from 'node:assert/strict'
import { createHash, createHmac } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { createServer as createTcpServer } from 'node:net'
import { describe, it, type TestContext } from 'node:test'
import Fastify, { type FastifyInstance } from 'fastify'
import { Denial } from '../../denial.ts'
import sts, { type Cancel, type StsOptions } from '../../plugins/sts.ts'
import { createCertificate } from '../certificate.ts'
import { listen } from '../gateway/harness.ts'
import { freePort } from '../redis.ts'

const KEY = 'd4'.repeat(32)
const REQUEST = {
  zoneId: 'zone-1',
  clientId: 'client-1',
  token: 'a.b.c',
  resource: 'resource://a',
  method: 'GET',
  path: '/v1/a b',
  requestId: 'r-1',
}
const GRANTED = JSON.stringify({ access_token: 'access', upstreams: { 'resource://a': {} } })

type Answer = (request: IncomingMessage, response: ServerResponse, body: string) => void

/** A request as the STS got it. */
interface Asked {
  readonly method: string
  readonly url: string
  readonly headers: IncomingMessage['headers']
  readonly body: string
}

const json =
  (status: number, body: string, headers: Record<string, string> = {}): Answer =>
  (_request, response) =>
    void response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(body)

const grants = json(200, GRANTED)

/** An STS that answers so, and the plugin that asks it. */
async function started(t: TestContext, first: Answer = grants, options: Partial<StsOptions> = {}) {
  const asked: Asked[] = []
  const state = { answer: first }
  const server = createServer((request, response) => {
    let body = ''
    request.setEncoding('utf8').on('data', chunk => (body += chunk))
    request.on('end', () => {
      const { method = '', url = '', headers } = request
      asked.push({ method, url, headers, body })
      state.answer(request, response, body)
    })
  })
  t.after(() => server.close().closeAllConnections())
  const port = await listen(server)
  const results: string[] = []
  let opened = 0
  const app = await plugin(t, {
    url: `http://127.0.0.1:${port}`,
    timeout: 5_000,
    onExchange: (milliseconds, result) => {
      assert.ok(milliseconds >= 0)
      results.push(result)
    },
    onCircuitOpen: () => {
      opened += 1
    },
    ...options,
  })
  return { app, asked, state, results, opened: () => opened, port }
}

async function plugin(t: TestContext, options: StsOptions): Promise<FastifyInstance> {
  const app = Fastify()
  t.after(() => app.close())
  await app.register(sts, options)
  return app
}

/** The denial that an exchange ends in. */
async function refusal(app: FastifyInstance): Promise<Denial> {
  try {
    await app.sts.exchange(REQUEST)
  } catch (error) {
    if (error instanceof Denial) return error
    throw error
  }
  return assert.fail('the exchange was granted')
}

const facts = ({ check, statusCode, error, description }: Denial) => [
  check,
  statusCode,
  error,
  description,
]

/** A good answer of so many bytes. */
const size = (bytes: number) => JSON.stringify({ access_token: 'a', x: 'y'.repeat(bytes - 27) })

describe('an exchange', () => {
  for (const hmacKey of ['', 'a1b', 'not hex']) {
    it(`is not sent unsigned, nor signed with less, when the key is ${JSON.stringify(hmacKey)}`, async t => {
      const options = { url: 'http://127.0.0.1:9', timeout: 1_000, hmacKey }
      await assert.rejects(plugin(t, options), /hmacKey must be/)
    })
  }

  it('is asked as the contract says, signed, and its answer read', async t => {
    const now = 1_790_000_000_999
    const { app, asked, results } = await started(t, grants, { hmacKey: KEY, now: () => now })
    const granted = await app.sts.exchange(REQUEST)
    assert.deepEqual(granted, { accessToken: 'access', upstreams: { 'resource://a': {} } })
    const [{ method, url, headers, body } = assert.fail('nobody asked')] = asked
    assert.deepEqual([method, url], ['POST', '/oauth/2/token'])
    assert.equal(headers['content-type'], 'application/x-www-form-urlencoded')
    assert.equal(headers['content-length'], String(body.length))
    assert.equal(headers.accept, 'application/json')
    assert.equal(headers['user-agent'], 'caracal-gateway')
    assert.equal(headers['x-request-id'], 'r-1')
    assert.equal(headers['x-caracal-gateway-timestamp'], '1790000000')
    const nonce = String(headers['x-caracal-gateway-request'])
    assert.match(nonce, /^[0-9a-f]{64}$/)
    const digest = createHash('sha256').update(body).digest('hex')
    const signature = createHmac('sha256', Buffer.from(KEY, 'hex'))
      .update(`1790000000\n${nonce}\nPOST\n/oauth/2/token\n${digest}`)
      .digest('hex')
    assert.equal(headers['x-caracal-gateway-signature'], signature)
    assert.equal(new URLSearchParams(body).get('gateway_request_id'), 'r-1')
    assert.deepEqual(results, ['success'])
  })

  it('has a nonce of its own, and no memory of the one before', async t => {
    const { app, asked } = await started(t, grants, { hmacKey: KEY })
    await app.sts.exchange(REQUEST)
    await app.sts.exchange(REQUEST)
    assert.equal(asked.length, 2)
    assert.equal(new Set(asked.map(({ headers }) => headers['x-caracal-gateway-request'])).size, 2)
  })

  it('is unsigned without a key', async t => {
    const { app, asked } = await started(t)
    await app.sts.exchange(REQUEST)
    const names = Object.keys(asked[0]?.headers ?? {})
    assert.deepEqual(
      names.filter(name => name.startsWith('x-caracal')),
      [],
    )
  })

  it('signs the path that it asks, a prefix of STS_URL included', async t => {
    const other = await started(t)
    const app = await plugin(t, {
      url: `http://127.0.0.1:${other.port}/sts/`,
      timeout: 5_000,
      hmacKey: KEY,
    })
    await app.sts.exchange(REQUEST)
    const [{ url, headers, body } = assert.fail('nobody asked')] = other.asked
    assert.equal(url, '/sts/oauth/2/token')
    const digest = createHash('sha256').update(body).digest('hex')
    const timestamp = String(headers['x-caracal-gateway-timestamp'])
    const nonce = String(headers['x-caracal-gateway-request'])
    const signature = createHmac('sha256', Buffer.from(KEY, 'hex'))
      .update(`${timestamp}\n${nonce}\nPOST\n/sts/oauth/2/token\n${digest}`)
      .digest('hex')
    assert.equal(headers['x-caracal-gateway-signature'], signature)
  })

  it('takes an answer of 16 KiB, with a charset', async t => {
    const body = size(16 * 1024)
    assert.equal(body.length, 16 * 1024)
    const { app } = await started(
      t,
      json(200, body, { 'content-type': 'Application/JSON; charset=utf-8' }),
    )
    assert.equal((await app.sts.exchange(REQUEST)).accessToken, 'a')
  })

  for (const [title, answer] of [
    ['over 16 KiB', json(200, size(16 * 1024 + 1))],
    ['without a token', json(200, '{"upstreams":{}}')],
    ['that is no JSON', json(200, '<html>')],
    ['that is empty', json(200, '')],
    ['of another type', json(200, GRANTED, { 'content-type': 'text/html' })],
    [
      'of a type that only begins alike',
      json(200, GRANTED, { 'content-type': 'application/jsonx' }),
    ],
    ['of another success', json(201, GRANTED)],
    ['that redirects', json(307, GRANTED, { location: '/oauth/2/token2' })],
    ['beyond the usual statuses', json(700, GRANTED)],
  ] as [string, Answer][]) {
    it(`has no use for an answer ${title}, and asks once`, async t => {
      const { app, asked, results } = await started(t, answer)
      assert.deepEqual(facts(await refusal(app)), [
        'sts_response_invalid',
        502,
        'sts_unavailable',
        'sts response invalid',
      ])
      assert.equal(asked.length, 1)
      assert.deepEqual(results, ['unavailable'])
    })
  }

  it('passes a refusal on: status, error, description, members, two headers', async t => {
    const body = JSON.stringify({
      error: 'approval_required',
      error_description: 'ask first',
      approval_id: 'a-1',
      requestId: 'sts-1',
    })
    const headers = {
      'retry-after': '9',
      'www-authenticate': 'Bearer realm="sts"',
      'set-cookie': 'a=1',
      'x-request-id': 'sts-1',
    }
    const { app, asked, results } = await started(t, json(403, body, headers))
    const denial = await refusal(app)
    assert.deepEqual(facts(denial), ['sts_refused', 403, 'approval_required', 'ask first'])
    assert.deepEqual(denial.members, { approval_id: 'a-1', requestId: 'sts-1' })
    assert.deepEqual(denial.headers, {
      'retry-after': '9',
      'www-authenticate': 'Bearer realm="sts"',
    })
    assert.equal(asked.length, 1)
    assert.deepEqual(results, ['refused'])
  })

  for (const [title, answer, status, error, description] of [
    ['without JSON', json(400, 'no'), 400, 'sts_unavailable', 'Bad Request'],
    [
      'with JSON that names no error',
      json(503, '{"ok":false}'),
      503,
      'sts_unavailable',
      'Service Unavailable',
    ],
    [
      'with an error of another type',
      json(401, '{"error":{"a":1}}'),
      401,
      'sts_unavailable',
      'Unauthorized',
    ],
    [
      'over 16 KiB',
      json(400, JSON.stringify({ error: 'e', x: 'y'.repeat(17_000) })),
      400,
      'sts_unavailable',
      'Bad Request',
    ],
    [
      'without a description',
      json(429, '{"error":"slow_down"}'),
      429,
      'slow_down',
      'Too Many Requests',
    ],
    ['of a status without a name', json(599, ''), 599, 'sts_unavailable', 'status 599'],
    [
      'of another type',
      json(400, '{"error":"e"}', { 'content-type': 'text/plain' }),
      400,
      'e',
      'Bad Request',
    ],
  ] as [string, Answer, number, string, string][]) {
    it(`passes a refusal on ${title}`, async t => {
      const { app } = await started(t, answer)
      assert.deepEqual(facts(await refusal(app)), ['sts_refused', status, error, description])
    })
  }

  it('does not wait for an STS that says nothing', async t => {
    const { app, asked, results } = await started(t, () => undefined, { timeout: 100 })
    assert.deepEqual(facts(await refusal(app)), [
      'sts_timeout',
      504,
      'sts_unavailable',
      'sts timeout',
    ])
    assert.equal(asked.length, 1)
    assert.deepEqual(results, ['unavailable'])
  })

  it('does not wait for an answer that drips', async t => {
    const { app } = await started(
      t,
      (_request, response) => {
        response.writeHead(200, { 'content-type': 'application/json' })
        const drip = setInterval(() => response.write(' '), 10)
        response.on('close', () => clearInterval(drip))
      },
      { timeout: 150 },
    )
    assert.equal((await refusal(app)).check, 'sts_timeout')
  })

  for (const [title, answer] of [
    ['hangs up', request => request.socket.destroy()],
    [
      'hangs up within its answer',
      (_request, response) =>
        void response
          .writeHead(200, { 'content-length': '100' })
          .end('{', () => response.destroy()),
    ],
  ] as [string, Answer][]) {
    it(`names an STS that ${title}, and does not ask again`, async t => {
      const { app, asked } = await started(t, answer)
      assert.deepEqual(facts(await refusal(app)), [
        'sts_unreachable',
        502,
        'sts_unavailable',
        'sts unavailable',
      ])
      assert.equal(asked.length, 1)
    })
  }

  it('names an STS that is not there, or speaks another language', async t => {
    const app = await plugin(t, { url: `http://127.0.0.1:${await freePort()}`, timeout: 5_000 })
    assert.equal((await refusal(app)).check, 'sts_unreachable')
    const server = createTcpServer(socket =>
      socket.on('error', () => undefined).end('SSH-2.0-x\r\n'),
    )
    t.after(() => server.close())
    const other = await plugin(t, {
      url: `http://127.0.0.1:${await listen(server)}`,
      timeout: 5_000,
    })
    assert.equal((await refusal(other)).check, 'sts_unreachable')
  })

  it('is for an STS whose certificate holds, and for no other', async t => {
    const { key, cert } = createCertificate(['127.0.0.1'])
    const server = createTlsServer({ key, cert }, (_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' }).end(GRANTED)
    })
    server.on('tlsClientError', () => undefined)
    t.after(() => server.close().closeAllConnections())
    const url = `https://127.0.0.1:${await listen(server)}`
    const strangers = createCertificate(['127.0.0.1']).cert
    assert.equal((await refusal(await plugin(t, { url, timeout: 5_000 }))).check, 'sts_unreachable')
    assert.equal(
      (await refusal(await plugin(t, { url, timeout: 5_000, ca: strangers }))).check,
      'sts_unreachable',
    )
    const trusting = await plugin(t, { url, timeout: 5_000, ca: cert })
    assert.equal((await trusting.sts.exchange(REQUEST)).accessToken, 'access')
  })

  it('ends with the gateway', async t => {
    const arrived = Promise.withResolvers<void>()
    const { app } = await started(t, () => arrived.resolve())
    const pending = refusal(app)
    await arrived.promise
    await app.close()
    assert.equal((await pending).check, 'sts_unreachable')
  })
})

describe('the circuit', () => {
  const down = json(503, 'down')

  /** An STS that is down, and the circuit that three failures have opened. */
  async function opened(t: TestContext) {
    const clock = { now: 1_000_000 }
    const all = await started(t, down, { clock: () => clock.now })
    for (let i = 0; i < 3; i++) assert.equal((await refusal(all.app)).check, 'sts_refused')
    assert.equal(all.app.sts.circuitOpen, true)
    assert.equal(all.opened(), 1)
    return { ...all, clock }
  }

  it('opens at three failures, and then asks nobody', async t => {
    const { app, asked, clock } = await opened(t)
    assert.equal(asked.length, 3)
    const denial = await refusal(app)
    assert.deepEqual(facts(denial), ['sts_circuit_open', 503, 'sts_unavailable', 'sts unavailable'])
    assert.deepEqual(denial.headers, { 'retry-after': '10' })
    clock.now += 9_001
    assert.deepEqual(app.sts.refusal()?.headers, { 'retry-after': '1' })
    assert.equal(asked.length, 3)
  })

  it('lets one probe through after 10 s, and fails fast beside it', async t => {
    const { app, asked, clock, state } = await opened(t)
    clock.now += 10_000
    const reached = Promise.withResolvers<ServerResponse>()
    state.answer = (_request, response) => reached.resolve(response)
    assert.equal(app.sts.refusal(), undefined)
    const probe = app.sts.exchange(REQUEST)
    const response = await reached.promise
    assert.equal(app.sts.refusal()?.check, 'sts_circuit_open')
    assert.equal((await refusal(app)).check, 'sts_circuit_open')
    assert.equal(asked.length, 4)
    json(200, GRANTED)(response.req, response, '')
    assert.equal((await probe).accessToken, 'access')
    assert.equal(app.sts.circuitOpen, false)
    assert.equal(app.sts.refusal(), undefined)
  })

  it('stays open when the probe fails, and frees its place when the STS refuses it', async t => {
    const { app, clock, state, opened: times } = await opened(t)
    clock.now += 10_000
    assert.equal((await refusal(app)).check, 'sts_refused')
    assert.equal(times(), 2)
    clock.now += 9_999
    assert.equal((await refusal(app)).check, 'sts_circuit_open')
    clock.now += 1
    state.answer = json(403, '{"error":"access_denied"}')
    assert.equal((await refusal(app)).error, 'access_denied')
    state.answer = grants
    assert.equal((await app.sts.exchange(REQUEST)).accessToken, 'access')
  })

  it('takes an exchange that nobody waits for any more for none: it ends, and frees the probe’s place', async t => {
    const { app, clock, state, results, opened: times } = await opened(t)
    const before = results.length
    clock.now += 10_000
    const reached = Promise.withResolvers<ServerResponse>()
    state.answer = (_request, response) => reached.resolve(response)
    let cancel: Cancel = () => assert.fail('nothing to cancel')
    const probe = app.sts.exchange(REQUEST, given => {
      cancel = given
    })
    const response = await reached.promise
    const closed = once(response, 'close')
    const reason = new Denial('revoked')
    cancel(reason)
    await assert.rejects(probe, error => error === reason)
    await closed
    assert.deepEqual([results.length, times(), app.sts.circuitOpen], [before, 1, true])
    state.answer = grants
    assert.equal((await app.sts.exchange(REQUEST)).accessToken, 'access')
  })

  for (const [title, answer, counts] of [
    ['a 5xx without JSON', json(500, 'oops'), true],
    ['a 5xx that says sts_unavailable', json(502, '{"error":"sts_unavailable"}'), true],
    ['an unusable answer', json(200, '{}'), true],
    ['a hang-up', request => request.socket.destroy(), true],
    ['a 4xx without JSON', json(400, 'oops'), false],
    ['a 4xx that says sts_unavailable', json(429, '{"error":"sts_unavailable"}'), false],
    ['a 5xx of another name', json(500, '{"error":"server_error"}'), false],
    ['a refusal of policy', json(403, '{"error":"access_denied"}'), false],
  ] as [string, Answer, boolean][]) {
    it(`${counts ? 'counts' : 'does not count'} ${title}`, async t => {
      const { app } = await started(t, answer)
      for (let i = 0; i < 3; i++) assert.notEqual((await refusal(app)).check, 'sts_circuit_open')
      assert.equal(app.sts.circuitOpen, counts)
    })
  }
})

describe('the health of the STS', () => {
  for (const [status, healthy] of [
    [200, true],
    [204, true],
    [301, false],
    [404, false],
    [503, false],
  ] as const) {
    it(`is ${healthy} for ${status}`, async t => {
      const { app, asked } = await started(
        t,
        (_request, response) => void response.writeHead(status).end(),
      )
      assert.equal(await app.sts.healthy(5_000), healthy)
      assert.deepEqual([asked[0]?.method, asked[0]?.url], ['GET', '/health'])
    })
  }

  it('is false when it says nothing in time, and when it is not there', async t => {
    const { app } = await started(t, () => undefined)
    assert.equal(await app.sts.healthy(50), false)
    const gone = await plugin(t, {
      url: `http://127.0.0.1:${await freePort()}/sts`,
      timeout: 5_000,
    })
    assert.equal(await gone.sts.healthy(5_000), false)
  })

  it('says nothing to the circuit', async t => {
    const { app } = await started(t, json(503, 'down'))
    for (let i = 0; i < 5; i++) await app.sts.healthy(5_000)
    assert.equal(app.sts.circuitOpen, false)
  })
})
