// Holds the exchange to contract section 4: its exact form, once per request, and a circuit that spares a failing STS.
import assert from 'node:assert/strict'
import { createHash, createHmac, randomUUID } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { before, describe, test } from 'node:test'
import { Client } from 'undici'
import { createDevSts, type ExchangeOverride } from '../../dev/sts.ts'
import { createCertificate } from '../certificate.ts'
import { until } from '../until.ts'
import { type MovableClock, movableClock } from './clock.ts'
import {
  ALONE,
  type Answer,
  call,
  KEYS,
  listen,
  RESOURCE,
  type Stack,
  startGateway,
  startStack,
  ZONE,
} from './harness.ts'
import { assertRefusal, metricsOf, type Refusal, risen } from './refusal.ts'
import { suiteCleanup, temporaryDirectory } from './support.ts'

const STS_TIMEOUT = 400

const INVALID: Refusal = {
  status: 502,
  error: 'sts_unavailable',
  description: 'sts response invalid',
  spent: true,
}
const UNREACHABLE: Refusal = { ...INVALID, description: 'sts unavailable' }
const TIMEOUT: Refusal = { ...INVALID, status: 504, description: 'sts timeout' }
const OPEN: Refusal = { status: 503, error: 'sts_unavailable', description: 'sts unavailable' }

/** The signature that contract section 4 describes. */
function signatureOf(timestamp: string, nonce: string, path: string, body: string): string {
  const digest = createHash('sha256').update(body).digest('hex')
  return createHmac('sha256', Buffer.from(KEYS.sts, 'hex'))
    .update(`${timestamp}\n${nonce}\nPOST\n${path}\n${digest}`)
    .digest('hex')
}

const namesOf = (rawHeaders: readonly string[]) =>
  rawHeaders.filter((_, index) => index % 2 === 0).map(name => name.toLowerCase())

