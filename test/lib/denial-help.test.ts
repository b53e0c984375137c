// What the gateway's help says of its checks agrees with their order and with the configuration.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { schema } from '../../config.ts'
import { DENIALS, isCheck } from '../../denial.ts'
import { DENIAL_HELP, type DenialHelp } from '../../lib/denial-help.ts'

const CHECKS = Object.keys(DENIALS).filter(isCheck)
const SPENDING = CHECKS.indexOf('replayed')

describe('the help for a check', () => {
  it('has the order of the checks', () => {
    assert.deepEqual(Object.keys(DENIAL_HELP), CHECKS)
  })

  for (const [index, check] of CHECKS.entries()) {
    const { cause, cure, mandate }: DenialHelp = DENIAL_HELP[check]

    it(`of ${check} is made of sentences`, () => {
      for (const text of [cause, cure]) assert.match(text, /^[A-Z`].*\.$/)
    })

    it(`of ${check} does not call a mandate good after it was spent, nor spent before`, () => {
      assert.notEqual(mandate, index < SPENDING ? 'spent' : 'unspent')
    })

    it(`of ${check} names variables that there are`, () => {
      for (const [, name = ''] of `${cause} ${cure}`.matchAll(/`([A-Z][A-Z_]{3,})`/g)) {
        if (['CONNECT', 'HEAD'].includes(name)) continue
        assert.ok(Object.hasOwn(schema.properties, name), name)
      }
    })
  }
})
