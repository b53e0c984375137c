// What a caller or the STS confided comes out nowhere: not in an answer, a log line, a metric or an audit event.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, test } from 'node:test'
import type { Directive, ExchangeOverride } from '../../dev/sts.ts'
import {
  ALONE,
  type Answer,
  type CallOptions,
  RESOURCE,
  startStack,
  Wire,
} from '../gateway/harness.ts'
import { until } from '../until.ts'
import { answersIn } from './wire.ts'

const stack = await startStack(
  { after },
  { env: { ...ALONE, LOG_LEVEL: 'trace', STS_TIMEOUT: '1s' } },
)

/** Marks a secret; no two are the same, so that a leak names its source. */
const canaries: string[] = []
function canary(name: string): string {
  const value = `canary-${name}-${randomBytes(6).toString('hex')}`
  canaries.push(value)
  return value
}

const JSON_TYPE = { 'content-type': 'application/json' }

/** Everything that came back to a caller. */
const answered: string[] = []
let denials = 0

/** What a caller puts into a request beside what the gateway must repeat (id, path, method, resource). */
function confided(): Record<string, string> {
  return {
    cookie: `session=${canary('cookie')}`,
    'x-api-key': canary('api-key'),
    'proxy-authorization': `Basic ${canary('proxy-authorization')}`,
    'user-agent': canary('user-agent'),
    referer: `https://caller.test/?${canary('referer')}`,
    forwarded: `for=${canary('forwarded')}`,
    'x-forwarded-for': canary('x-forwarded-for'),
    baggage: `caracal.secret=${canary('baggage')}`,
    traceparent: canary('traceparent'),
    tracestate: `vendor=${canary('tracestate')}`,
    'content-type': `text/${canary('content-type')}`,
    'x-caracal-identity': canary('identity'),
  }
}

async function refused(status: number, options: CallOptions & { path?: string } = {}) {
  const { path = '/v1/invoices', headers, ...rest } = options
  const answer: Answer = await stack.call(`${path}?token=${canary('query')}`, {
    method: 'POST',
    body: canary('body'),
    ...rest,
    headers: { ...confided(), ...headers },
  })
  denials += 1
  answered.push(JSON.stringify(answer.headers), answer.text)
  assert.equal(answer.status, status, answer.text)
  return answer
}

/** A mandate full of what nobody else may read. */
function secretMandate(claims: Readonly<Record<string, unknown>> = {}): string {
  const token = stack.mint({
    sub: canary('sub'),
    email: canary('claim'),
    scope: `billing:read ${canary('scope')}`,
    ...claims,
  })
  canaries.push(...token.split('.').slice(1))
  return token
}

function withExchange(override: ExchangeOverride): void {
  stack.sts.respond = () => override
}

test('the gateway tells nobody what a refused caller confided', async () => {
  const token = secretMandate()
  const [header = '', payload = '', signature = ''] = token.split('.')
  const garbled = Buffer.from(`{"${canary('payload')}":`).toString('base64url')
  canaries.push(garbled)
  const other = secretMandate()
  await refused(401, { token: null, headers: { authorization: `Basic ${canary('basic')}` } })
  await refused(401, { token: canary('opaque') })
  await refused(401, { token: `${canary('big')}.${'x'.repeat(4200)}.y` })
  await refused(401, { token: `${header}.${garbled}.${signature}` })
  await refused(401, { token: `${garbled}.${payload}.${signature}` })
  await refused(401, { token: secretMandate({ exp: 1 }) })
  await refused(400, { token, headers: { 'x-caracal-client-id': canary('client-id') } })
  await refused(400, { token, resource: null })
  await refused(401, { token: secretMandate({ zone_id: `${canary('zone')} ` }) })
  await refused(401, { token: secretMandate({ client_id: [canary('client')] }) })
  await refused(400, { token, path: '/v1/%2e%2e/x' })
  await refused(401, { token: `${header}.${payload}.${other.split('.')[2]}` })
  await refused(401, {
    token: stack.sts.sign(
      { alg: 'ES256', kid: canary('kid') },
      { zone_id: 'zone-1', client_id: 'c', exp: 4e9, secret: canary('forged') },
    ),
  })
  await refused(401, {
    token: stack.sts.sign(
      { alg: 'HS256', kid: 'k', crit: [canary('crit')] },
      { zone_id: 'zone-1', client_id: 'c', exp: 4e9 },
      { key: Buffer.from('secret') },
    ),
  })
  await refused(401, { token: secretMandate({ use: canary('use') }) })
  await refused(403, { token: secretMandate({ target: [canary('target')] }) })
  await refused(401, { token: secretMandate({ jti: undefined }) })
})

test('the gateway tells nobody what the STS confided', async () => {
  const url = stack.upstream.url
  const provider = () => ({
    url,
    auth_mode: 'provider_oauth',
    provider_token: canary('provider-token'),
  })
  const directed = (directive: Directive) => ({
    answer: { access_token: canary('access-token') },
    directive,
  })
  const cases: [status: number, ExchangeOverride][] = [
    [502, { body: `{"access_token":"${canary('half')}`, headers: JSON_TYPE }],
    [502, { body: canary('page'), headers: { 'content-type': 'text/html' } }],
    [502, { status: 302, headers: { location: `http://127.0.0.1:1/?${canary('location')}` } }],
    [502, { ...directed({}), destroy: 'midway' }],
    [502, directed({ url: `http://user:${canary('userinfo')}@127.0.0.1/` })],
    [502, directed({ url: `http://[${canary('url')}/` })],
    [502, directed({ ...provider(), allowed_token_hosts: ['other.test'] })],
    [400, directed({ ...provider(), auth_header: `X ${canary('name')}` })],
    [400, directed({ ...provider(), provider_token: `${canary('split')}\r\nX-Injected: 1` })],
    [400, directed({ ...provider(), auth_mode: 'unknown' })],
    // Nobody listens there.
    [502, directed({ ...provider(), url: 'http://127.0.0.1:1/' })],
  ]
  for (const [status, override] of cases) {
    withExchange(override)
    await refused(status, { token: secretMandate() })
    // A success between failures keeps the circuit closed.
    stack.sts.respond = undefined
    assert.equal((await stack.call()).status, 200)
  }
})

