// Holds the source of nonces to never give the same bytes twice.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RandomHex } from '../../lib/random-hex.ts'

test('draws so many bytes, none of them twice, over the ends of its pool', () => {
  const random = new RandomHex()
  const drawn = Array.from({ length: 2_000 }, (_, n) => random.draw(n % 3 === 0 ? 24 : 32))
  for (const [n, hex] of drawn.entries())
    assert.match(hex, n % 3 === 0 ? /^[0-9a-f]{48}$/ : /^[0-9a-f]{64}$/)
  assert.equal(new Set(drawn.map(hex => hex.slice(0, 16))).size, drawn.length)
  assert.equal(
    drawn.some(hex => /^0+$/.test(hex)),
    false,
  )
})

test('gives what another source does not', () => {
  assert.notEqual(new RandomHex().draw(32), new RandomHex().draw(32))
})
