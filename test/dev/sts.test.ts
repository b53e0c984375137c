// The development STS refuses whatever the real one would, so that a test that passes against it means something.

import assert from 'node:assert/strict'
import {
  createHash,
  createHmac,
  createPublicKey,
  randomBytes,
  randomUUID,
  verify,
} from 'node:crypto'
import { request as httpRequest, type OutgoingHttpHeaders } from 'node:http'
import { type TestContext, test } from 'node:test'
import { createDevSts, type DevSts, type DevStsOptions } from '../../dev/sts.ts'

const KEY = randomBytes(32)
const RESOURCE = 'resource://demo'
const NOW = 1_800_000_000_000
const REQUIRED_CLAIMS = 'iss sub aud exp iat jti zone_id client_id sid root_sid use sub_type'.split(
  ' ',
)
const FIELDS =
  'grant_type zone_id application_id subject_token subject_token_type resource request_method request_path gateway_request_id'.split(
    ' ',
  )

async function startSts(t: TestContext, options: Partial<DevStsOptions> = {}): Promise<DevSts> {
  const sts = createDevSts({
    zones: ['zone-1', 'zone-2'],
    resources: { [RESOURCE]: { url: 'http://127.0.0.1:9', auth_mode: 'none' } },
    hmacKey: KEY,
    record: true,
    clock: () => NOW,
    ...options,
  })
  await sts.listen()
  t.after(() => sts.close())
  return sts
}

interface Answer {
  readonly status: number
  readonly headers: NodeJS.Dict<string | string[]>
  readonly text: string
}

function send(
  url: string,
  method: string,
  headers: OutgoingHttpHeaders,
  body: string,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(url, { method, headers, agent: false }, answer => {
      let text = ''
      answer.setEncoding('utf8')
      answer.on('data', chunk => (text += chunk))
      answer.on('end', () =>
        resolve({ status: answer.statusCode ?? 0, headers: answer.headers, text }),
      )
      answer.on('error', reject)
    })
    request.on('error', reject)
    request.end(body)
  })
}

interface Changes {
  readonly token?: string
  readonly fields?: Record<string, string | undefined>
  readonly headers?: Record<string, string | string[] | undefined>
  readonly suffix?: string
  readonly method?: string
  readonly path?: string
  readonly nonce?: string
  readonly timestamp?: string
  readonly key?: Buffer
}

/** The exchange that contract section 4 describes, with changes. */
async function exchange(sts: DevSts, changes: Changes = {}): Promise<Answer> {
  const requestId = randomUUID()
  const fields = {
    grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
    zone_id: 'zone-1',
    application_id: 'dev-client',
    subject_token: changes.token ?? sts.mint(),
    subject_token_type: 'urn:ietf:params:oauth:token-type:access_token',
    resource: RESOURCE,
    request_method: 'GET',
    request_path: '/hello world',
    gateway_request_id: requestId,
    ...changes.fields,
  }
  const given = Object.entries(fields).filter((pair): pair is [string, string] => Boolean(pair[1]))
  const body = new URLSearchParams(given).toString() + (changes.suffix ?? '')
  const timestamp = changes.timestamp ?? String(NOW / 1000)
  const nonce = changes.nonce ?? randomBytes(32).toString('hex')
  const digest = createHash('sha256').update(body).digest('hex')
  const signature = createHmac('sha256', changes.key ?? KEY)
    .update(`${timestamp}\n${nonce}\nPOST\n/oauth/2/token\n${digest}`)
    .digest('hex')
  const headers = Object.entries({
    'content-type': 'application/x-www-form-urlencoded',
    accept: 'application/json',
    'user-agent': 'caracal-gateway',
    'x-request-id': requestId,
    'x-caracal-gateway-timestamp': timestamp,
    'x-caracal-gateway-request': nonce,
    'x-caracal-gateway-signature': signature,
    ...changes.headers,
  }).filter(([, value]) => value !== undefined)
  const url = sts.url + (changes.path ?? '/oauth/2/token')
  return send(url, changes.method ?? 'POST', Object.fromEntries(headers), body)
}

