// Holds the resource header to contract section 2: one value, not blank, in UTF-8.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { denyMissingResourceHeader } from '../../hooks/missing-resource-header.ts'
import { judge } from './judge.ts'

const NAME = 'X-Caracal-Resource'
const judged = (value: string, rawHeaders?: string[]) =>
  judge(denyMissingResourceHeader(), {
    headers: { [NAME]: value },
    ...(rawHeaders !== undefined && { rawHeaders }),
  })

describe('denyMissingResourceHeader', () => {
  for (const [value, resource] of [
    ['resource://a', 'resource://a'],
    ['  resource://a ', 'resource://a'],
    ['resource://a,b', 'resource://a,b'],
    ['resource://a, b', 'resource://a, b'],
    [Buffer.from('resource://ä').toString('latin1'), 'resource://ä'],
  ] as const) {
    it(`admits ${JSON.stringify(value)}`, async () => {
      const { check, passage } = await judged(value)
      assert.equal(check, 'admitted')
      assert.equal(passage.resource, resource)
    })
  }

  for (const value of ['', ' ', '\t ']) {
    it(`denies ${JSON.stringify(value)}`, async () => {
      const { check, passage } = await judged(value)
      assert.equal(check, 'missing_resource_header')
      assert.equal(passage.resource, undefined)
    })
  }

  it('denies none', async () => {
    assert.equal((await judge(denyMissingResourceHeader())).check, 'missing_resource_header')
  })

  for (const [first, second] of [
    ['resource://a', 'resource://b'],
    ['resource://a', 'resource://a'],
    ['resource://a', ''],
    ['', ''],
  ] as const) {
    it(`denies it sent as ${JSON.stringify([first, second])}`, async () => {
      // Node joins repeated fields so.
      const joined = `${first}, ${second}`
      const { check } = await judged(joined, [
        NAME,
        first,
        'Accept',
        '*/*',
        NAME.toUpperCase(),
        second,
      ])
      assert.equal(check, 'missing_resource_header')
    })
  }
})
