// Plugins of a team, from outside: what they may do with a request, and what they cannot.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { before, describe, it } from 'node:test'
import { until } from '../until.ts'
import { call, head, type Stack, startStack, Wire, ZONE } from './harness.ts'
import { assertRefusal, metricsOf } from './refusal.ts'
import { revoke, suiteCleanup, temporaryDirectory } from './support.ts'

const PROBE = './test/gateway/plugins/probe.ts'
const QUOTA = { status: 429, error: 'quota', description: 'quota used up' }

describe('a plugin', () => {
  const t = suiteCleanup()
  let stack: Stack
  before(async () => {
    stack = await startStack(t, {
      env: {
        GATEWAY_PLUGINS: PROBE,
        READ_TIMEOUT: '4s',
        STS_TIMEOUT: '1s',
        UPSTREAM_TIMEOUT: '2s',
      },
    })
  })
  const probe = (steps: string, options: Parameters<Stack['call']>[1] = {}) =>
    stack.call('/v1/invoices', { ...options, headers: { 'x-probe': steps, ...options.headers } })
  const arrivals = () => stack.upstream.arrivals.length

  it('refuses before anything is spent, and is counted, logged and audited', async () => {
    for (const stage of ['onRequest', 'preValidation']) {
      const before = arrivals()
      const token = stack.mint()
      const answer = await probe(`${stage}:annotate ${stage}:headers ${stage}:deny`, { token })
      assertRefusal(answer, QUOTA)
      assert.equal(answer.headers['x-team'], 'was here')
      assert.equal(arrivals(), before)
      const [event] = await stack.eventsOf(answer.requestId)
      assert.equal(event?.event_type, 'gateway_request_denied')
      assert.equal(event?.evaluation_status, 'team_quota')
      assert.deepEqual(event?.metadata_json['annotations'], { 'team.tier': 'gold' })
      assert.ok(stack.gateway.logs.some(line => line['check'] === 'team_quota'))
      // The mandate is unspent.
      assert.equal((await stack.call('/v1/invoices', { token })).status, 200)
    }
    const series = await metricsOf(stack.gateway.url)
    assert.equal(series.get('caracal_gateway_denials_total{check="team_quota"}'), 2)
  })

  it('refuses after the exchange, which its evidence tells', async () => {
    const before = arrivals()
    const token = stack.mint()
    const answer = await probe('preHandler:annotate preHandler:deny', { token })
    assertRefusal(answer, { ...QUOTA, spent: true })
    assert.equal(arrivals(), before)
    const [event, ...more] = await stack.eventsOf(answer.requestId)
    assert.deepEqual(more, [])
    assert.equal(event?.event_type, 'gateway_resource_request')
    assert.equal(event?.evaluation_status, 'upstream_rejected')
    assert.equal(event?.metadata_json['gateway_status'], 429)
    assert.deepEqual(event?.metadata_json['annotations'], { 'team.tier': 'gold' })
    assert.equal((await stack.call('/', { token })).status, 401)
  })

  it('cannot make an unverified request pass, and runs on none', async () => {
    const before = arrivals()
    const series = await metricsOf(stack.gateway.url)
    const answer = await probe('onRequest:headers onRequest:answer', { token: null })
    assert.equal(answer.status, 401)
    assert.equal(answer.headers['x-team'], undefined)
    const after = await metricsOf(stack.gateway.url)
    const name = 'team_requests_total{stage="onRequest"}'
    assert.equal(after.get(name), series.get(name))
    assert.equal(arrivals(), before)
  })

  it('may answer by itself, and then nothing is dispatched', async () => {
    for (const stage of ['onRequest', 'preValidation', 'preHandler']) {
      const before = arrivals()
      const answer = await probe(`${stage}:answer`)
      assert.deepEqual([answer.status, answer.json()], [203, { by: 'team' }])
      assert.equal(arrivals(), before)
      if (stage !== 'preHandler') continue
      const [event] = await stack.eventsOf(answer.requestId)
      assert.equal(event?.evaluation_status, 'upstream_rejected')
      assert.equal(event?.metadata_json['gateway_status'], 203)
    }
  })

  it('that fails is our own fault, and tells the caller nothing', async () => {
    for (const stage of ['onRequest', 'preHandler', 'onSend']) {
      const answer = await probe(`${stage}:fail`)
      assert.ok(answer.status >= 500, answer.text)
      assert.doesNotMatch(answer.text, /canary/)
    }
  })

  it('is left at once when the mandate is revoked', async () => {
    for (const stage of ['onRequest', 'preHandler']) {
      const session = `waiting-${stage}`
      const before = arrivals()
      const series = await metricsOf(stack.gateway.url)
      const name = 'team_requests_total{stage="onRequest"}'
      const pending = probe(`${stage}:wait`, { token: stack.mint({ sid: session }) })
      await until(async () => {
        const now = await metricsOf(stack.gateway.url)
        return (now.get(name) ?? 0) > (series.get(name) ?? 0)
      })
      const at = performance.now()
      await revoke(stack.redis, { session_id: session })
      const answer = await pending
      assert.equal(answer.json()['error_description'], 'session revoked')
      assert.ok(performance.now() - at < 10_000)
      assert.equal(arrivals(), before)
    }
  })

  it('annotates within bounds', async () => {
    const answer = await probe('onRequest:annotateMuch')
    assert.equal(answer.status, 200)
    const [event] = await stack.eventsOf(answer.requestId)
    const annotations = event?.metadata_json['annotations']
    assert.ok(typeof annotations === 'object' && annotations !== null)
    const entries = new Map(Object.entries(annotations))
    assert.equal(entries.size, 16)
    assert.equal(entries.get('key-1'), 'again')
    assert.match(entries.get('key-0'), /^annotate: key must match/)
  })

  it('sets headers of the upstream request, whatever the client’s Connection names', async () => {
    const answer = await probe('onRequest:set', {
      headers: { connection: 'x-team', 'x-team': 'forged', 'accept-encoding': 'gzip' },
    })
    assert.equal(answer.status, 200, answer.text)
    const { headers } = stack.upstream.arrivals.at(-1) ?? {}
    assert.equal(headers?.['x-team'], 'billing')
    assert.equal(headers?.['accept-encoding'], 'identity')
    const refused = await probe('preHandler:setReserved')
    assert.equal(
      refused.headers['x-refused'],
      'Host,authorization,X-Caracal-Identity,Connection,X-Forwarded-For,not a name,X-Team',
    )
  })

  it('reads the directive without its tokens, and only after the exchange', async () => {
    stack.direct({
      auth_mode: 'provider_oauth',
      provider_token: 'canary-token',
      provider_id: 'p-1',
    })
    try {
      const answer = await probe('preHandler:exchange')
      assert.deepEqual(JSON.parse(String(answer.headers['x-exchange'])), {
        url: `${stack.upstream.url}/`,
        host: `127.0.0.1:${stack.upstream.port}`,
        authMode: 'provider_oauth',
        providerId: 'p-1',
      })
      assert.equal((await probe('onRequest:exchange')).status, 500)
    } finally {
      stack.direct({})
    }
  })

  it('reads the body, and the same bytes are forwarded', async () => {
    const bytes = Buffer.from([0, 255, 1, 2, 13, 10, 128])
    for (const stage of ['onRequest', 'preValidation', 'preHandler']) {
      const answer = await probe(`${stage}:read`, { method: 'POST', body: bytes })
      assert.equal(answer.headers['x-read'], '7 true')
      const arrival = stack.upstream.arrivals.at(-1)
      assert.deepEqual(await arrival?.body, bytes)
      assert.equal(arrival?.headers['content-length'], '7')
    }
    const unawaited = await probe('onRequest:readUnawaited', { method: 'POST', body: bytes })
    assert.equal(unawaited.status, 200)
    assert.deepEqual(await stack.upstream.arrivals.at(-1)?.body, bytes)
    assert.equal((await probe('onRequest:read')).headers['x-read'], '0 true')
  })

  it('reads a body of chunks, and one that waits for 100 Continue', async () => {
    const wire = new Wire(stack.gateway.port)
    wire.send(
      `${head('POST /v1', stack.mint(), 'x-probe: onRequest:read', 'Transfer-Encoding: chunked', 'Expect: 100-continue')}\r\n`,
    )
    await wire.receives(/^HTTP\/1.1 100 Continue\r\n\r\n/)
    wire.send('3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n')
    const text = await wire.receives(/HTTP\/1.1 200 [\s\S]*ok/)
    assert.match(text, /x-read: 5 true/)
    assert.equal(text.match(/100 Continue/g)?.length, 1)
    assert.equal((await stack.upstream.arrivals.at(-1)?.body)?.toString(), 'abcde')
    wire.close()
  })

  it('gets no body over its limit, and the request ends', async () => {
    const before = arrivals()
    const refusal = {
      status: 413,
      error: 'payload_too_large',
      description: 'request body too large',
    }
    const body = 'x'.repeat(1_001)
    assertRefusal(await probe('onRequest:read', { method: 'POST', body }), refusal)
    const wire = new Wire(stack.gateway.port)
    wire.send(
      `${head('POST /v1', stack.mint(), 'x-probe: onRequest:read', 'Transfer-Encoding: chunked')}\r\n3e9\r\n${body}\r\n0\r\n\r\n`,
    )
    await wire.receives(/^HTTP\/1.1 413 [\s\S]*request body too large/)
    wire.close()
    assert.equal(arrivals(), before)
  })

  it('does not wait for a body longer than READ_TIMEOUT', async () => {
    const wire = new Wire(stack.gateway.port)
    const probing = ['x-probe: onRequest:read', 'Content-Length: 10']
    wire.send(`${head('POST /v1', stack.mint(), ...probing)}\r\nabc`)
    await wire.receives(/^HTTP\/1.1 408 [\s\S]*request timeout/, 30_000)
    wire.close()
  })

  it('rewrites bodies of every size, in a hook before or after the answer', async () => {
    const { handler } = stack.upstream
    try {
      for (const size of [3, 30_000]) {
        stack.upstream.handler = (_request, response) => {
          const body = 'ab'.repeat(size)
          response.writeHead(200, {
            'content-type': 'text/plain',
            'content-length': body.length,
            etag: '"1"',
            'content-digest': 'sha-256=:AA==:',
          })
          response.end(body)
        }
        for (const steps of ['onRequest:rewrite', 'preHandler:rewriteTwice', 'onSend:rewrite']) {
          const answer = await probe(steps)
          const expected = steps.includes('Twice') ? '-B' : 'AB'
          assert.equal(answer.text, expected.repeat(size))
          assert.equal(answer.headers['content-type'], 'text/plain')
          for (const name of ['content-length', 'etag', 'content-digest']) {
            assert.equal(answer.headers[name], undefined, name)
          }
          const [event] = await stack.eventsOf(answer.requestId)
          assert.equal(event?.evaluation_status, 'executed')
        }
        const answer = await probe('onRequest:rewrite', { method: 'HEAD' })
        assert.deepEqual([answer.text, answer.headers['etag']], ['', '"1"'])
      }
      stack.upstream.handler = (_request, response) =>
        response.writeHead(304, { etag: '"1"' }).end()
      assert.equal((await probe('onRequest:rewrite')).headers['etag'], '"1"')
    } finally {
      stack.upstream.handler = handler
    }
  })

  it('that cannot rewrite a body breaks it off', async () => {
    const { handler } = stack.upstream
    try {
      let more = Promise.withResolvers<void>()
      stack.upstream.handler = (_request, response) => {
        response.writeHead(200, { 'content-type': 'text/plain' })
        response.write('well')
        void more.promise.then(() => response.end('!'))
      }
      const wire = new Wire(stack.gateway.port)
      wire.send(`${head('GET /', stack.mint(), 'x-probe: onRequest:rewriteFails')}\r\n`)
      await wire.receives(/well/)
      more.resolve()
      const text = await wire.ended()
      assert.doesNotMatch(text, /canary|\r\n0\r\n\r\n/)
      const id = /x-request-id: (\S+)/.exec(text)?.[1] ?? ''
      const [event] = await stack.eventsOf(id)
      assert.equal(event?.evaluation_status, 'upstream_error')
      // Nothing of the answer is out yet.
      more = Promise.withResolvers()
      stack.upstream.handler = (_request, response) =>
        response.writeHead(200, { 'content-type': 'text/plain', 'content-length': '1' }).end('!')
      const answer = await probe('onRequest:rewriteFails')
      assertRefusal(answer, {
        status: 500,
        error: 'internal_error',
        description: 'internal error',
        dispatched: 'unknown',
      })
    } finally {
      stack.upstream.handler = handler
    }
  })

  it('keeps no stream that it rewrites from being cut', async () => {
    const { handler } = stack.upstream
    try {
      stack.upstream.handler = (_request, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        response.write('data: a\n\n')
      }
      const wire = new Wire(stack.gateway.port)
      const token = stack.mint({ sid: 'rewritten' })
      wire.send(`${head('GET /', token, 'x-probe: onRequest:rewrite')}\r\n`)
      await wire.receives(/DATA: A/)
      await revoke(stack.redis, { session_id: 'rewritten' })
      const text = await wire.receives(/caracal-revoked[\s\S]*X-Caracal-Revoked: true/)
      const [event] = await stack.eventsOf(/x-request-id: (\S+)/.exec(text)?.[1] ?? '')
      assert.equal(event?.evaluation_status, 'upstream_error')
      assert.equal(event?.metadata_json['revocation_interrupted'], true)
      wire.close()
    } finally {
      stack.upstream.handler = handler
    }
  })

  it('sees the caller’s Content-Type, and so does the upstream', async () => {
    const headers = { 'content-type': 'nonsense' }
    const answer = await probe('onRequest:read', { method: 'POST', body: 'x', headers })
    assert.equal(answer.headers['x-seen-content-type'], 'nonsense')
    assert.equal(stack.upstream.arrivals.at(-1)?.headers['content-type'], 'nonsense')
  })

  it('has routes of its own, which pass no check', async () => {
    const before = arrivals()
    const none = { token: null, resource: null }
    const open = await stack.call('/team/open', none)
    assert.deepEqual(open.json(), {
      passage: true,
      mandate: 'this route is not proxied and passes no check: set `config: { protected: true }`',
    })
    const echo = await stack.call('/team/echo', {
      ...none,
      method: 'POST',
      body: '{"a":1}',
      headers: { 'content-type': 'application/json', 'x-probe': 'onRequest:deny' },
    })
    assert.deepEqual(echo.json(), { got: { a: 1 } })
    assertRefusal(await stack.call('/team/refusing', none), QUOTA)
    assert.equal((await stack.call('/any', { ...none, method: 'OPTIONS' })).status, 204)
    assert.equal(arrivals(), before)
    assert.equal((await stack.call('/team/other')).text, 'ok')
  })

  it('has routes that pass every check, the last of which spends the mandate', async () => {
    const exchanges = stack.sts.exchanges.length
    const json = { 'content-type': 'application/json' }
    const options = { method: 'POST', body: '{"a":1}', headers: json }
    assert.equal((await stack.call('/team/guarded', { ...options, token: null })).status, 401)
    const token = stack.mint()
    const answer = await stack.call('/team/guarded', { ...options, token })
    assert.deepEqual(answer.json(), {
      client: 'dev-client',
      exchange: 'request.exchange is not established yet',
      got: { a: 1 },
    })
    const replayed = await stack.call('/team/guarded', { ...options, token })
    assert.equal(replayed.json()['error_description'], 'token replay detected')
    const held = await stack.call('/team/guarded', {
      ...options,
      headers: { ...json, 'x-probe': 'onRequest:read' },
    })
    assert.deepEqual([held.headers['x-read'], held.json()['got']], ['7 true', { a: 1 }])
    const scoped = await stack.call('/team/scoped')
    assert.deepEqual([scoped.text, scoped.headers['x-scope']], ['scoped', 'own'])
    assert.equal((await stack.call('/team/scoped', { token: null })).status, 401)
    const denied = await stack.call('/team/scoped', { headers: { 'x-probe': 'onRequest:deny' } })
    assertRefusal(denied, QUOTA)
    assert.equal(stack.sts.exchanges.length, exchanges)
  })
})