function decode(token: string): { header: Record<string, any>; claims: Record<string, any> } {
  const [header = '', claims = ''] = token
    .split('.')
    .map(part => Buffer.from(part, 'base64url').toString())
  return { header: JSON.parse(header), claims: JSON.parse(claims) }
}

async function keySet(sts: DevSts, zone: string): Promise<Record<string, any>[]> {
  const answer = await fetch(`${sts.url}/.well-known/jwks.json?zone_id=${zone}`)
  return JSON.parse(await answer.text()).keys
}

test('the development STS exchanges a mandate that is in order', async t => {
  const sts = await startSts(t)
  const answer = await exchange(sts, { token: sts.mint({ scope: 'a b', sub: 'user-7' }) })
  assert.equal(answer.status, 200)
  const granted = JSON.parse(answer.text)
  assert.equal(granted.token_type, 'Bearer')
  assert.equal(granted.issued_token_type, 'urn:ietf:params:oauth:token-type:access_token')
  assert.equal(granted.scope, 'a b')
  assert.deepEqual(granted.target_resources, [RESOURCE])
  assert.deepEqual(granted.upstreams, {
    [RESOURCE]: { url: 'http://127.0.0.1:9', auth_mode: 'none' },
  })
  const { claims } = decode(granted.access_token)
  assert.equal(claims['use'], 'resource')
  assert.equal(claims['aud'], RESOURCE)
  assert.equal(claims['sub'], 'user-7')
  const [seen] = sts.exchanges
  assert.equal(seen?.fields['request_path'], '/hello world')
  assert.equal(seen?.claims?.['sub'], 'user-7')
  assert.equal(seen?.refusal, undefined)
})

