// Holds the scope to contract section 10: the operation’s, whole, among the mandate’s.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { denyMissingScope } from '../../hooks/missing-scope.ts'
import type { Enforcement } from '../../lib/bindings.ts'
import { bindings, boundRequest, judge } from './judge.ts'

const judged = async (enforcement: Enforcement, scope: string, needed = 'billing:read') => {
  const noted: string[] = []
  const { passage = {} } = boundRequest(enforcement, '/v1/invoices/7', scope)
  const operation = { method: 'GET', path: '/', scope: needed }
  const verdict = await judge(
    denyMissingScope(bindings(enforcement), check => void noted.push(check)),
    { passage: { ...passage, operation } },
  )
  return { ...verdict, noted }
}

describe('denyMissingScope', () => {
  for (const scope of ['billing:read', 'a billing:read b']) {
    it(`admits the scope ${JSON.stringify(scope)}`, async () => {
      assert.equal((await judged('enforced', scope)).check, 'admitted')
    })
  }

  for (const scope of [
    '',
    'billing',
    'billing:readx',
    'BILLING:READ',
    'billing:*',
    'a,billing:read',
  ]) {
    it(`denies the scope ${JSON.stringify(scope)}, and names the one that is missing`, async () => {
      const { check, denial, noted } = await judged('enforced', scope)
      assert.equal(check, 'missing_scope')
      assert.match(denial?.description ?? '', /billing:read/)
      assert.deepEqual(noted, [])
    })
  }

  it('admits an operation that needs no scope', async () => {
    assert.equal((await judged('enforced', '', '')).check, 'admitted')
  })

  it('only notes what an observed resource would refuse', async () => {
    const { check, passage, noted } = await judged('observe', 'other')
    assert.equal(check, 'admitted')
    assert.equal(passage.wouldDeny, 'missing_scope')
    assert.deepEqual(noted, ['missing_scope'])
  })
})