describe('a plugin that cannot be', () => {
  const t = suiteCleanup()
  const cases: [string, string, RegExp][] = [
    ['is not there', '', /GATEWAY_PLUGINS: \S+ cannot be loaded: /],
    ['exports nothing', 'export const a = 1', /GATEWAY_PLUGINS: \S+ exports no plugin/],
    [
      'throws',
      'export default () => { throw new Error("no luck\\nat all") }',
      /plugin \S+ cannot be registered: no luck$/,
    ],
    [
      'rejects',
      'export default async () => { throw new Error("no luck") }',
      /plugin \S+ cannot be registered: no luck$/,
    ],
    [
      'calls back with an error',
      'export default (app, options, done) => done(new Error("no luck"))',
      /plugin \S+ cannot be registered: no luck$/,
    ],
    [
      'takes a path of the gateway’s',
      'export default async app => { app.get("/health", async () => "well") }',
      /\/health is the gateway's own/,
    ],
    [
      'takes the errors',
      'export default async app => { app.setErrorHandler(() => "all is well") }',
      /setErrorHandler is the gateway's own/,
    ],
    [
      'brings bindings where there are some',
      'export default async app => { app.bindings.use({}); app.bindings.use({}) }',
      /there is a source of bindings already/,
    ],
    [
      'fails when all is ready',
      'export default async app => { app.addHook("onReady", async () => { throw new Error("no luck") }) }',
      /no luck/,
    ],
  ]
  for (const [what, source, message] of cases) {
    it(`stops the start: it ${what}`, async () => {
      const file = join(await temporaryDirectory(t), 'team.mjs')
      if (source !== '') writeFileSync(file, source)
      const server = fileURLToPath(new URL('../../dist/server.js', import.meta.url))
      const child = spawn(process.execPath, [server], {
        env: {
          CARACAL_MODE: 'dev',
          STS_URL: 'http://127.0.0.1:1',
          PORT: '0',
          GATEWAY_PLUGINS: file,
        },
        stdio: ['ignore', 'ignore', 'pipe'],
      })
      let output = ''
      child.stderr.on('data', text => (output += text))
      const [status] = await once(child, 'close')
      assert.equal(status, 1, output)
      assert.match(output.trimEnd(), message)
      assert.equal(output.trimEnd().split('\n').length, 1, output)
    })
  }
})

describe('plugins', () => {
  it('come from packages and files, in the order of the list', async t => {
    const directory = await temporaryDirectory(t)
    const one = join(directory, 'one.mjs')
    const two = join(directory, 'two.cjs')
    writeFileSync(one, 'export default async app => { app.decorate("teamOrder", ["one"]) }')
    writeFileSync(
      `${two}.js`,
      'module.exports = (app, options, done) => { app.teamOrder.push("two"); app.get("/order", async () => app.teamOrder); done() }',
    )
    const stack = await startStack(t, {
      env: { GATEWAY_PLUGINS: `@fastify/cors, ${one}, ${two}.js` },
    })
    const answer = await call(stack.gateway.url, '/order', { resource: null })
    assert.equal(answer.text, '["one","two"]')
    assert.equal((await stack.call()).headers['access-control-allow-origin'], '*')
    assert.equal(stack.mint({ zone_id: ZONE }).split('.').length, 3)
  })
})
