// Positions in a stream.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { compareStreamIds, streamIdTime } from '../../lib/stream-id.ts'

const half = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })

test('the function orders ids by time, then by sequence, as numbers', () => {
  fc.assert(
    fc.property(half, half, half, half, (aTime, aSequence, bTime, bSequence) => {
      const a = (aTime << 64n) | aSequence
      const b = (bTime << 64n) | bSequence
      const expected = a < b ? -1 : a > b ? 1 : 0
      assert.equal(compareStreamIds(`${aTime}-${aSequence}`, `${bTime}-${bSequence}`), expected)
    }),
  )
  assert.ok(compareStreamIds('9-0', '10-0') < 0)
  assert.ok(compareStreamIds('10-9', '10-10') < 0)
  assert.equal(compareStreamIds('10-1', '10-1'), 0)
})

test('the function reads the time of an id', () => {
  assert.equal(streamIdTime('1700000000123-7'), 1700000000123)
})

test('the function refuses what is no id', () => {
  for (const id of ['', '1', '1-', '-1', '1-1-1', 'a-b', '(1-1', ' 1-1', '1-1\n']) {
    assert.throws(() => compareStreamIds(id, '1-1'), TypeError, id)
    assert.throws(() => streamIdTime(id), TypeError, id)
  }
})
