// Holds the receipt to telling the time of the first end, and no time that nobody knows.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { RevocationReceipt } from '../../lib/revocation-receipt.ts'

describe('RevocationReceipt', () => {
  it('is of a request that goes on until it is stamped', () => {
    const receipt = new RevocationReceipt('sid', 1_000)
    assert.deepEqual([receipt.cut, receipt.latencyMs], [false, undefined])
    receipt.stamp(1_042)
    receipt.stamp(2_000)
    assert.deepEqual([receipt.anchor, receipt.cut, receipt.latencyMs], ['sid', true, 42])
  })

  it('tells whole milliseconds, none below zero', () => {
    for (const [cutAt, latency] of [
      [1_000.6, 1],
      [1_000, 0],
      [999, 0],
    ] as const) {
      const receipt = new RevocationReceipt('root_sid', 1_000)
      receipt.stamp(cutAt)
      assert.equal(receipt.latencyMs, latency)
    }
  })

  it('tells no latency where nobody said when it was revoked', () => {
    const receipt = new RevocationReceipt('delegation_edge_id', undefined)
    receipt.stamp(1)
    assert.deepEqual([receipt.cut, receipt.latencyMs], [true, undefined])
  })
})
