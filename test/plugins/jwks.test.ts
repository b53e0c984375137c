// The zones' keys over the wire: what is fetched, what counts as an answer, and which tokens pass.

import assert from 'node:assert/strict'
import { createHmac, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { Server } from 'node:net'
import { type TestContext, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import fastify from 'fastify'
import { Denial } from '../../denial.ts'
import jwks, { type JwksOptions } from '../../plugins/jwks.ts'

const MINUTE = 60_000

type Answer = (request: IncomingMessage, response: ServerResponse) => void

interface Pair {
  readonly jwk: Record<string, unknown>
  readonly publicKey: KeyObject
  readonly privateKey: KeyObject
}

function pair(kid: string): Pair {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const jwk = { ...publicKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig', kid }
  return { jwk, publicKey, privateKey }
}

const encode = (value: unknown) =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')

const signES256 = (input: string, { privateKey }: Pair) =>
  sign('sha256', Buffer.from(input), { key: privateKey, dsaEncoding: 'ieee-p1363' })

const now = () => Math.floor(Date.now() / 1000)

/** A token signed by the key; header and claims are added to the usual ones, or are JSON text. */
function token(key: Pair, claims: object | string = {}, header: object | string = {}): string {
  const claimSet = typeof claims === 'string' ? claims : { sub: 's', exp: now() + 300, ...claims }
  const head =
    typeof header === 'string' ? header : { alg: 'ES256', typ: 'JWT', kid: key.jwk.kid, ...header }
  const input = `${encode(head)}.${encode(claimSet)}`
  return `${input}.${signES256(input, key).toString('base64url')}`
}

const set =
  (...keys: unknown[]): Answer =>
  (_request, response) => {
    const members = keys.map(key => (isPair(key) ? key.jwk : key))
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ keys: members }))
  }

function isPair(value: unknown): value is Pair {
  return typeof value === 'object' && value !== null && 'privateKey' in value
}

const text =
  (status: number, body: string | Buffer, headers: Record<string, string> = {}): Answer =>
  (_request, response) => {
    response.writeHead(status, headers).end(body)
  }

/** Listens on loopback and returns the port. */
async function listen(server: Server): Promise<number> {
  await new Promise<void>(resolve => {
    server.listen(0, '127.0.0.1', resolve)
  })
  const address = server.address()
  assert.ok(typeof address === 'object' && address !== null)
  return address.port
}

/** An STS on loopback whose answer the test sets per zone, and a gateway's key sets that ask it. */
async function start(t: TestContext, options: Partial<JwksOptions> = {}) {
  const answers = new Map<string | null, Answer>()
  const requests: IncomingMessage[] = []
  const server = createServer((request, response) => {
    requests.push(request)
    const zone = new URL(request.url ?? '', 'http://sts').searchParams.get('zone_id')
    const answer = answers.get(zone) ?? text(404, '{"error":"zone not found"}')
    answer(request, response)
  })
  const port = await listen(server)
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const stsUrl = `http://127.0.0.1:${port}`
  const time = { now: 0 }
  const app = fastify()
  t.after(() => app.close())
  await app.register(jwks, {
    stsUrl,
    timeout: 2000,
    clock: () => time.now,
    random: () => 0,
    ...options,
  })
  return {
    app,
    answers,
    requests,
    server,
    stsUrl,
    time,
    verifier: async (zone: string, kid: string) => app.jwks.verifier(zone, kid),
    /** What the keys say about a token of the zone, as the signature check would ask. */
    async verify(zone: string, kid: string, bearer: string) {
      const verify = await app.jwks.verifier(zone, kid)
      assert.ok(verify, 'the zone has the key')
      return verify(bearer)
    },
  }
}

const unavailable = (error: unknown) =>
  error instanceof Denial && error.check === 'keys_unavailable' && error.statusCode === 503

test('the gateway verifies a token under the key of its zone, the second time at once', async t => {
  const key = pair('k1')
  const sts = await start(t)
  sts.answers.set('zone-1', set(key))
  assert.equal((await sts.verify('zone-1', 'k1', token(key, { jti: 'j' }))).jti, 'j')
  const verify = sts.app.jwks.verifier('zone-1', 'k1')
  assert.ok(typeof verify === 'function', 'answers at once')
  assert.equal(verify(token(key)).sub, 's')
  assert.equal(sts.requests.length, 1)
})

