// Holds the reading of a bearer token to contract section 2: nothing of it is trusted, and nothing of it can harm.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { bearerToken, MAX_BEARER_BYTES, readBearer } from '../../lib/bearer.ts'

const base64url = (data: string | Buffer) => Buffer.from(data).toString('base64url')
const HEADER = base64url('{"alg":"ES256","kid":"k"}')
const jws = (payload: string | Buffer, header = HEADER) => `${header}.${base64url(payload)}.c2ln`

describe('bearerToken', () => {
  const cases: [authorization: string | undefined, token: string | undefined][] = [
    ['Bearer a.b.c', 'a.b.c'],
    ['bearer a.b.c', 'a.b.c'],
    ['BEARER a.b.c', 'a.b.c'],
    ['Bearer   a.b.c  ', 'a.b.c'],
    ['Bearer x', 'x'],
    [undefined, undefined],
    ['', undefined],
    ['Bearer', undefined],
    ['Bearer ', undefined],
    ['Bearer    ', undefined],
    ['Bearera.b.c', undefined],
    ['Bearer\ta.b.c', undefined],
    ['Basic a.b.c', undefined],
    ['DPoP a.b.c', undefined],
    [' Bearer a.b.c', undefined],
    ['a.b.c', undefined],
    ['Bearer: a.b.c', undefined],
  ]
  for (const [authorization, token] of cases) {
    it(`reads ${JSON.stringify(authorization)} as ${JSON.stringify(token)}`, () => {
      assert.equal(bearerToken(authorization), token)
    })
  }
})

describe('readBearer', () => {
  it('reads header, claims and expiry, and keeps the token as it came', () => {
    const token = jws('{"exp":1790000000,"zone_id":"z"}')
    assert.deepEqual(readBearer(token), {
      token,
      header: { alg: 'ES256', kid: 'k' },
      claims: { exp: 1_790_000_000, zone_id: 'z' },
      exp: 1_790_000_000,
    })
  })

  it('takes a repeated name’s last value, as the verified claims do', () => {
    assert.equal(readBearer(jws('{"exp":5,"exp":1790000000}'))?.exp, 1_790_000_000)
    assert.deepEqual(readBearer(jws('{"exp":5,"\\u0065xp":7}'))?.claims, { exp: 7 })
  })

  it('reads a name like __proto__ as a claim, not as a prototype', () => {
    const claims = readBearer(jws('{"__proto__":{"exp":1790000000}}'))
    assert.equal(claims, undefined)
    const read = readBearer(jws('{"exp":1,"__proto__":{"zone_id":"z"}}'))
    assert.equal(read?.claims['zone_id'], undefined)
  })

  const expiries: [json: string, admitted: boolean][] = [
    ['1', true],
    ['1e3', true],
    ['1790000000.0', true],
    ['253402300799', true],
    ['253402300800', false],
    ['0', false],
    ['-0', false],
    ['-1', false],
    ['1.5', false],
    ['1790000000.000001', false],
    ['1e308', false],
    ['1e999', false],
    ['"1790000000"', false],
    ['null', false],
    ['true', false],
    ['[1790000000]', false],
    ['{}', false],
  ]
  for (const [json, admitted] of expiries) {
    it(`${admitted ? 'admits' : 'refuses'} an exp of ${json}`, () => {
      assert.equal(readBearer(jws(`{"exp":${json}}`)) !== undefined, admitted)
    })
  }

  const PAYLOAD = base64url('{"exp":1}')
  const malformed: [title: string, token: string][] = [
    ['nothing', ''],
    ['one part', 'abc'],
    ['two parts', `${HEADER}.${PAYLOAD}`],
    ['four parts', `${HEADER}.${PAYLOAD}.c2ln.c2ln`],
    ['five parts, a JWE', `${HEADER}.${PAYLOAD}.a.b.c`],
    ['an empty header', `.${PAYLOAD}.c2ln`],
    ['an empty payload', `${HEADER}..c2ln`],
    ['dots', '..'],
    ['no exp', jws('{}')],
    ['a payload that is an array', jws('[{"exp":1}]')],
    ['a payload that is text', jws('"exp"')],
    ['a payload that is null', jws('null')],
    ['a payload that is no JSON', jws('exp=1')],
    ['a payload with something behind it', jws('{"exp":1} {}')],
    ['a payload that begins with a byte order mark', jws('\ufeff{"exp":1}')],
    ['a payload that is not UTF-8', jws(Buffer.from('{"exp":1,"a":"\xff"}', 'latin1'))],
    ['a header that is an array', jws('{"exp":1}', base64url('[]'))],
    ['a header that is no JSON', jws('{"exp":1}', base64url('alg'))],
    ['a padded segment', `${HEADER}.${Buffer.from('{"exp":12}').toString('base64')}==.c2ln`],
    ['white space in a segment', `${HEADER}.${PAYLOAD.slice(0, 4)} ${PAYLOAD.slice(4)}.c2ln`],
    [
      'the alphabet of base64',
      `${HEADER}.${base64url('{"exp":1,"a":"?>?>?>"}').replaceAll('_', '/')}.c`,
    ],
    ['a segment of an impossible length', `${HEADER}.${PAYLOAD}A.c2ln`],
  ]
  for (const [title, token] of malformed) {
    it(`refuses ${title}`, () => assert.equal(readBearer(token), undefined))
  }

  it('never throws, whatever it is given', () => {
    const part = fc.oneof(
      fc.string({ maxLength: 8 }),
      fc.json().map(base64url),
      fc.uint8Array({ maxLength: 12 }).map(bytes => Buffer.from(bytes).toString('base64url')),
    )
    fc.assert(
      fc.property(fc.array(part, { maxLength: 5 }), parts => {
        const read = readBearer(parts.join('.'))
        if (read === undefined) return
        assert.ok(Number.isInteger(read.exp) && read.exp >= 1 && read.exp <= 253_402_300_799)
      }),
      { numRuns: 1000 },
    )
  })

  it('reads back every header and payload that was written', () => {
    const json = fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 2 }), {
      maxKeys: 5,
      noNullPrototype: true,
    })
    fc.assert(
      fc.property(json, json, fc.integer({ min: 1, max: 253_402_300_799 }), (header, rest, exp) => {
        const claims = { ...rest, exp }
        const text = JSON.stringify(claims)
        const token = jws(text, base64url(JSON.stringify(header)))
        const read = readBearer(token)
        assert.ok(read)
        assert.equal(read.token, token)
        assert.equal(read.exp, exp)
        assert.equal(JSON.stringify(read.claims), text)
        assert.equal(JSON.stringify(read.header), JSON.stringify(header))
      }),
    )
  })

  it('is told the limit in bytes by the contract', () => assert.equal(MAX_BEARER_BYTES, 4096))
})
