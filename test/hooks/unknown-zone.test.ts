// Holds a zone to contract section 2: where bindings are configured, one of them must name it.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { denyUnknownZone } from '../../hooks/unknown-zone.ts'
import type { Bindings } from '../../lib/bindings.ts'
import { NO_BINDINGS, bindings, judge, presented } from './judge.ts'

const judged = (source: Bindings, zone_id: unknown) =>
  judge(denyUnknownZone(source), { passage: { presented: presented({ zone_id }) } })

describe('denyUnknownZone', () => {
  it('admits a zone that a binding names', async () => {
    assert.equal((await judged(bindings('enforced'), 'zone-1')).check, 'admitted')
  })
  for (const zone of ['zone-2', 'ZONE-1', 'constructor', undefined]) {
    it(`denies ${zone}`, async () => {
      assert.equal((await judged(bindings('enforced'), zone)).check, 'unknown_zone')
    })
  }
  it('admits every zone where nobody configured bindings', async () => {
    assert.equal((await judged(NO_BINDINGS, 'zone-2')).check, 'admitted')
  })
})