test('the gateway asks for the key set of the zone, plainly', async t => {
  const sts = await start(t)
  assert.equal(await sts.verifier('a:b&c=d', 'k1'), undefined)
  const [request] = sts.requests
  assert.equal(request?.method, 'GET')
  assert.equal(request?.url, '/.well-known/jwks.json?zone_id=a%3Ab%26c%3Dd')
  assert.equal(request?.headers['accept-encoding'], 'identity')
  assert.equal(request?.headers.connection, 'close')
  assert.equal(request?.headers.authorization, undefined)
})

test('the gateway finds the key set below a path of the STS', async t => {
  const sts = await start(t)
  const app = fastify()
  t.after(() => app.close())
  await app.register(jwks, { stsUrl: `${sts.stsUrl}/sts`, timeout: 2000 })
  await app.jwks.verifier('z', 'k1')
  assert.equal(sts.requests[0]?.url, '/sts/.well-known/jwks.json?zone_id=z')
})

test('the gateway does not verify under the key of another zone', async t => {
  const key = pair('k1')
  const sts = await start(t)
  sts.answers.set('zone-1', set(pair('k1')))
  sts.answers.set('zone-2', set(key))
  await assert.rejects(sts.verify('zone-1', 'k1', token(key)))
})

test('the gateway picks the usable key among foreign ones of the same kid', async t => {
  const key = pair('k1')
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey
  const sts = await start(t)
  const decoys = [
    null,
    { kid: 'k1' },
    { ...rsa.export({ format: 'jwk' }), kid: 'k1' },
    { ...pair('k1').jwk, use: 'enc' },
    { ...key.jwk, y: key.jwk.x },
  ]
  sts.answers.set('z', set(...decoys, key, pair('k1'), pair('k2')))
  assert.equal((await sts.verify('z', 'k1', token(key))).sub, 's')
  assert.ok(await sts.verifier('z', 'k2'))
  assert.equal(sts.requests.length, 1)
})

const key = pair('k1')
const tooLarge = JSON.stringify({ keys: [key.jwk], padding: 'x'.repeat(256 * 1024) })
const BROKEN: [string, Answer][] = [
  ['no JSON', text(200, '<html>')],
  ['an empty body', text(200, '')],
  ['a JSON array', text(200, JSON.stringify([key.jwk]))],
  ['JSON null', text(200, 'null')],
  ['an object without keys', text(200, '{}')],
  ['keys that are no array', text(200, '{"keys":"abc"}')],
  ['a set cut short', text(200, JSON.stringify({ keys: [key.jwk] }).slice(0, -1))],
  [
    'invalid UTF-8',
    text(200, Buffer.concat([Buffer.from('{"keys":[],"a":"'), Buffer.of(0xff, 0x22, 0x7d)])),
  ],
  [
    'a compressed set',
    text(200, gzipSync(JSON.stringify({ keys: [key.jwk] })), { 'content-encoding': 'gzip' }),
  ],
  [
    'a set that calls itself compressed',
    text(200, JSON.stringify({ keys: [key.jwk] }), { 'content-encoding': 'br' }),
  ],
  ['more than 256 KiB', text(200, tooLarge)],
  [
    'more than 256 KiB in chunks',
    (_request, response) => {
      response.write(tooLarge.slice(0, 1000))
      response.end(tooLarge.slice(1000))
    },
  ],
  ['status 500', text(500, JSON.stringify({ keys: [key.jwk] }))],
  ['status 403', text(403, '')],
  ['status 204', text(204, '')],
  ['status 206', text(206, JSON.stringify({ keys: [key.jwk] }))],
  [
    'a reset connection',
    (_request, response) => {
      response.destroy()
    },
  ],
  [
    'a body that breaks off',
    (_request, response) => {
      response.writeHead(200, { 'content-length': '1000' })
      response.write('{"keys":[')
      setImmediate(() => response.destroy())
    },
  ],
]
for (const [what, answer] of BROKEN) {
  test(`the gateway cannot judge when a zone answers with ${what}`, async t => {
    const ended: [string, boolean][] = []
    const sts = await start(t, { onFetch: (...end) => ended.push(end) })
    sts.answers.set('z', answer)
    await assert.rejects(sts.verifier('z', 'k1'), unavailable)
    assert.deepEqual(ended, [['first', false]])
    // The wait: nobody fetches. After it the zone is asked again.
    await assert.rejects(sts.verifier('z', 'k1'), unavailable)
    assert.equal(sts.requests.length, 1)
    sts.answers.set('z', set(key))
    sts.time.now = 500
    assert.ok(await sts.verifier('z', 'k1'))
  })
}

