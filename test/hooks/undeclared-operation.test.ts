// Holds an operation to contract section 10: declared, observed, or not looked at.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { denyUndeclaredOperation } from '../../hooks/undeclared-operation.ts'
import { type Given, NO_BINDINGS, RESOURCE, boundRequest, judge } from './judge.ts'

const judged = async (given: Given) => {
  const noted: string[] = []
  const verdict = await judge(
    denyUndeclaredOperation(NO_BINDINGS, check => void noted.push(check)),
    given,
  )
  return { ...verdict, noted }
}

describe('denyUndeclaredOperation', () => {
  it('admits a declared operation, and establishes it', async () => {
    const { check, passage } = await judged(boundRequest('enforced', '/v1/invoices/7'))
    assert.equal(check, 'admitted')
    assert.equal(passage.operation?.scope, 'billing:read')
  })

  for (const path of [
    '/v1/invoices',
    '/v1/invoices/',
    '/v1/invoices/7/',
    '/V1/invoices/7',
    '/v1//invoices/7',
  ]) {
    it(`denies ${path}, and names method, path and resource`, async () => {
      const { check, denial, noted } = await judged(boundRequest('enforced', path))
      assert.equal(check, 'undeclared_operation')
      for (const part of ['GET', path, RESOURCE]) assert.ok(denial?.description.includes(part))
      assert.deepEqual(noted, [])
    })
  }

  it('only notes what an observed resource would refuse', async () => {
    const { check, passage, noted } = await judged(boundRequest('observe', '/other'))
    assert.equal(check, 'admitted')
    assert.equal(passage.wouldDeny, 'undeclared_operation')
    assert.deepEqual(noted, ['undeclared_operation'])
  })

  it('notes nothing for a declared operation of an observed resource', async () => {
    const { passage, noted } = await judged(boundRequest('observe', '/v1/open'))
    assert.equal(passage.wouldDeny, undefined)
    assert.deepEqual(noted, [])
  })

  for (const enforcement of ['transport_uniform', undefined] as const) {
    it(`does not look at operations of ${enforcement ?? 'no'} binding`, async () => {
      const { check, passage } = await judged(boundRequest(enforcement, '/other'))
      assert.equal(check, 'admitted')
      assert.equal(passage.operation, undefined)
    })
  }
})
