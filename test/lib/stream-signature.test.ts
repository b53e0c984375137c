// The signature of stream entries: the shared vectors, order, tampering, rotation.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import * as fc from 'fast-check'
import {
  canonicalStreamEntry,
  hmacKey,
  signStreamEntry,
  verifyStreamEntry,
} from '../../lib/stream-signature.ts'

interface Vector {
  readonly description: string
  readonly stream: string
  readonly values: Readonly<Record<string, string | null>>
  readonly expected_canonical: string
  readonly hmac_key_hex: string
  readonly expected_sig_hex: string
}

const vectors: readonly Vector[] = JSON.parse(
  readFileSync(new URL('../vectors/stream-sig-canonicalize.vectors.json', import.meta.url), 'utf8'),
)
const current = hmacKey('current', 'aa'.repeat(32))
const previous = hmacKey('previous', 'bb'.repeat(32))
// Well-formed text only: Redis hands over nothing else.
const text = fc.string({ unit: 'binary', maxLength: 12 })
const entry = fc
  .dictionary(text, text, { maxKeys: 8 })
  .map((fields): Record<string, string> => ({ ...fields }))

assert.ok(vectors.length >= 4)
for (const vector of vectors) {
  test(`the signature matches the vector: ${vector.description}`, () => {
    const key = hmacKey('key', vector.hmac_key_hex)
    assert.equal(canonicalStreamEntry(vector.stream, vector.values), vector.expected_canonical)
    assert.equal(signStreamEntry(key, vector.stream, vector.values), vector.expected_sig_hex)
    const signed = { ...vector.values, _sig: vector.expected_sig_hex }
    assert.equal(verifyStreamEntry([key], vector.stream, signed), true)
  })
}

test('the canonical form sorts fields by the bytes of their names', () => {
  // UTF-16 order would put U+1F600 (D83D DE00) before U+FF5E.
  const fields = { '\u{1F600}': '3', '\uFF5E': '2', b: '1', B: '0' }
  assert.equal(canonicalStreamEntry('s', fields), 's\nB=0\nb=1\n\uFF5E=2\n\u{1F600}=3\n')
})

test('the canonical form does not depend on the order of the fields', () => {
  fc.assert(
    fc.property(entry, fields => {
      const reversed = Object.fromEntries(Object.entries(fields).toReversed())
      assert.equal(canonicalStreamEntry('s', reversed), canonicalStreamEntry('s', fields))
    }),
  )
})

test('the canonical form keeps a value with line breaks as it is', () => {
  assert.equal(canonicalStreamEntry('s', { a: '1\nb=2', c: '' }), 's\na=1\nb=2\nc=\n')
})

test('the signature covers the stream, every name and every value', () => {
  fc.assert(
    fc.property(entry, text, text, (fields, name, value) => {
      fc.pre(name !== '_sig' && fields[name] !== value)
      const signed = { ...fields, _sig: signStreamEntry(current, 's', fields) }
      assert.equal(verifyStreamEntry([current], 's', signed), true)
      assert.equal(verifyStreamEntry([current], 't', signed), false)
      const changed = { ...signed, [name]: value }
      const same = canonicalStreamEntry('s', changed) === canonicalStreamEntry('s', fields)
      assert.equal(verifyStreamEntry([current], 's', changed), same)
    }),
  )
})

test('the function accepts the current and the previous key and no other', () => {
  const fields = { session_id: 'a' }
  const old = { ...fields, _sig: signStreamEntry(previous, 's', fields) }
  assert.equal(verifyStreamEntry([current, previous], 's', old), true)
  assert.equal(verifyStreamEntry([previous, current], 's', old), true)
  assert.equal(verifyStreamEntry([current], 's', old), false)
  assert.equal(verifyStreamEntry([], 's', old), false)
})

test('the function refuses a signature that is missing or malformed', () => {
  const fields = { session_id: 'a' }
  const good = signStreamEntry(current, 's', fields)
  const bad = [undefined, null, '', 'x', good.slice(1), `${good}0`, 'é'.repeat(32), 'z'.repeat(64)]
  for (const signature of [...bad, good.toUpperCase(), ` ${good.slice(1)}`]) {
    assert.equal(verifyStreamEntry([current], 's', { ...fields, _sig: signature }), false)
  }
})

test('the function names the option of an unusable key and not its value', () => {
  for (const value of ['', 'abc', 'not hex at all!', '0x00']) {
    assert.throws(
      () => hmacKey('hmacKey', value),
      (error: Error) => /hmacKey/.test(error.message) && (!value || !error.message.includes(value)),
    )
  }
})