test('the gateway takes a set of exactly 256 KiB', async t => {
  const sts = await start(t)
  const body = JSON.stringify({ keys: [key.jwk], padding: '' })
  const padding = 'x'.repeat(256 * 1024 - body.length)
  sts.answers.set('z', text(200, JSON.stringify({ keys: [key.jwk], padding })))
  assert.ok(await sts.verifier('z', 'k1'))
})

for (const status of [301, 302, 303, 307, 308]) {
  test(`the gateway does not follow a redirect (${status})`, async t => {
    const sts = await start(t)
    const location = '/.well-known/jwks.json?zone_id=other'
    sts.answers.set('z', text(status, '', { location }))
    sts.answers.set('other', set(key))
    await assert.rejects(sts.verifier('z', 'k1'), unavailable)
    assert.equal(sts.requests.length, 1)
  })
}

const SLOW: [string, Answer][] = [
  ['sends nothing', () => {}],
  ['sends headers alone', (_request, response) => response.writeHead(200).flushHeaders()],
  [
    'drips its body',
    (request, response) => {
      const drip = setInterval(() => response.write(' '), 20)
      request.socket.on('close', () => clearInterval(drip))
    },
  ],
]
for (const [what, answer] of SLOW) {
  test(`the gateway gives up a zone that ${what}, and serves the others meanwhile`, async t => {
    const sts = await start(t, { timeout: 750 })
    sts.answers.set('slow', answer)
    sts.answers.set('z', set(key))
    const before = performance.now()
    const slow = assert.rejects(sts.verifier('slow', 'k1'), unavailable).then(() => 'slow')
    const other = sts.verifier('z', 'k1').then(verify => verify && 'other')
    assert.equal(await Promise.race([slow, other]), 'other')
    await slow
    assert.ok(performance.now() - before < 3000)
  })
}

test('the gateway cannot judge when the STS cannot be reached', async t => {
  const sts = await start(t)
  await new Promise(resolve => sts.server.close(resolve))
  await assert.rejects(sts.verifier('z', 'k1'), unavailable)
})

test('the gateway takes a 404 and a set without a usable key for an answer', async t => {
  const sts = await start(t)
  sts.answers.set('empty', text(200, '{"keys":[]}'))
  sts.answers.set(
    'foreign',
    set({ kty: 'oct', k: 'AAAA', kid: 'k1' }, { ...key.jwk, alg: 'ES384' }),
  )
  sts.answers.set('html', text(404, '<html>'))
  for (const zone of ['empty', 'foreign', 'html', 'none']) {
    assert.equal(await sts.verifier(zone, 'k1'), undefined)
  }
})

test('the gateway drops all keys of a zone that is gone', async t => {
  const sts = await start(t)
  sts.answers.set('z', set(key))
  assert.ok(await sts.verifier('z', 'k1'))
  sts.answers.delete('z')
  sts.time.now = 5 * MINUTE
  assert.equal(await sts.verifier('z', 'k1'), undefined)
})

test('one broken zone harms no other, and its known keys serve for ten minutes', async t => {
  const sts = await start(t)
  sts.answers.set('a', set(key))
  sts.answers.set('b', set(key))
  await sts.verifier('a', 'k1')
  await sts.verifier('b', 'k1')
  sts.answers.set('a', text(500, ''))
  sts.time.now = 9 * MINUTE
  assert.ok(await sts.verifier('a', 'k1'))
  await assert.rejects(sts.verifier('a', 'k2'), unavailable)
  assert.ok(await sts.verifier('b', 'k1'))
  assert.equal(await sts.verifier('b', 'k2'), undefined)
  sts.time.now = 10 * MINUTE
  await assert.rejects(sts.verifier('a', 'k1'), unavailable)
  assert.ok(await sts.verifier('b', 'k1'))
})

