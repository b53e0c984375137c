// Only EC P-256 keys for ES256 signatures come out of a set, whatever else is in it.

import assert from 'node:assert/strict'
import { createPublicKey, generateKeyPairSync } from 'node:crypto'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { MAX_KEYS, publicKeyPem, usableKeys } from '../../lib/jwk.ts'

function jwk(kid: string, more: Record<string, unknown> = {}): Record<string, unknown> {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  return { ...publicKey.export({ format: 'jwk' }), alg: 'ES256', kid, ...more }
}

test('publicKeyPem returns the PEM text of the same key', () => {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const exported = publicKey.export({ format: 'jwk' })
  const pem = publicKeyPem({ ...exported, alg: 'ES256', kid: 'k', use: 'sig' })
  assert.ok(pem)
  assert.ok(createPublicKey(pem).equals(publicKey))
})

test('publicKeyPem never carries a private part over', () => {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const pem = publicKeyPem({ ...privateKey.export({ format: 'jwk' }), alg: 'ES256', kid: 'k' })
  assert.equal(pem, publicKey.export({ type: 'spki', format: 'pem' }))
})

const good = jwk('a')
const p384 = generateKeyPairSync('ec', { namedCurve: 'P-384' }).publicKey.export({ format: 'jwk' })
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey.export({ format: 'jwk' })
const UNUSABLE: [string, unknown][] = [
  ['null', null],
  ['a string', 'key'],
  ['an array', [good]],
  ['an RSA key', { ...rsa, alg: 'ES256', kid: 'a' }],
  ['a symmetric key', { kty: 'oct', k: 'AAAA', alg: 'HS256', kid: 'a' }],
  ['a P-384 key', { ...p384, alg: 'ES256', kid: 'a' }],
  ['P-384 coordinates called P-256', { ...p384, crv: 'P-256', alg: 'ES256', kid: 'a' }],
  ['secp256k1', { ...good, crv: 'secp256k1' }],
  ['no alg', { ...good, alg: undefined }],
  ['another alg', { ...good, alg: 'ES384' }],
  ['use enc', { ...good, use: 'enc' }],
  ['use null', { ...good, use: null }],
  ['no kid', { ...good, kid: undefined }],
  ['a numeric kid', { ...good, kid: 1 }],
  ['a kid that is not well-formed', { ...good, kid: '\ud800' }],
  ['no x', { ...good, x: undefined }],
  ['a short x', { ...good, x: 'AA' }],
  ['a point off the curve', { ...good, y: good.x }],
]
for (const [what, value] of UNUSABLE) {
  test(`usableKeys and publicKeyPem ignore ${what}`, () => {
    assert.equal(publicKeyPem(value), undefined)
    const keys = usableKeys({ keys: [value, jwk('b')] })
    assert.deepEqual([...(keys?.keys() ?? [])], ['b'])
  })
}

test('usableKeys takes the first usable key of a kid', () => {
  const first = jwk('a')
  const keys = usableKeys({
    keys: [{ ...first, alg: 'RS256' }, { ...good, y: good.x }, first, good],
  })
  assert.equal(keys?.size, 1)
  assert.equal(keys?.get('a')?.x, first.x)
})

test('usableKeys keeps only the members that verification needs', () => {
  const keys = usableKeys({ keys: [{ ...good, d: 'secret', x5c: ['x'], key_ops: ['verify'] }] })
  const { kty, crv, alg, kid, x, y } = good
  assert.deepEqual(keys?.get('a'), { kty, crv, alg, kid, x, y })
})

test('usableKeys is an empty map for a set without a usable key', () => {
  assert.equal(usableKeys({ keys: [] })?.size, 0)
  assert.equal(usableKeys({ keys: [null, 1, {}] })?.size, 0)
})

test('usableKeys is undefined for what is no set', () => {
  for (const value of [
    undefined,
    null,
    1,
    'keys',
    [],
    {},
    { keys: null },
    { keys: {} },
    { keys: 'a' },
  ]) {
    assert.equal(usableKeys(value), undefined)
  }
})

test('usableKeys stops at its limit', () => {
  const many = Array.from({ length: MAX_KEYS + 20 }, (_, index) => ({ ...good, kid: `k${index}` }))
  assert.equal(usableKeys({ keys: many })?.size, MAX_KEYS)
})

test('usableKeys takes a kid for a name, whatever the name', () => {
  const keys = usableKeys({
    keys: [
      { ...good, kid: '__proto__' },
      { ...good, kid: '' },
    ],
  })
  assert.deepEqual([...(keys?.keys() ?? [])], ['__proto__', ''])
})

test('usableKeys never throws', () => {
  fc.assert(
    fc.property(fc.anything(), value => {
      usableKeys(value)
      usableKeys({ keys: [value, { ...good, ...(typeof value === 'object' ? value : {}) }] })
    }),
  )
})
