// Holds the look at the circuit to contract section 2: it denies before anything is spent.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Denial } from '../../denial.ts'
import { denyOpenCircuit } from '../../hooks/sts-circuit-open.ts'
import type { Sts } from '../../plugins/sts.ts'
import { judge, mandate } from './judge.ts'

async function judged(refusal: Denial | undefined) {
  const sts: Sts = {
    refusal: () => refusal,
    exchange: () => assert.fail('the STS was asked'),
    healthy: async () => true,
    circuitOpen: refusal !== undefined,
  }
  return judge(denyOpenCircuit(sts), { passage: { mandate: mandate() } })
}

describe('denyOpenCircuit', () => {
  it('admits while the circuit is closed', async () => {
    const { check } = await judged(undefined)
    assert.equal(check, 'admitted')
  })

  it('denies while it is open, with the circuit’s own Retry-After', async () => {
    const refusal = new Denial('sts_circuit_open', { headers: { 'retry-after': '7' } })
    const { check, denial, passage } = await judged(refusal)
    assert.equal(check, 'sts_circuit_open')
    assert.equal(denial?.headers?.['retry-after'], '7')
    assert.equal(passage.spent, false)
  })
})