const OTHER_ID = randomUUID()
const REFUSED: [string, (sts: DevSts) => Changes, number, string][] = [
  [
    'another content type',
    () => ({ headers: { 'content-type': 'text/plain' } }),
    400,
    'invalid_request',
  ],
  ['another Accept', () => ({ headers: { accept: '*/*' } }), 400, 'invalid_request'],
  ['another User-Agent', () => ({ headers: { 'user-agent': 'curl' } }), 400, 'invalid_request'],
  [
    'another grant_type',
    () => ({ fields: { grant_type: 'password' } }),
    400,
    'unsupported_grant_type',
  ],
  [
    'another subject_token_type',
    () => ({ fields: { subject_token_type: 'jwt' } }),
    400,
    'invalid_request',
  ],
  ['a field given twice', () => ({ suffix: '&resource=x' }), 400, 'invalid_request'],
  [
    'a request_path that is no path',
    () => ({ fields: { request_path: 'x' } }),
    400,
    'invalid_request',
  ],
  [
    'a request_method that is no method',
    () => ({ fields: { request_method: 'G T' } }),
    400,
    'invalid_request',
  ],
  [
    'another X-Request-Id',
    () => ({ headers: { 'x-request-id': OTHER_ID } }),
    400,
    'invalid_request',
  ],
  [
    'a second X-Request-Id',
    () => ({ headers: { 'x-request-id': [OTHER_ID, OTHER_ID] } }),
    400,
    'invalid_request',
  ],
  ['another zone', () => ({ fields: { zone_id: 'zone-2' } }), 400, 'invalid_grant'],
  ['an unknown zone', () => ({ fields: { zone_id: 'zone-9' } }), 400, 'invalid_grant'],
  ['another application', () => ({ fields: { application_id: 'x' } }), 401, 'invalid_client'],
  [
    'another issuer',
    sts => ({ token: sts.mint({ iss: 'https://x.invalid' }) }),
    400,
    'invalid_grant',
  ],
  ['another audience', sts => ({ token: sts.mint({ aud: RESOURCE }) }), 400, 'invalid_grant'],
  ['use session', sts => ({ token: sts.mint({ use: 'session' }) }), 400, 'invalid_grant'],
  ['use resource', sts => ({ token: sts.mint({ use: 'resource' }) }), 400, 'invalid_grant'],
  ['an expired mandate', sts => ({ token: sts.mint({ exp: NOW / 1000 }) }), 400, 'invalid_grant'],
  [
    'a mandate of the future',
    sts => ({ token: sts.mint({ nbf: NOW / 1000 + 1 }) }),
    400,
    'invalid_grant',
  ],
  ['a mandate without jti', sts => ({ token: sts.mint({ jti: undefined }) }), 400, 'invalid_grant'],
  [
    'a resource outside the target',
    sts => ({ token: sts.mint({ target: ['x'] }) }),
    403,
    'access_denied',
  ],
  [
    'a mandate without target',
    sts => ({ token: sts.mint({ target: undefined }) }),
    403,
    'access_denied',
  ],
  [
    'a resource that it does not know',
    sts => ({
      token: sts.mint({ target: ['resource://x'] }),
      fields: { resource: 'resource://x' },
    }),
    403,
    'access_denied',
  ],
  ['a token that is none', () => ({ token: 'x' }), 400, 'invalid_grant'],
  [
    'alg none',
    sts => ({ token: sts.sign({ alg: 'none' }, decode(sts.mint()).claims) }),
    400,
    'invalid_grant',
  ],
  [
    'a key of another zone',
    sts => ({ token: sts.sign({}, decode(sts.mint()).claims, { zone: 'zone-2' }) }),
    400,
    'invalid_grant',
  ],
  [
    'HS256',
    sts => ({ token: sts.sign({ alg: 'HS256' }, decode(sts.mint()).claims, { key: KEY }) }),
    400,
    'invalid_grant',
  ],
  [
    'a changed payload',
    sts => ({ token: swapPayload(sts.mint(), sts.mint()) }),
    400,
    'invalid_grant',
  ],
  [
    'an unsigned exchange',
    () => ({ headers: { 'x-caracal-gateway-signature': undefined } }),
    401,
    'invalid_client',
  ],
  ['a signature with another key', () => ({ key: randomBytes(32) }), 401, 'invalid_client'],
  ['a clock 61 s behind', () => ({ timestamp: String(NOW / 1000 - 61) }), 401, 'invalid_client'],
  ['a clock 61 s ahead', () => ({ timestamp: String(NOW / 1000 + 61) }), 401, 'invalid_client'],
  ['a short nonce', () => ({ nonce: 'ab' }), 401, 'invalid_client'],
  ['a query on the token endpoint', () => ({ path: '/oauth/2/token?x=1' }), 401, 'invalid_client'],
  ['another method', () => ({ method: 'PUT' }), 405, 'invalid_request'],
]

function swapPayload(token: string, other: string): string {
  const [head, , signature] = token.split('.')
  return [head, other.split('.')[1], signature].join('.')
}

for (const [what, changes, status, error] of REFUSED) {
  test(`the development STS refuses ${what}`, async t => {
    const sts = await startSts(t)
    const answer = await exchange(sts, changes(sts))
    const body = JSON.parse(answer.text)
    assert.equal(`${answer.status} ${body.error}`, `${status} ${error}`, answer.text)
    assert.equal(typeof body.error_description, 'string')
    assert.deepEqual(
      sts.exchanges.map(seen => seen.refusal?.error),
      status === 405 ? [] : [error],
    )
  })
}

for (const field of FIELDS) {
  test(`the development STS refuses an exchange without ${field}`, async t => {
    const sts = await startSts(t)
    const answer = await exchange(sts, { fields: { [field]: undefined } })
    assert.equal(answer.status, 400)
    assert.deepEqual(JSON.parse(answer.text), {
      error: 'invalid_request',
      error_description: `${field} is missing`,
    })
  })
}

test('the development STS takes a nonce once, and a clock that is 60 s off', async t => {
  const sts = await startSts(t)
  const nonce = randomBytes(32).toString('hex')
  const timestamp = String(NOW / 1000 - 60)
  assert.equal((await exchange(sts, { nonce, timestamp })).status, 200)
  const again = await exchange(sts, { nonce })
  assert.equal(again.status, 401)
  assert.match(again.text, /nonce was used before/)
})