for (const warm of [true, false]) {
  test(`50 simultaneous unknown kids cost 2 fetches at most (${warm ? 'warm' : 'cold'})`, async t => {
    const sts = await start(t)
    sts.answers.set('z', set(key))
    if (warm) await sts.verifier('z', 'k1')
    const kids = Array.from({ length: 50 }, (_, index) => `x${index}`)
    const found = await Promise.all(kids.map(kid => sts.verifier('z', kid)))
    assert.deepEqual(new Set(found), new Set([undefined]))
    assert.ok(sts.requests.length <= 2)
  })
}

test('a rotation refuses no token: both keys, then the new one alone', async t => {
  const [first, second] = [pair('first'), pair('second')]
  const sts = await start(t)
  const passes = async ({ jwk }: Pair, bearer: string) =>
    (await sts.verify('z', String(jwk.kid), bearer)).sub === 's'
  sts.answers.set('z', set(first))
  assert.ok(await passes(first, token(first)))
  sts.answers.set('z', set(first, second))
  sts.time.now = 1000
  const both = [first, second, first, second].map(key => passes(key, token(key)))
  assert.deepEqual(await Promise.all(both), [true, true, true, true])
  sts.answers.set('z', set(second))
  sts.time.now = 5 * MINUTE + 1000
  assert.ok(await passes(second, token(second)))
  assert.equal(await sts.verifier('z', 'first'), undefined)
})

test('a key that is replaced under its kid verifies no more', async t => {
  const [old, fresh] = [pair('k1'), pair('k1')]
  const sts = await start(t)
  sts.answers.set('z', set(old))
  assert.ok(await sts.verify('z', 'k1', token(old)))
  sts.answers.set('z', set(fresh))
  sts.time.now = 5 * MINUTE
  await assert.rejects(sts.verify('z', 'k1', token(old)))
  assert.ok(await sts.verify('z', 'k1', token(fresh)))
})

test('a kid that is not well-formed costs no fetch and does no harm to its zone', async t => {
  const sts = await start(t)
  sts.answers.set('z', set(key))
  assert.equal(await sts.verifier('z', '\ud800'), undefined)
  assert.equal(sts.requests.length, 0)
  assert.ok(await sts.verifier('z', 'k1'))
  for (const kid of ['', '__proto__', '\0', '%', ':', 'k'.repeat(4000), 'clé 🔑']) {
    assert.equal(await sts.verifier('z', kid), undefined)
  }
})

test('kids of any characters are found', async t => {
  const kids = ['', '__proto__', 'a:b/c?d=e%20', 'clé 🔑', 'constructor']
  const sts = await start(t)
  sts.answers.set('z', set(...kids.map(pair)))
  for (const kid of kids) assert.ok(await sts.verifier('z', kid), kid)
  assert.equal(sts.requests.length, 1)
})

test('the gateway holds the zones that were used last', async t => {
  const sts = await start(t, { maxZones: 2 })
  for (const zone of ['a', 'b', 'c']) sts.answers.set(zone, set(key))
  for (const zone of ['a', 'b', 'a', 'c', 'a']) await sts.verifier(zone, 'k1')
  assert.equal(sts.requests.length, 3)
  await sts.verifier('b', 'k1')
  assert.equal(sts.requests.length, 4)
})

