// Holds the gateway to the keys that a zone publishes, and to what fetching them may cost (contract section 3).
import assert from 'node:assert/strict'
import {
  createHmac,
  generateKeyPairSync,
  type KeyObject,
  randomUUID,
  sign as signBytes,
} from 'node:crypto'
import { before, describe, test } from 'node:test'
import { type Claims, DEV_ISSUER } from '../../dev/sts.ts'
import { until } from '../until.ts'
import { type MovableClock, movableClock } from './clock.ts'
import {
  ALONE,
  type Answer,
  call,
  type Gateway,
  type Stack,
  startGateway,
  startStack,
  ZONE,
} from './harness.ts'
import { assertRefusal, type Refusal } from './refusal.ts'
import { claimsOf, suiteCleanup } from './support.ts'

const OTHER_ZONE = 'zone-2'
const MINUTE = 60_000
/** The longest wait after failed fetches, and the gate of unknown kids. */
const HALF_MINUTE = 30_000

const INVALID: Refusal = {
  status: 401,
  error: 'invalid_token',
  description: 'bearer signature invalid',
}
const UNAVAILABLE: Refusal = {
  status: 503,
  error: 'sts_unavailable',
  description: 'signing keys unavailable',
}

/** The order of the group of P-256. */
const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n

const base64url = (text: string | Buffer) => Buffer.from(text).toString('base64url')

const ecKey = () => generateKeyPairSync('ec', { namedCurve: 'P-256' })

/** The token with another signature. */
function resigned(token: string, change: (signature: Buffer) => Buffer | string): string {
  const at = token.lastIndexOf('.') + 1
  const changed = change(Buffer.from(token.slice(at), 'base64url'))
  return token.slice(0, at) + (typeof changed === 'string' ? changed : base64url(changed))
}

/** The other signature that is as valid for the same bytes: r, n - s. */
function mirrored(signature: Buffer): Buffer {
  const s = BigInt(`0x${signature.subarray(32).toString('hex')}`)
  const other = Buffer.from((ORDER - s).toString(16).padStart(64, '0'), 'hex')
  return Buffer.concat([signature.subarray(0, 32), other])
}