test('the development STS does not spend a nonce on a signature that is wrong', async t => {
  const sts = await startSts(t)
  const nonce = randomBytes(32).toString('hex')
  assert.equal((await exchange(sts, { nonce, key: randomBytes(32) })).status, 401)
  assert.equal((await exchange(sts, { nonce })).status, 200)
})

test('the development STS without a key asks for no signature', async t => {
  const resources = { [RESOURCE]: { url: 'http://127.0.0.1:9' } }
  const sts = createDevSts({ zones: ['zone-1'], resources, clock: () => NOW })
  await sts.listen()
  t.after(() => sts.close())
  const answer = await exchange(sts, { headers: { 'x-caracal-gateway-signature': undefined } })
  assert.equal(answer.status, 200)
  assert.deepEqual(sts.exchanges, [], 'nothing is recorded unless it is asked for')
})

test('the development STS refuses a body over 64 KiB', async t => {
  const sts = await startSts(t)
  const answer = await exchange(sts, { suffix: `&x=${'x'.repeat(70_000)}` })
  assert.equal(answer.status, 413)
})

test('the development STS rejects options that cannot be meant', () => {
  const resources = {}
  assert.throws(() => createDevSts({ zones: [], resources }), /zone/)
  assert.throws(() => createDevSts({ zones: ['z'], resources, hmacKey: 'ab' }), /hmacKey/)
  assert.throws(() => createDevSts({ zones: ['z'], resources, hmacKey: 'z'.repeat(64) }), /hmacKey/)
})

test('the development STS serves a key set per zone that verifies its tokens', async t => {
  const sts = await startSts(t)
  const [key] = await keySet(sts, 'zone-1')
  const [other] = await keySet(sts, 'zone-2')
  assert.ok(key && other)
  assert.equal(`${key['kty']} ${key['crv']} ${key['alg']} ${key['use']}`, 'EC P-256 ES256 sig')
  assert.notEqual(key['kid'], other['kid'])
  assert.equal(key['d'], undefined)
  const token = sts.mint()
  assert.equal(decode(token).header['kid'], key['kid'])
  const at = token.lastIndexOf('.')
  const publicKey = createPublicKey({ key, format: 'jwk' })
  const signature = Buffer.from(token.slice(at + 1), 'base64url')
  const data = Buffer.from(token.slice(0, at))
  assert.ok(verify('sha256', data, { key: publicKey, dsaEncoding: 'ieee-p1363' }, signature))
  assert.equal(sts.jwksRequests.length, 2)
  const unknown = await fetch(`${sts.url}/.well-known/jwks.json?zone_id=zone-9`)
  assert.equal(unknown.status, 404)
  const missing = await fetch(`${sts.url}/.well-known/jwks.json`)
  assert.equal(missing.status, 400)
})

test('the development STS rotates a key and keeps the old one until it is dropped', async t => {
  const sts = await startSts(t)
  const old = sts.mint()
  const kid = sts.rotate('zone-1')
  assert.equal((await keySet(sts, 'zone-1')).length, 2)
  assert.equal(decode(sts.mint()).header['kid'], kid)
  assert.equal((await exchange(sts, { token: old })).status, 200)
  sts.dropOldKeys('zone-1')
  assert.deepEqual(
    (await keySet(sts, 'zone-1')).map(key => key['kid']),
    [kid],
  )
  assert.equal((await exchange(sts, { token: old })).status, 400)
})

