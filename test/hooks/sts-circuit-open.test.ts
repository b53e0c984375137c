// Holds the look at the circuit to contract section 2: it denies before anything is spent, and counts that it did.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Denial } from '../../denial.ts'
import { denyOpenCircuit } from '../../hooks/sts-circuit-open.ts'
import type { Sts } from '../../plugins/sts.ts'
import { judge, mandate } from './judge.ts'

async function judged(refusal: Denial | undefined) {
  let fastFails = 0
  const sts: Sts = {
    refusal: () => refusal,
    exchange: () => assert.fail('the STS was asked'),
    healthy: async () => true,
    circuitOpen: refusal !== undefined,
  }
  const check = denyOpenCircuit(sts, () => {
    fastFails += 1
  })
  const verdict = await judge(check, { passage: { mandate: mandate() } })
  return { ...verdict, fastFails }
}

describe('denyOpenCircuit', () => {
  it('admits while the circuit is closed', async () => {
    const { check, fastFails } = await judged(undefined)
    assert.deepEqual([check, fastFails], ['admitted', 0])
  })

  it('denies while it is open, with the circuit’s own Retry-After', async () => {
    const refusal = new Denial('sts_circuit_open', { headers: { 'retry-after': '7' } })
    const { check, denial, fastFails, passage } = await judged(refusal)
    assert.deepEqual([check, fastFails], ['sts_circuit_open', 1])
    assert.equal(denial?.headers?.['retry-after'], '7')
    assert.equal(passage.spent, false)
  })
})
