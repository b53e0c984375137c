// Holds a resource to contract sections 2 and 10: bound in the mandate’s zone, where bindings are configured.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { denyUnboundResource } from '../../hooks/unbound-resource.ts'
import type { Bindings } from '../../lib/bindings.ts'
import { NO_BINDINGS, RESOURCE, bindings, judge, mandate } from './judge.ts'

const judged = (source: Bindings, resource: string, zone_id = 'zone-1') =>
  judge(denyUnboundResource(source), { passage: { resource, mandate: mandate({ zone_id }) } })

describe('denyUnboundResource', () => {
  it('admits a bound resource, and establishes its binding', async () => {
    const { check, passage } = await judged(bindings('observe'), RESOURCE)
    assert.equal(check, 'admitted')
    assert.equal(passage.binding?.enforcement, 'observe')
  })
  for (const [resource, zone] of [
    ['resource://b', 'zone-1'],
    ['resource://A', 'zone-1'],
    [RESOURCE, 'zone-2'],
    ['__proto__', 'zone-1'],
  ] as const) {
    it(`denies ${resource} of ${zone}`, async () => {
      assert.equal((await judged(bindings('enforced'), resource, zone)).check, 'unbound_resource')
    })
  }
  it('admits every resource, without a binding, where nobody configured bindings', async () => {
    const { check, passage } = await judged(NO_BINDINGS, 'resource://b')
    assert.equal(check, 'admitted')
    assert.equal(passage.binding, undefined)
  })
})