test('the development STS mints mandates with every claim that the schema requires', async t => {
  const sts = await startSts(t)
  const url = `${sts.url}/mint?resource=${RESOURCE}&resource=resource://b&scope=a%20b&ttl=60`
  const answer = await fetch(url)
  assert.match(answer.headers.get('content-type') ?? '', /^text\/plain/)
  const { claims } = decode(await answer.text())
  for (const name of REQUIRED_CLAIMS) assert.ok(claims[name], name)
  assert.deepEqual(claims['target'], [RESOURCE, 'resource://b'])
  assert.equal(claims['scope'], 'a b')
  assert.equal(claims['exp'], NOW / 1000 + 60)
  assert.equal(claims['use'], 'gateway')
  assert.equal(claims['aud'], sts.issuer)

  const posted = await fetch(`${sts.url}/mint`, {
    method: 'POST',
    body: JSON.stringify({
      zone_id: 'zone-2',
      resource: RESOURCE,
      claims: { agent_session_id: 'a' },
    }),
  })
  const minted = JSON.parse(await posted.text())
  const second = decode(minted.token)
  assert.equal(second.header['kid'], sts.keys('zone-2')[0]?.kid)
  assert.equal(second.claims['agent_session_id'], 'a')
  assert.equal(second.claims['jti'], minted.jti)
  assert.equal(second.claims['exp'], minted.expires_at)
  const fields = { zone_id: 'zone-2' }
  assert.equal((await exchange(sts, { token: minted.token, fields })).status, 200)
})

for (const [what, query] of [
  ['no resource', ''],
  ['an unknown zone', '?resource=a&zone_id=zone-9'],
  ['a ttl of nothing', '?resource=a&ttl=0'],
  ['a member that it does not know', '?resource=a&colour=red'],
] as const) {
  test(`the development STS does not mint for ${what}`, async t => {
    const sts = await startSts(t)
    const answer = await fetch(`${sts.url}/mint${query}`)
    assert.equal(answer.status, 400)
    assert.match(await answer.text(), /"error":"invalid_request"/)
  })
}

test('the development STS can be told not to mint', async t => {
  const sts = await startSts(t, { mint: false })
  assert.equal((await fetch(`${sts.url}/mint?resource=a`)).status, 404)
})

test('the development STS signs a payload given as text as it is', async t => {
  const sts = await startSts(t)
  const token = sts.sign({}, '{"a":1,"a":2}')
  assert.equal(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString(), '{"a":1,"a":2}')
})

test('the development STS answers what a test lays over its answers', async t => {
  const sts = await startSts(t)
  sts.respond = () => ({ directive: { url: 'http://x.invalid' }, answer: { scope: undefined } })
  const changed = JSON.parse((await exchange(sts)).text)
  assert.deepEqual(changed.upstreams, { [RESOURCE]: { url: 'http://x.invalid' } })
  assert.equal('scope' in changed, false)
  assert.equal(typeof changed.access_token, 'string')

  sts.respond = () => ({ status: 418, headers: { 'retry-after': '7' }, body: 'tea' })
  const replaced = await exchange(sts)
  assert.deepEqual(
    [replaced.status, replaced.headers['retry-after'], replaced.text],
    [418, '7', 'tea'],
  )

  sts.respond = () => ({ destroy: 'before' })
  await assert.rejects(exchange(sts), { code: 'ECONNRESET' })
  sts.respond = () => ({ destroy: 'midway' })
  await assert.rejects(exchange(sts), { code: 'ECONNRESET' })

  sts.respond = undefined
  sts.setJwks('zone-1', { body: '{' })
  sts.setJwks('zone-9', { status: 302, headers: { location: '/' } })
  sts.setHealth({ status: 500 })
  const jwks = (zone: string) =>
    fetch(`${sts.url}/.well-known/jwks.json?zone_id=${zone}`, { redirect: 'manual' })
  assert.equal(await (await jwks('zone-1')).text(), '{')
  assert.equal((await jwks('zone-9')).status, 302)
  assert.equal((await fetch(`${sts.url}/health`)).status, 500)
  sts.setJwks('zone-1', undefined)
  sts.setHealth(undefined)
  assert.equal((await keySet(sts, 'zone-1')).length, 1)
  assert.equal((await fetch(`${sts.url}/health`)).status, 200)
})

test('the development STS stops although an answer never comes', async t => {
  const arrived = Promise.withResolvers<void>()
  const sts = await startSts(t, {
    respond: () => {
      arrived.resolve()
      return { delay: new Promise(() => {}) }
    },
  })
  const pending = assert.rejects(exchange(sts), { code: 'ECONNRESET' })
  await arrived.promise
  await sts.close()
  await pending
})