describe('the gateway', () => {
  const suite = suiteCleanup()
  let clock: MovableClock
  let stack: Stack

  before(async () => {
    clock = await movableClock(suite)
    stack = await startStack(suite, {
      env: {
        ...ALONE,
        ...clock.env,
        STS_TIMEOUT: `${STS_TIMEOUT}ms`,
        CARACAL_ADMIN_TOKEN: 'admin-token',
        MAX_REQUEST_BYTES: '1024',
      },
    })
    assert.equal((await stack.call()).status, 200)
  })

  /** Calls once while the STS answers like this. */
  async function answered(override: ExchangeOverride, options = {}): Promise<Answer> {
    stack.sts.respond = () => override
    try {
      return await stack.call(undefined, options)
    } finally {
      stack.sts.respond = undefined
    }
  }

  const directive = () => ({ url: stack.upstream.url, auth_mode: 'none' })
  const exchanges = () => stack.sts.exchanges.length
  const lastExchange = () => stack.sts.exchanges.at(-1) ?? assert.fail('no exchange')

  test('sends exactly what the STS expects, signed', async () => {
    const token = stack.mint({ client_id: 'client:7', scope: 'a b' })
    const id = 'request-7'
    const answer = await stack.call('/v1/in%20voices/a%2Fb/%C3%BC?secret=1&x=%20', {
      method: 'DELETE',
      token,
      headers: { 'x-request-id': id, accept: 'text/plain', 'user-agent': 'curl', cookie: 'a=b' },
    })
    assert.equal(answer.status, 200)
    const { method, path, headers, rawHeaders, body, fields } = lastExchange()
    assert.deepEqual([method, path], ['POST', '/oauth/2/token'])
    assert.deepEqual(fields, {
      grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
      zone_id: ZONE,
      application_id: 'client:7',
      subject_token: token,
      subject_token_type: 'urn:ietf:params:oauth:token-type:access_token',
      resource: RESOURCE,
      request_method: 'DELETE',
      request_path: '/v1/in voices/a/b/ü',
      gateway_request_id: id,
    })
    assert.equal(body.includes('secret'), false)
    assert.deepEqual(
      new Set(namesOf(rawHeaders)),
      new Set([
        'accept',
        'connection',
        'content-length',
        'content-type',
        'host',
        'user-agent',
        'x-caracal-gateway-request',
        'x-caracal-gateway-signature',
        'x-caracal-gateway-timestamp',
        'x-request-id',
      ]),
    )
    assert.equal(new Set(namesOf(rawHeaders)).size, namesOf(rawHeaders).length)
    assert.equal(headers['content-type'], 'application/x-www-form-urlencoded')
    assert.equal(headers.accept, 'application/json')
    assert.equal(headers['user-agent'], 'caracal-gateway')
    assert.equal(headers['x-request-id'], id)
    const timestamp = String(headers['x-caracal-gateway-timestamp'])
    const nonce = String(headers['x-caracal-gateway-request'])
    assert.ok(Math.abs(Number(timestamp) - Date.now() / 1000) < 5, timestamp)
    assert.match(nonce, /^[0-9a-f]{64}$/)
    assert.equal(
      headers['x-caracal-gateway-signature'],
      signatureOf(timestamp, nonce, '/oauth/2/token', body),
    )
  })

  test('exchanges once for every request, each with a nonce of its own', async () => {
    const exchanged = exchanges()
    const answers = await Promise.all(Array.from({ length: 30 }, () => stack.call()))
    for (const { status } of answers) assert.equal(status, 200)
    const made = stack.sts.exchanges.slice(exchanged)
    assert.equal(made.length, 30)
    const nonces = new Set(made.map(({ headers }) => headers['x-caracal-gateway-request']))
    assert.equal(nonces.size, 30)
    const ids = new Set(made.map(({ fields }) => fields['gateway_request_id']))
    assert.deepEqual(ids, new Set(answers.map(({ requestId }) => requestId)))
  })

  test('signs nothing in dev without a key', async t => {
    const { GATEWAY_STS_HMAC_KEY: _, ...env } = stack.env
    const gateway = await startGateway(t, { ...env, CARACAL_MODE: 'dev' })
    const answer = await call(gateway.url, '/', { token: stack.mint() })
    assert.equal(answer.json()['error'], 'invalid_client')
    const names = namesOf(lastExchange().rawHeaders)
    assert.deepEqual(
      names.filter(name => name.startsWith('x-caracal')),
      [],
    )
  })

  describe('passes a refusal on', () => {
    interface Case {
      readonly name: string
      readonly override: ExchangeOverride
      readonly refusal: Omit<Refusal, 'spent'>
    }
    const text = (status: number, description: string, body: string | object): Case => ({
      name: `${status} ${typeof body === 'string' ? body : JSON.stringify(body)}`,
      override: { status, body },
      refusal: { status, error: 'sts_unavailable', description },
    })
    const cases: readonly Case[] = [
      text(400, 'Bad Request', ''),
      text(401, 'Unauthorized', 'no'),
      text(403, 'Forbidden', '<html>'),
      text(404, 'Not Found', '[]'),
      text(409, 'Conflict', 'null'),
      text(422, 'Unprocessable Entity', '"invalid_grant"'),
      text(429, 'Too Many Requests', {}),
      text(500, 'Internal Server Error', { message: 'panic' }),
      text(502, 'Bad Gateway', { error: 7 }),
      text(503, 'Service Unavailable', { error: '' }),
      text(599, 'status 599', { error: null }),
      {
        name: 'with further members, and what to wait for',
        override: {
          status: 429,
          headers: { 'retry-after': '120', 'set-cookie': 'a=b', 'x-other': '1' },
          body: {
            error: 'rate_limited',
            error_description: 'slow "down"',
            tier: 'free',
            state: null,
            details: { deep: [1, { two: true }] },
          },
        },
        refusal: {
          status: 429,
          error: 'rate_limited',
          description: 'slow "down"',
          members: { tier: 'free', state: null, details: { deep: [1, { two: true }] } },
          headers: { 'retry-after': '120' },
        },
      },
      {
        name: 'with its challenge',
        override: {
          status: 401,
          headers: { 'www-authenticate': 'DPoP algs="ES256"' },
          body: { error: 'use_dpop_nonce', error_description: 'again' },
        },
        refusal: {
          status: 401,
          error: 'use_dpop_nonce',
          description: 'again',
          headers: { 'www-authenticate': 'DPoP algs="ES256"' },
        },
      },
      {
        name: 'without a description',
        override: {
          status: 403,
          body: { error: 'access_denied', approval_url: 'https://a.example' },
        },
        refusal: {
          status: 403,
          error: 'access_denied',
          description: 'Forbidden',
          members: { approval_url: 'https://a.example' },
        },
      },
      {
        name: 'with a description that is no quoted-string',
        override: {
          status: 403,
          body: { error: 'access_denied', error_description: 'a "b" \\ \r\nx: y \u00fc' },
        },
        refusal: {
          status: 403,
          error: 'access_denied',
          description: 'a "b" \\ \r\nx: y \u00fc',
          headers: {
            'www-authenticate':
              'Bearer realm="caracal", error="insufficient_scope", error_description="a ?b? ? ??x: y ?"',
          },
        },
      },
      {
        name: 'whatever its content type',
        override: {
          status: 400,
          headers: { 'content-type': 'text/plain' },
          body: '{"error":"invalid_grant","error_description":"no"}',
        },
        refusal: { status: 400, error: 'invalid_grant', description: 'no' },
      },
      {
        name: 'that would speak for the gateway',
        override: {
          status: 403,
          body: { error: 'access_denied', error_description: 'no', dispatched: 'x', requestId: 7 },
        },
        refusal: { status: 403, error: 'access_denied', description: 'no' },
      },
      {
        name: 'with names of every object',
        override: {
          status: 403,
          body: '{"error":"access_denied","error_description":"no","__proto__":{"a":1},"toJSON":1}',
        },
        refusal: {
          status: 403,
          error: 'access_denied',
          description: 'no',
          members: JSON.parse('{"__proto__":{"a":1},"toJSON":1}'),
        },
      },
    ]
    for (const { name, override, refusal } of cases) {
      test(name, async () => {
        const [exchanged, arrived] = [exchanges(), stack.upstream.arrivals.length]
        assertRefusal(await answered(override), { ...refusal, spent: true })
        assert.equal(exchanges(), exchanged + 1)
        assert.equal(stack.upstream.arrivals.length, arrived)
        assert.equal((await stack.call()).status, 200)
      })
    }
  })

  describe('does not use, and does not repeat', () => {
    const good = { access_token: 'token', upstreams: {} }
    const elsewhere = () => ({ location: `${stack.sts.url}/oauth/2/token` })
    const cases: readonly (readonly [
      name: string,
      override: () => ExchangeOverride,
      refusal?: Refusal,
    ])[] = [
      ...[301, 302, 303, 307, 308].map(
        status => [`a redirect, ${status}`, () => ({ status, headers: elsewhere() })] as const,
      ),
      ['status 201', () => ({ status: 201 })],
      ['status 204', () => ({ status: 204, body: '' })],
      ['status 304', () => ({ status: 304, body: '' })],
      ['an empty body', () => ({ body: '' })],
      ['no JSON', () => ({ body: 'access_token=x' })],
      ['a list', () => ({ body: [good] })],
      ['null', () => ({ body: 'null' })],
      ['another content type', () => ({ headers: { 'content-type': 'text/html' } })],
      [
        'a content type that begins like it',
        () => ({ headers: { 'content-type': 'application/jsonp' } }),
      ],
      ['no access_token', () => ({ answer: { access_token: undefined } })],
      ['an empty access_token', () => ({ answer: { access_token: '' } })],
      ['an access_token that is no text', () => ({ answer: { access_token: 7 } })],
      ['more than 16 KiB', () => ({ answer: { padding: 'x'.repeat(16 * 1024) } })],
      ['a connection that breaks', () => ({ destroy: 'before' }), UNREACHABLE],
      ['an answer that breaks off', () => ({ destroy: 'midway' }), UNREACHABLE],
      ['an answer that is late', () => ({ delay: STS_TIMEOUT * 2 }), TIMEOUT],
    ]
    for (const [name, override, refusal = INVALID] of cases) {
      test(name, async () => {
        const [exchanged, arrived] = [exchanges(), stack.upstream.arrivals.length]
        const startedAt = performance.now()
        const answer = await answered(override())
        assertRefusal(answer, refusal)
        assert.ok(performance.now() - startedAt < STS_TIMEOUT + 2_000)
        // A success between them keeps the circuit closed.
        assert.equal((await stack.call()).status, 200)
        assert.equal(exchanges(), exchanged + 2, 'asked once')
        assert.equal(stack.upstream.arrivals.length, arrived + 1)
        const [event, ...more] = await stack.eventsOf(answer.requestId)
        assert.equal(event?.event_type, 'gateway_request_denied')
        assert.deepEqual(more, [])
      })
    }

    test('but uses an answer of 16 KiB, and any spelling of its type', async () => {
      const whole = { access_token: 't', upstreams: { [RESOURCE]: directive() }, padding: '' }
      whole.padding = 'x'.repeat(16 * 1024 - JSON.stringify(whole).length)
      const body = JSON.stringify(whole)
      assert.equal(body.length, 16 * 1024)
      for (const type of ['application/json', 'Application/JSON; charset=utf-8']) {
        const answer = await answered({ body, headers: { 'content-type': type } })
        assert.equal(answer.status, 200, answer.text)
      }
      assertRefusal(await answered({ body: `${body} ` }), INVALID)
      assert.equal((await stack.call()).status, 200)
    })
  })

  describe('keeps a circuit', () => {
    const failures: readonly (readonly [ExchangeOverride, Refusal])[] = [
      [
        { status: 500, body: 'panic' },
        { ...UNREACHABLE, status: 500, description: 'Internal Server Error' },
      ],
      [{ destroy: 'before' }, UNREACHABLE],
      [{ body: 'no JSON' }, INVALID],
    ]
    const policy: readonly ExchangeOverride[] = [
      { status: 403, body: { error: 'access_denied' } },
      { status: 400, body: '' },
      { status: 429, body: 'slow down' },
      { status: 401, body: { error: 'sts_unavailable' } },
      { status: 503, body: { error: 'approval_pending' } },
    ]

    async function fail(): Promise<void> {
      for (const [override, refusal] of failures) {
        assertRefusal(await answered(override), refusal)
      }
    }
    /** Ten seconds later. */
    async function later(milliseconds = 10_000): Promise<void> {
      await clock.advance(milliseconds)
      await call(stack.gateway.url, '/internal/revocations/reload', {
        method: 'POST',
        token: 'admin-token',
        resource: null,
      })
    }
    async function assertOpen(waitAtMost = 10): Promise<void> {
      const [exchanged, jti] = [exchanges(), randomUUID()]
      const answer = await stack.call('/', { token: stack.mint({ jti }) })
      const wait = Number(answer.headers['retry-after'])
      assert.ok(wait >= 1 && wait <= waitAtMost, `${wait}`)
      assertRefusal(answer, { ...OPEN, headers: { 'retry-after': `${wait}` } })
      assert.equal(exchanges(), exchanged)
      assert.equal(await stack.redis.command('EXISTS', `seen:jti:${jti}`), 0)
    }
    /** Holds what reaches the STS until it is let go. */
    function hold(override: ExchangeOverride = {}) {
      const exchanged = exchanges()
      let letGo = () => {}
      const delay = new Promise<void>(resolve => {
        letGo = resolve
      })
      stack.sts.respond = () => ({ ...override, delay })
      return {
        arrived: () => until(() => exchanges() > exchanged),
        count: () => exchanges() - exchanged,
        letGo() {
          stack.sts.respond = undefined
          letGo()
        },
      }
    }

    test('that opens after three failures without a success between them, and not by refusals', async () => {
      for (const [override] of failures.slice(0, 2)) await answered(override)
      assert.equal((await stack.call()).status, 200)
      for (const [override] of failures.slice(0, 2)) await answered(override)
      assert.equal((await stack.call()).status, 200, 'a success takes them all back')
      for (const override of [...policy, ...policy]) {
        assert.notEqual((await answered(override)).json()['error_description'], OPEN.description)
      }
      assert.equal((await stack.call()).status, 200)

      const counted = await metricsOf(stack.gateway.url)
      for (const [override, refusal] of failures) {
        assertRefusal(await answered(override), refusal)
        if (override !== failures[2]?.[0]) await answered(policy[0] ?? {})
      }
      assert.equal(await stack.metric('sts_circuit_open'), 1, 'refusals take nothing back')
      const arrived = stack.upstream.arrivals.length
      await assertOpen()
      const rise = risen(counted, await metricsOf(stack.gateway.url))
      assert.equal(rise['sts_circuit_opened_total'], 1)
      assert.equal(rise['sts_circuit_fast_fail_total'], 1)
      assert.equal(rise['denials_total{check="sts_circuit_open"}'], 1)
      assert.equal(rise['sts_exchange_errors_total'], 5)
      assert.equal(stack.upstream.arrivals.length, arrived)
    })

    test('that leaves the mandate usable, and evidence', async () => {
      const token = stack.mint()
      const refused = await stack.call('/', { token })
      assert.equal(refused.status, 503)
      const [event] = await stack.eventsOf(refused.requestId)
      assert.equal(event?.event_type, 'gateway_request_denied')
      assert.equal(event?.evaluation_status, 'sts_circuit_open')
      const earlier = await stack.call('/../x')
      assert.equal(earlier.status, 400, 'what the table has ahead of it is said first')
      await stack.redis.command('SET', 'seen:jti:spent', 'x', 'PX', 60_000)
      const spent = stack.mint({ jti: 'spent' })
      const behind = await stack.call('/', {
        method: 'POST',
        token: spent,
        body: Buffer.alloc(2_000),
      })
      assert.equal(behind.json()['error_description'], OPEN.description)
      await later()
      assert.equal((await stack.call('/', { token })).status, 200)
      assert.equal(await stack.metric('sts_circuit_open'), 0)
      assert.equal((await stack.call()).status, 200)
    })

    test('that sends one probe after ten seconds, and none beside it', async () => {
      await fail()
      await later(9_000)
      await assertOpen(1)
      await later(1_000)
      const counted = await metricsOf(stack.gateway.url)
      const held = hold()
      const jtis = Array.from({ length: 10 }, () => randomUUID())
      const calls = jtis.map(jti => stack.call('/', { token: stack.mint({ jti }) }))
      await held.arrived()
      for (let i = 0; i < 5; i++) await assertOpen(1)
      assert.equal(held.count(), 1)
      held.letGo()
      const answers = await Promise.all(calls)
      assert.equal(answers.filter(({ status }) => status === 200).length, 1)
      for (const [index, answer] of answers.entries()) {
        if (answer.status === 200) continue
        // Some find the place taken only when their mandate is spent: they must not be told to try again.
        const spent = (await stack.redis.command('EXISTS', `seen:jti:${jtis[index]}`)) === 1
        assertRefusal(answer, { ...OPEN, spent })
      }
      const rise = risen(counted, await metricsOf(stack.gateway.url))
      assert.equal(rise['sts_circuit_fast_fail_total'], 14, 'wherever the place was found taken')
      const after = await Promise.all(Array.from({ length: 10 }, () => stack.call()))
      for (const { status } of after) assert.equal(status, 200)
    })

    test('that opens again when the probe fails', async () => {
      await fail()
      await later()
      assertRefusal(await answered({ destroy: 'before' }), UNREACHABLE)
      await assertOpen()
      await later(9_000)
      await assertOpen(1)
      await later(1_000)
      assert.equal((await stack.call()).status, 200)
    })

    test("that a probe's refusal leaves half-open, its place free", async () => {
      await fail()
      await later()
      const [first = {}, second = {}] = policy
      assert.equal((await answered(first)).status, 403)
      assert.equal((await answered(second)).status, 400)
      assert.equal(await stack.metric('sts_circuit_open'), 1)
      assert.equal((await stack.call()).status, 200)
      assert.equal(await stack.metric('sts_circuit_open'), 0)
    })

    test("whose probe's place is freed when its caller goes", async () => {
      for (const override of [{}, { status: 403, body: { error: 'access_denied' } }]) {
        await fail()
        await later()
        const held = hold(override)
        const client = new Client(stack.gateway.url)
        const gone = client.request({
          path: '/',
          method: 'GET',
          headers: { authorization: `Bearer ${stack.mint()}`, 'x-caracal-resource': RESOURCE },
        })
        await held.arrived()
        await assertOpen(1)
        await client.destroy()
        await assert.rejects(gone)
        await assertOpen(1)
        held.letGo()
        await until(async () => (await stack.call()).status === 200)
      }
    })

    test('that counts an STS that is late for a caller that has gone, with evidence', async () => {
      const held = hold({})
      const id = randomUUID()
      const client = new Client(stack.gateway.url)
      const gone = client.request({
        path: '/',
        method: 'GET',
        headers: {
          authorization: `Bearer ${stack.mint()}`,
          'x-caracal-resource': RESOURCE,
          'x-request-id': id,
        },
      })
      await held.arrived()
      await client.destroy()
      await assert.rejects(gone)
      const [event, ...more] = await stack.eventsOf(id)
      assert.deepEqual(
        [event?.event_type, event?.evaluation_status],
        ['gateway_request_denied', 'sts_timeout'],
      )
      assert.deepEqual(more, [])
      held.letGo()
      assert.equal((await stack.call()).status, 200)
    })

    test('that a late answer of a time before does not shut', async () => {
      const held = hold({ status: 500, body: '' })
      const slow = stack.call()
      await held.arrived()
      await fail()
      held.letGo()
      assert.equal((await slow).status, 500)
      await later()
      assert.equal((await stack.call()).status, 200)
    })
  })

  test('answers for an STS that nobody listens for', async () => {
    const { port } = new URL(stack.sts.url)
    await stack.sts.close()
    const answer = await stack.call('/', { token: stack.mint() })
    await stack.sts.listen(Number(port))
    assertRefusal(answer, UNREACHABLE)
    assert.equal((await stack.call()).status, 200)
  })

  test('trusts the STS by its certificate, and tells no other anything', async t => {
    const file = `${await temporaryDirectory(t)}/sts.pem`
    const certificate = createCertificate()
    await writeFile(file, certificate.cert)
    const options = { zones: [ZONE], resources: { [RESOURCE]: directive() }, record: true }
    const trusted = createDevSts({ ...options, hmacKey: KEYS.sts, tls: certificate })
    const impostor = createDevSts({ ...options, tls: createCertificate() })
    const url = await trusted.listen(0)
    t.after(async () => {
      await Promise.all([trusted.close(), impostor.close()])
    })
    const gateway = await startGateway(t, { ...stack.env, STS_URL: url, STS_CA_FILE: file })
    const ask = () =>
      call(gateway.url, '/', { token: trusted.mint({ zone_id: ZONE, target: [RESOURCE] }) })
    assert.equal((await ask()).status, 200)
    await trusted.close()
    await impostor.listen(Number(new URL(url).port))
    const arrived = stack.upstream.arrivals.length
    assertRefusal(await ask(), UNREACHABLE)
    assert.equal(impostor.exchanges.length, 0)
    assert.equal(stack.upstream.arrivals.length, arrived)
  })

  test('keeps the path of STS_URL in front of every path, and signs it', async t => {
    const seen: {
      method: string
      url: string
      headers: NodeJS.Dict<string | string[]>
      body: string
    }[] = []
    const server = createServer((request, response) => {
      let body = ''
      request.setEncoding('utf8').on('data', text => {
        body += text
      })
      request.on('end', () => {
        const { method = '', url = '', headers } = request
        seen.push({ method, url, headers, body })
        response.setHeader('content-type', 'application/json')
        if (url === '/a/sts/health') response.end('{}')
        else if (url === `/a/sts/.well-known/jwks.json?zone_id=${ZONE}`) {
          response.end(JSON.stringify({ keys: stack.sts.keys(ZONE).map(({ jwk }) => jwk) }))
        } else if (url === '/a/sts/oauth/2/token') {
          const upstreams = { [RESOURCE]: directive() }
          response.end(JSON.stringify({ access_token: 't', upstreams }))
        } else response.writeHead(404).end()
      })
    })
    const port = await listen(server)
    t.after(() => {
      server.closeAllConnections()
      server.close()
    })
    const gateway = await startGateway(t, {
      ...stack.env,
      STS_URL: `http://127.0.0.1:${port}/a/sts/`,
    })
    const answer = await call(gateway.url, '/v1/invoices', { token: stack.mint() })
    assert.equal(answer.status, 200, answer.text)
    const exchange = seen.find(({ method }) => method === 'POST') ?? assert.fail('no exchange')
    assert.equal(exchange.url, '/a/sts/oauth/2/token')
    assert.equal(
      exchange.headers['x-caracal-gateway-signature'],
      signatureOf(
        String(exchange.headers['x-caracal-gateway-timestamp']),
        String(exchange.headers['x-caracal-gateway-request']),
        exchange.url,
        exchange.body,
      ),
    )
    await gateway.stop()
  })
})
