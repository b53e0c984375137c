// Holds the revocation check to contract section 6: any of four anchors, by its own name.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { denyRevoked } from '../../hooks/revoked.ts'
import type { Anchors } from '../../lib/mandate.ts'
import type { Revocations } from '../../plugins/revocations/index.ts'
import { judge, mandate } from './judge.ts'

async function judged(revoked: boolean, claims: Readonly<Record<string, unknown>>) {
  const asked: Anchors[] = []
  const revocations: Pick<Revocations, 'isRevoked'> = {
    isRevoked(anchors) {
      asked.push(anchors)
      return revoked
    },
  }
  const given = { passage: { mandate: mandate(claims) } }
  return { ...(await judge(denyRevoked(revocations), given)), asked }
}

describe('denyRevoked', () => {
  it('asks about every anchor of the mandate', async () => {
    const claims = { sid: 's', root_sid: 'r', agent_session_id: 'a', delegation_edge_id: 'd' }
    const { check, asked } = await judged(false, claims)
    assert.equal(check, 'admitted')
    const anchors = { sid: 's', rootSid: 'r', agentSessionId: 'a', delegationEdgeId: 'd' }
    assert.deepEqual(asked, [anchors])
  })

  it('denies a revoked one', async () => {
    assert.equal((await judged(true, { sid: 's' })).check, 'revoked')
  })

  it('asks about nothing that the mandate does not say', async () => {
    assert.deepEqual((await judged(false, { sid: '', root_sid: 1 })).asked, [{}])
  })
})