describe('the gateway', () => {
  const suite = suiteCleanup()
  let clock: MovableClock
  let stack: Stack
  /** Takes mandates of every issuer. */
  let second: Gateway

  before(async () => {
    clock = await movableClock(suite)
    stack = await startStack(suite, {
      zones: [OTHER_ZONE],
      env: {
        ...ALONE,
        ...clock.env,
        STS_ISSUER: DEV_ISSUER,
        STS_TIMEOUT: '1s',
        CARACAL_ADMIN_TOKEN: 'admin-token',
      },
    })
    assert.equal((await stack.call()).status, 200)
    const { STS_ISSUER: _, MOVED_CLOCK: __, NODE_OPTIONS: ___, ...env } = stack.env
    second = await startGateway(suite, env)
  })

  /** Moves the clock, and keeps the revocation state from looking old. */
  async function later(milliseconds: number): Promise<void> {
    await clock.advance(milliseconds)
    const answer = await call(stack.gateway.url, '/internal/revocations/reload', {
      method: 'POST',
      token: 'admin-token',
      resource: null,
    })
    assert.equal(answer.status, 200)
  }

  const present = (token: string, gateway: Gateway = stack.gateway) =>
    call(gateway.url, '/v1/invoices', { token })

  const fetches = (zone: string = ZONE) =>
    stack.sts.jwksRequests.filter(({ path }) => path.endsWith(`zone_id=${zone}`)).length

  const isSpent = async (jti: string) =>
    (await stack.redis.command('EXISTS', `seen:jti:${jti}`)) === 1

  /** A token of {@link ZONE} with this header, these claims and this key. */
  function forged(header: Claims | string, claims: Claims = {}, key?: KeyObject | Buffer): string {
    const all = claimsOf(stack.mint(claims))
    return stack.sts.sign(header, all, { zone: ZONE, ...(key !== undefined && { key }) })
  }

  /** Asserts that a token is refused, and that it left no trace. */
  async function refuses(token: string): Promise<void> {
    const [arrived, exchanged] = [stack.upstream.arrivals.length, stack.sts.exchanges.length]
    assertRefusal(await present(token), INVALID)
    assert.equal(stack.upstream.arrivals.length, arrived)
    assert.equal(stack.sts.exchanges.length, exchanged)
  }

  describe('refuses, without asking for keys', () => {
    const zoneKey = () => stack.sts.keys(ZONE)[0] ?? assert.fail()
    const pem = (type: 'spki') => zoneKey().publicKey.export({ type, format: 'pem' })
    const attacker = ecKey()
    const now = () => Math.floor(Date.now() / 1000)
    const derSignature = (token: string) =>
      resigned(token, () => {
        const input = token.slice(0, token.lastIndexOf('.'))
        return signBytes('sha256', Buffer.from(input), zoneKey().privateKey)
      })

    const cases: readonly (readonly [name: string, token: () => string])[] = [
      ['alg none, no signature', () => forged({ alg: 'none' })],
      ['alg None, no signature', () => resigned(forged({ alg: 'None' }), () => '')],
      ['ES256 without a signature', () => resigned(stack.mint(), () => '')],
      [
        'HS256 with the public key, PEM',
        () => forged({ alg: 'HS256' }, {}, Buffer.from(pem('spki'))),
      ],
      [
        'HS256 with the public key, DER',
        () =>
          forged({ alg: 'HS256' }, {}, zoneKey().publicKey.export({ type: 'spki', format: 'der' })),
      ],
      [
        'HS256 with the public key, JWK',
        () => forged({ alg: 'HS256' }, {}, Buffer.from(JSON.stringify(zoneKey().jwk))),
      ],
      [
        'an HMAC by the public key that calls itself ES256',
        () => {
          const token = stack.mint()
          const input = token.slice(0, token.lastIndexOf('.'))
          return resigned(token, () => createHmac('sha256', pem('spki')).update(input).digest())
        },
      ],
      ['alg in lower case', () => forged({ alg: 'es256' })],
      ['alg ES384', () => forged({ alg: 'ES384' })],
      ['alg RS256', () => forged({ alg: 'RS256' })],
      ['no alg', () => forged({ alg: undefined })],
      ['alg as a list', () => forged({ alg: ['ES256'] })],
      ['a DER signature', () => derSignature(stack.mint())],
      ['an all-zero signature', () => resigned(stack.mint(), () => Buffer.alloc(64))],
      ['r 0', () => resigned(stack.mint(), whole => whole.fill(0, 0, 32))],
      ['s 0', () => resigned(stack.mint(), whole => whole.fill(0, 32))],
      ['s of the order', () => resigned(stack.mint(), whole => whole.fill(order(), 32))],
      ['a byte too few', () => resigned(stack.mint(), whole => whole.subarray(0, 63))],
      ['a byte too many', () => resigned(stack.mint(), whole => Buffer.concat([whole, order()]))],
      [
        'the signature of another token',
        () => {
          const other = stack.mint()
          return resigned(stack.mint(), () => other.slice(other.lastIndexOf('.') + 1))
        },
      ],
      ["a stranger's key", () => forged({}, {}, attacker.privateKey)],
      [
        "an embedded jwk, and its key's signature",
        () =>
          forged({ jwk: attacker.publicKey.export({ format: 'jwk' }) }, {}, attacker.privateKey),
      ],
      [
        "another zone's key under the zone's kid",
        () => forged({}, {}, stack.sts.keys(OTHER_ZONE)[0]?.privateKey),
      ],
      ['no kid', () => forged({ kid: undefined })],
      ['an empty kid', () => forged({ kid: '' })],
      ['a kid that is a list', () => forged({ kid: [zoneKey().kid] })],
      ['a kid that is no text', () => forged({ kid: '\ud800' })],
      ['an unknown crit', () => forged({ crit: ['x'], x: 1 })],
      ['a crit that names what everyone knows', () => forged({ crit: ['exp'], exp: 1 })],
      ['an empty crit', () => forged({ crit: [] })],
      ['crit null', () => forged({ crit: null })],
      ['an unencoded payload', () => forged({ b64: false, crit: ['b64'] })],
      ['nbf a minute ahead', () => forged({}, { nbf: now() + 60 })],
      ['nbf as a text', () => forged({}, { nbf: '1' })],
      ['another issuer', () => forged({}, { iss: 'https://sts.example' })],
      ['an issuer that begins like it', () => forged({}, { iss: `${DEV_ISSUER}/` })],
      ['no issuer', () => forged({}, { iss: undefined })],
      ['a list of issuers', () => forged({}, { iss: [DEV_ISSUER] })],
    ]
    const order = () => Buffer.from(ORDER.toString(16), 'hex')

    for (const [name, token] of cases) {
      test(name, async () => {
        const fetched = fetches()
        const forgery = token()
        await refuses(forgery)
        assert.equal(fetches(), fetched)
        assert.equal(await isSpent(String(claimsOf(forgery)['jti'])), false)
      })
    }

    test('a signature that is not base64url', async () => {
      for (const change of [
        (text: string) => `${text}=`,
        (text: string) => `${text}==`,
        (text: string) => `${text.slice(0, 9)}!${text.slice(9)}`,
        (text: string) => `${text.slice(0, 9)} ${text.slice(9)}`,
        (text: string) => text.replace(/^./, '\u00e9'),
      ]) {
        const jti = randomUUID()
        const token = resigned(stack.mint({ jti }), signature => change(base64url(signature)))
        const answer = await present(token)
        assert.equal(answer.status, 401, answer.text)
        assert.equal(answer.json()['error'], 'invalid_token')
        assert.equal(await isSpent(jti), false)
      }
    })
  })

  test('admits what is good about a token beside what it does not look at', async () => {
    const now = Math.floor(Date.now() / 1000)
    for (const token of [
      forged({ typ: undefined }),
      forged({ typ: 'at+jwt', x: 1, jku: 'http://127.0.0.1:1/', x5u: 'http://127.0.0.1:1/' }),
      forged({}, { nbf: now }),
      forged({}, { nbf: now - 60, iat: undefined }),
    ]) {
      const answer = await present(token)
      assert.equal(answer.status, 200, answer.text)
    }
  })

  test('takes every issuer when none is configured', async () => {
    const answer = await present(stack.mint({ iss: 'https://sts.example' }), second)
    // The STS's own judgement: every local check has passed.
    assert.equal(answer.json()['error_description'], 'subject_token iss is another issuer')
  })

  describe('uses the value that it has checked, where a JSON name is there twice', () => {
    const text = (claims: Claims, ahead: string, behind = '') =>
      `{${ahead}${JSON.stringify(claims).slice(1, -1)}${behind}}`

    test('in the payload', async () => {
      const [first, last] = [randomUUID(), randomUUID()]
      const claims = claimsOf(stack.mint({ jti: first, scope: 'first' }))
      const payload = text(
        claims,
        '"zone_id":"zone-2","use":"session","exp":1,"client_id":"someone",',
        `,"jti":"${last}","\\u0073cope":"last"`,
      )
      const answer = await present(stack.sts.sign({}, payload))
      assert.equal(answer.status, 200, answer.text)
      assert.deepEqual([await isSpent(first), await isSpent(last)], [false, true])
      const { fields, claims: exchanged } = stack.sts.exchanges.at(-1) ?? assert.fail()
      assert.equal(fields['zone_id'], ZONE)
      assert.equal(fields['application_id'], 'dev-client')
      assert.equal(exchanged?.['scope'], 'last')
      const again = await present(stack.sts.sign({}, text(claims, '', `,"jti":"${last}"`)))
      assert.equal(again.json()['error_description'], 'token replay detected')

      const expires = text(claims, '', ',"exp":1')
      const expired = await present(stack.sts.sign({}, expires))
      assert.equal(expired.json()['error'], 'credential_expired_not_renewable')
      const elsewhere = text(claims, '', `,"zone_id":"${OTHER_ZONE}"`)
      await refuses(stack.sts.sign({}, elsewhere, { zone: ZONE }))
    })

    test('in the header', async () => {
      const { kid } = stack.sts.keys(ZONE)[0] ?? assert.fail()
      const claims = () => claimsOf(stack.mint())
      const good = `{"alg":"none","kid":"x","kid":"${kid}","alg":"ES256"}`
      assert.equal((await present(stack.sts.sign(good, claims()))).status, 200)
      await refuses(stack.sts.sign(`{"alg":"ES256","kid":"${kid}","alg":"none"}`, claims()))
      await refuses(stack.sts.sign(`{"alg":"ES256","kid":"${kid}","kid":""}`, claims()))
    })
  })

  test('knows a spent mandate by its mirrored signature', async () => {
    const token = stack.mint()
    const twin = resigned(token, mirrored)
    assert.notEqual(twin, token)
    assert.equal((await present(twin)).status, 200, 'the twin is as good a signature')
    const arrived = stack.upstream.arrivals.length
    for (const again of [token, twin]) {
      const answer = await present(again)
      assertRefusal(answer, {
        status: 401,
        error: 'invalid_token',
        description: 'token replay detected',
      })
    }
    assert.equal(stack.upstream.arrivals.length, arrived)
  })

  test('follows rotations without one refusal', async () => {
    const stopped = new AbortController()
    let answered = 0
    const statuses = new Map<number, number>()
    const load = async () => {
      while (!stopped.signal.aborted) {
        const { status } = await stack.call()
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
        answered += 1
      }
    }
    const callers = [load(), load(), load(), load()]
    for (let round = 0; round < 4; round++) {
      await later(HALF_MINUTE)
      const old = stack.mint()
      const fetched = fetches()
      stack.sts.rotate(ZONE)
      const target = answered + 20
      await until(() => answered >= target)
      assert.equal(fetches(), fetched + 1, 'one fetch a rotation')
      assert.equal((await present(old)).status, 200, 'the key before serves on')
    }
    stopped.abort()
    await Promise.all(callers)
    assert.deepEqual([...statuses.keys()], [200])
    stack.sts.dropOldKeys(ZONE)
    assert.equal((await stack.call()).status, 200)
  })

  test('lets a key go with the first answer that lacks it', async () => {
    const old = stack.sts.keys(ZONE)[0] ?? assert.fail()
    stack.sts.rotate(ZONE)
    stack.sts.dropOldKeys(ZONE)
    const stale = () => forged({ kid: old.kid }, {}, old.privateKey)
    assert.notEqual((await present(stale())).json()['error_description'], INVALID.description)
    await later(HALF_MINUTE)
    // A mandate of the new key brings the answer.
    assert.equal((await stack.call()).status, 200)
    await refuses(stale())
  })

  test('fetches twice at most for 50 unknown kids at a time, and keeps its own callers', async () => {
    await later(HALF_MINUTE)
    const fetched = fetches()
    const strangers = () =>
      Array.from({ length: 50 }, () =>
        present(forged({ kid: randomUUID() }, {}, ecKey().privateKey)),
      )
    const callers = Array.from({ length: 20 }, () => stack.call())
    for (const answer of await Promise.all(strangers())) assertRefusal(answer, INVALID)
    for (const answer of await Promise.all(callers)) assert.equal(answer.status, 200)
    assert.ok(fetches() - fetched <= 2, `${fetches() - fetched} fetches`)
    await Promise.all(strangers())
    assert.ok(fetches() - fetched <= 2, 'the gate holds for 30 s')
  })

  test('fetches once for 50 first callers of a zone', async () => {
    const fetched = fetches(OTHER_ZONE)
    const callers = Array.from({ length: 50 }, () =>
      present(stack.mint({ zone_id: OTHER_ZONE }), second),
    )
    for (const answer of await Promise.all(callers)) assert.equal(answer.status, 200, answer.text)
    assert.equal(fetches(OTHER_ZONE), fetched + 1)
  })

  test("admits a rotated key although a stranger's kid forced the fetch", async () => {
    await later(HALF_MINUTE)
    const kid = stack.sts.rotate(ZONE)
    const rotated = forged({ kid })
    const stranger = forged({ kid: randomUUID() }, {}, ecKey().privateKey)
    const fetched = fetches()
    const [refused, admitted] = await Promise.all([present(stranger), present(rotated)])
    assertRefusal(refused, INVALID)
    assert.equal(admitted.status, 200, admitted.text)
    assert.ok(fetches() - fetched <= 2)
  })

  describe('when a zone does not tell its keys', () => {
    const mint = (claims: Claims = {}) => stack.mint({ zone_id: OTHER_ZONE, ...claims })
    const big = { keys: [], padding: 'x'.repeat(256 * 1024) }
    const goodSet = () => ({ keys: stack.sts.keys(OTHER_ZONE).map(({ jwk }) => jwk) })
    const setOf = (members: Claims) => ({
      keys: stack.sts.keys(OTHER_ZONE).map(({ jwk }) => ({ ...jwk, ...members })),
    })

    const broken: readonly (readonly [name: string, override: () => object])[] = [
      ['status 500', () => ({ status: 500 })],
      ['status 503 over a good set', () => ({ status: 503, body: goodSet() })],
      ['status 403', () => ({ status: 403 })],
      ['a connection that breaks', () => ({ destroy: 'before' })],
      ['an answer that breaks off', () => ({ destroy: 'midway' })],
      ['an answer that is late', () => ({ delay: 2_000 })],
      ['no JSON', () => ({ body: '<html>' })],
      ['JSON that is no set', () => ({ body: '[]' })],
      ['a set without keys', () => ({ body: {} })],
      ['a set over 256 KiB', () => ({ body: big })],
      [
        "a redirect to another zone's good set",
        () => ({
          status: 302,
          headers: { location: `${stack.sts.url}/.well-known/jwks.json?zone_id=${ZONE}` },
        }),
      ],
    ]
    for (const [name, override] of broken) {
      test(`says so, and harms no other: ${name}`, async () => {
        // Whatever the case before has left is over.
        await later(10 * MINUTE)
        stack.sts.setJwks(OTHER_ZONE, override())
        const [elsewhere, fetched] = [fetches(), fetches(OTHER_ZONE)]
        const jti = randomUUID()
        const [refused, ...others] = await Promise.all([
          present(mint({ jti })),
          stack.call(),
          stack.call(),
        ])
        assertRefusal(refused ?? assert.fail(), UNAVAILABLE)
        for (const { status } of others) assert.equal(status, 200)
        assert.equal(fetches(OTHER_ZONE), fetched + 1)
        assert.ok(fetches() - elsewhere <= 1)
        assertRefusal(await present(mint({ jti })), UNAVAILABLE)
        assert.equal(fetches(OTHER_ZONE), fetched + 1, 'it waits before it asks again')
        stack.sts.setJwks(OTHER_ZONE, undefined)
        await later(HALF_MINUTE)
        assert.equal((await present(mint({ jti }))).status, 200, 'it recovers by itself')
      })
    }

    const answers: readonly (readonly [name: string, override: () => object])[] = [
      ['status 404', () => ({ status: 404 })],
      ['an empty set', () => ({ body: { keys: [] } })],
      ['keys for RS256', () => ({ body: setOf({ alg: 'RS256' }) })],
      ['keys without alg', () => ({ body: setOf({ alg: undefined }) })],
      ['keys for encryption', () => ({ body: setOf({ use: 'enc' }) })],
      ['keys of another curve', () => ({ body: setOf({ crv: 'P-384' }) })],
      ['a point that is not on the curve', () => ({ body: setOf({ x: 'A'.repeat(43) }) })],
      ['keys without kid', () => ({ body: setOf({ kid: undefined }) })],
    ]
    for (const [name, override] of answers) {
      test(`takes for an answer: ${name}`, async () => {
        // Whatever the case before has left is over.
        await later(10 * MINUTE)
        stack.sts.setJwks(OTHER_ZONE, override())
        const jti = randomUUID()
        assertRefusal(await present(mint({ jti })), INVALID)
        assert.equal(await isSpent(jti), false)
        stack.sts.setJwks(OTHER_ZONE, undefined)
        await later(HALF_MINUTE)
        assert.equal((await present(mint({ jti }))).status, 200)
      })
    }

    test('goes on with the keys it has seen, for ten minutes', async t => {
      stack.sts.setJwks(OTHER_ZONE, undefined)
      await later(10 * MINUTE)
      const ask = (): Promise<Answer> => present(mint())
      assert.equal((await ask()).status, 200)
      stack.sts.setJwks(OTHER_ZONE, { status: 500 })
      t.after(() => stack.sts.setJwks(OTHER_ZONE, undefined))
      await later(5 * MINUTE)
      const fetched = fetches(OTHER_ZONE)
      assert.equal((await ask()).status, 200)
      assert.equal(fetches(OTHER_ZONE), fetched + 1, 'it has asked')
      await later(4.9 * MINUTE)
      assert.equal((await ask()).status, 200)
      await later(0.1 * MINUTE)
      assertRefusal(await ask(), UNAVAILABLE)
    })

    test('asks ahead of time while there is traffic, so that nobody waits', async () => {
      await later(10 * MINUTE)
      assert.equal((await present(mint())).status, 200)
      const fetched = fetches(OTHER_ZONE)
      await later(4.5 * MINUTE)
      let answered = false
      stack.sts.setJwks(OTHER_ZONE, { delay: until(() => answered) })
      assert.equal((await present(mint())).status, 200)
      answered = true
      await until(() => fetches(OTHER_ZONE) === fetched + 1)
      stack.sts.setJwks(OTHER_ZONE, undefined)
    })
  })
})