test('what does not verify', async t => {
  const sts = await start(t)
  const other = pair('k1')
  sts.answers.set('z', set(key))
  const verify = await sts.verifier('z', 'k1')
  assert.ok(verify)
  const good = token(key)
  assert.equal(verify(good).sub, 's')
  const [head = '', body = ''] = good.split('.')
  const withSignature = (bytes: Buffer) => `${head}.${body}.${bytes.toString('base64url')}`
  const unsigned = (header: object) => `${encode({ kid: 'k1', ...header })}.${body}`
  const hs256 = (secret: string | Buffer) => {
    const input = unsigned({ alg: 'HS256' })
    return `${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`
  }
  const pem = key.publicKey.export({ type: 'spki', format: 'pem' }).toString()
  const der = key.publicKey.export({ type: 'spki', format: 'der' })
  const derSignature = sign('sha256', Buffer.from(`${head}.${body}`), key.privateKey)
  const order = 'ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551'
  const attacks: Record<string, string> = {
    'alg none': `${unsigned({ alg: 'none' })}.`,
    'alg none, signed': `${unsigned({ alg: 'none' })}.${good.split('.')[2]}`,
    'ES256 without a signature': `${head}.${body}.`,
    'HS256 with the PEM': hs256(pem),
    'HS256 with the PEM, trimmed': hs256(pem.trim()),
    'HS256 with the DER': hs256(der),
    'HS256 with the JWK': hs256(JSON.stringify(key.jwk)),
    'HS256 with nothing': hs256(''),
    'a DER signature': withSignature(derSignature),
    'an all-zero signature': withSignature(Buffer.alloc(64)),
    'r and s of the order': withSignature(Buffer.from(order + order, 'hex')),
    'a short signature': withSignature(Buffer.alloc(63)),
    'a long signature': withSignature(
      Buffer.concat([signES256(`${head}.${body}`, key), Buffer.of(0)]),
    ),
    'another key': token(other),
    'another key, embedded': token(other, {}, { jwk: other.jwk }),
    'another key, by jku': token(other, {}, { jku: `${sts.stsUrl}/evil.json` }),
    'another key, by x5u': token(other, {}, { x5u: `${sts.stsUrl}/evil.pem` }),
    'another payload': `${head}.${encode({ sub: 'root', exp: now() + 300 })}.${good.split('.')[2]}`,
    'alg ES384': token(key, {}, { alg: 'ES384' }),
    'no alg': token(key, {}, { alg: undefined }),
    'alg twice': token(key, {}, '{"alg":"ES256","kid":"k1","alg":"none"}'),
    padding: `${good}==`,
    'a line break': `${good}\n`,
    'a payload array': token(key, '[]'),
    'an expired token': token(key, { exp: now() - 1 }),
    'exp as a string': token(key, { exp: String(now() + 300) }),
    'a token that is not yet valid': token(key, { nbf: now() + 60 }),
    'nbf as a string': token(key, { nbf: '0' }),
    'nbf null': token(key, { nbf: null }),
    'nbf as an array': token(key, { nbf: [0] }),
    'nbf beyond all time': token(key, `{"sub":"s","exp":${now() + 300},"nbf":1e999}`),
  }
  const crits: unknown[] = [['x'], ['b64'], ['exp'], [], null, '', 0, false, true, {}]
  for (const crit of crits) {
    attacks[`crit ${JSON.stringify(crit)}`] = token(key, {}, { crit, x: 1, b64: true, exp: 1 })
  }
  for (const [what, bearer] of Object.entries(attacks)) {
    assert.throws(() => verify(bearer), Error, what)
  }
  assert.equal(sts.requests.length, 1)
})

test('a header that names a key of its own changes nothing for a good token', async t => {
  const sts = await start(t)
  sts.answers.set('z', set(key))
  const header = { jwk: pair('k1').jwk, jku: `${sts.stsUrl}/evil.json`, x5u: `${sts.stsUrl}/x` }
  assert.equal((await sts.verify('z', 'k1', token(key, {}, header))).sub, 's')
  assert.equal(sts.requests.length, 1)
})

test('of claims that are there twice, the verifier returns the one that JSON.parse keeps', async t => {
  const sts = await start(t)
  sts.answers.set('z', set(key))
  const claims = `{"sub":"first","exp":${now() + 300},"sub":"last"}`
  const bearer = token(key, claims)
  const [, body = ''] = bearer.split('.')
  const parsed: unknown = JSON.parse(Buffer.from(body, 'base64url').toString())
  assert.deepEqual(await sts.verify('z', 'k1', bearer), parsed)
})