test('the gateway tells nobody what an upstream says that speaks no HTTP', async () => {
  stack.upstream.handler = request => {
    request.socket.end(`HTTP/9.9 200 ${canary('status-line')}\r\n${canary('junk')}: \x00\r\n\r\n`)
  }
  withExchange({
    answer: { access_token: canary('access-token') },
    directive: {
      url: `${stack.upstream.url}/?fixed=${canary('fixed')}`,
      auth_mode: 'provider_apikey',
      auth_location: 'query',
      query_param_name: 'key',
      provider_token: canary('query-credential'),
    },
  })
  await refused(502, { token: secretMandate() })
  stack.sts.respond = undefined
})

test('the gateway tells nobody what stood in a request that it could not read', async () => {
  const lines: string[] = [
    `GET /?${canary('raw-query')} HTTP/1.1\r\nAuthorization: Bearer ${canary('raw-token')}\r\nX Y: z\r\n\r\n`,
    `${canary('raw-garbage')}\r\n\r\n`,
    `GET / HTTP/1.1\r\nHost: a\r\nX-Big: ${canary('raw-big')}${'x'.repeat(20_000)}\r\n\r\n`,
    `GET /${canary('raw-target')}${'x'.repeat(20_000)} HTTP/1.1\r\nHost: a\r\n\r\n`,
    `CONNECT ${canary('raw-connect')}:80 HTTP/1.1\r\nHost: a\r\n\r\n`,
    `DESCRIBE rtsp://a/${canary('raw-rtsp')} RTSP/1.0\r\nHost: a\r\n\r\n`,
    `GET / HTTP/1.1\r\nHost: ${canary('raw-host')}/x\r\n\r\n`,
    `POST /?${canary('raw-query')} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ${canary('raw-coding')}, chunked\r\n\r\n`,
    `OPTIONS * HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${canary('raw-token')}\r\n\r\n`,
  ]
  for (const line of lines) {
    const wire = new Wire(stack.gateway.port)
    wire.send(line)
    await until(() => answersIn(wire.text).answers.length === 1)
    answered.push(wire.text)
    denials += 1
    wire.close()
  }
})

test('the gateway tells nobody what a served request and its answer held', async () => {
  stack.upstream.handler = (_request, response, body) => {
    void body.then(() => {
      response.setHeader('x-secret', canary('answer-header'))
      response.end(canary('answer-body'))
    })
  }
  withExchange({ answer: { access_token: canary('access-token') } })
  const token = secretMandate()
  const served = await stack.call(`/v1/invoices?${canary('query')}`, {
    method: 'POST',
    token,
    body: canary('body'),
    headers: confided(),
  })
  // What the upstream says is for the caller.
  assert.match(served.text, /^canary-answer-body/)
  await stack.eventsOf(served.requestId)
  await refused(401, { token })
  stack.sts.respond = undefined
})

test('the gateway has let nothing out', async () => {
  await until(() => deniedLines().length >= denials)
  const places: Record<string, string> = {
    'an answer': answered.join('\n'),
    'the log': stack.gateway.output(),
    'the metrics': await metrics('/metrics'),
    'the flat metrics': await metrics('/metrics.json'),
    'an audit event': JSON.stringify(await stack.events()),
  }
  assert.ok(canaries.length > 300, `${canaries.length} secrets`)
  for (const [place, text] of Object.entries(places)) {
    const leaked = canaries.filter(secret => text.includes(secret))
    assert.deepEqual(leaked, [], `found in ${place}`)
    assert.doesNotMatch(text, /[\\/]node_modules[\\/]|\bat \S+ \(|\.js:\d+/, `a stack in ${place}`)
  }
  assert.match(places['the log'] ?? '', /"check":"invalid_signature"/)
  assert.match(places['an audit event'] ?? '', /"replay_detected"/)
})

test('the gateway logs each refusal once, and says of what', () => {
  assert.equal(deniedLines().length, denials)
  const allowed = new Set(
    'level time pid hostname reqId msg check status error dispatched zone client resource method ms stages reason'.split(
      ' ',
    ),
  )
  for (const line of deniedLines()) {
    assert.deepEqual(
      Object.keys(line).filter(name => !allowed.has(name)),
      [],
    )
    assert.match(String(line['check']), /^[a-z_]+$/)
    assert.ok(line['resource'] === undefined || line['resource'] === RESOURCE)
    for (const [stage, ms] of Object.entries(line['stages'] ?? {})) {
      assert.match(`${stage} ${ms}`, /^(verify|replay|exchange|upstream) \d+(\.\d+)?$/)
    }
  }
})

function deniedLines() {
  return stack.gateway.logs.filter(({ msg }) => msg === 'request denied')
}

async function metrics(path: string): Promise<string> {
  const answer = await stack.call(path, { token: 'metrics-bearer', resource: null })
  assert.equal(answer.status, 200)
  return answer.text
}