test('with an issuer, iss must be that string', async t => {
  const iss = 'https://sts.example'
  const sts = await start(t, { issuer: iss })
  sts.answers.set('z', set(key))
  assert.equal((await sts.verify('z', 'k1', token(key, { iss }))).iss, iss)
  const others = [undefined, null, '', 1, [iss], [iss, 'x'], {}, `${iss}/`, iss.toUpperCase()]
  for (const other of others) {
    await assert.rejects(sts.verify('z', 'k1', token(key, { iss: other })), JSON.stringify(other))
  }
})

test('without an issuer, iss is not looked at', async t => {
  const sts = await start(t)
  sts.answers.set('z', set(key))
  for (const iss of [undefined, 'x', 1]) {
    assert.ok(await sts.verify('z', 'k1', token(key, { iss })))
  }
})

test('the gateway refuses to start on options that it cannot keep', async () => {
  const wrong: Partial<JwksOptions>[] = [
    { stsUrl: 'sts' },
    { stsUrl: 'file:///sts' },
    { issuer: '' },
    { timeout: 0 },
    { timeout: Number.NaN },
    { maxZones: 0 },
  ]
  for (const options of wrong) {
    const app = fastify()
    app.register(jwks, { stsUrl: 'http://127.0.0.1:1', timeout: 1000, ...options })
    await assert.rejects(async () => app.ready(), TypeError, JSON.stringify(options))
    await app.close()
  }
})

test('closing does not wait for a zone that hangs', async t => {
  const sts = await start(t, { timeout: 60_000 })
  const asked = new Promise<void>(resolve => {
    sts.answers.set('z', () => resolve())
  })
  const refused = assert.rejects(sts.verifier('z', 'k1'), unavailable)
  await asked
  await sts.app.close()
  await refused
})

test('the certificate of the STS is verified, against the given authority', async t => {
  const server = createTlsServer({ key: TLS_KEY, cert: TLS_CERT }, (request, response) =>
    set(key)(request, response),
  )
  const stsUrl = `https://127.0.0.1:${await listen(server)}`
  t.after(() => server.close())
  const [trusting, strict] = [await start(t, { stsUrl, ca: TLS_CERT }), await start(t, { stsUrl })]
  assert.ok(await trusting.verifier('z', 'k1'))
  await assert.rejects(strict.verifier('z', 'k1'), unavailable)
})

// For 127.0.0.1, valid until 2126. Protects nothing.
const TLS_KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgkGax4ASdLKwHOcHx
4yGSB6BEZvD5vDo9jBP/YzjlVvihRANCAAQpMB5r4AIzqe0eSSU+I6/itN7QJxYK
a/dvsVwsO+5WKPXoC9cThAs6oebOhqzMJhIDH2x0GaRGSFvBgyKlwLr+
-----END PRIVATE KEY-----`
const TLS_CERT = `-----BEGIN CERTIFICATE-----
MIIBjjCCATSgAwIBAgIUBsXyw90rKbtVaQt0geV+A1HuC9owCgYIKoZIzj0EAwIw
EzERMA8GA1UEAwwIc3RzLnRlc3QwIBcNMjYxMTI0MDU1ODUzWhgPMjEyNjEwMzEw
NTU4NTNaMBMxETAPBgNVBAMMCHN0cy50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEKTAea+ACM6ntHkklPiOv4rTe0CcWCmv3b7FcLDvuVij16AvXE4QLOqHm
zoaszCYSAx9sdBmkRkhbwYMipcC6/qNkMGIwHQYDVR0OBBYEFFu4wSK86v8RvrHN
IKFtsuEZMZ5FMB8GA1UdIwQYMBaAFFu4wSK86v8RvrHNIKFtsuEZMZ5FMA8GA1Ud
EwEB/wQFMAMBAf8wDwYDVR0RBAgwBocEfwAAATAKBggqhkjOPQQDAgNIADBFAiAt
9W/g2lSNNqjf3vpdPNB9c/yACn9YdfheBt8EbuwiLAIhAPz6agXuwveWmhhfkSwq
0PkqTOnOtNY/CzG/Sagdsmwr
-----END CERTIFICATE-----`
