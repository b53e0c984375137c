// Holds the index to finding exactly those who stand under an anchor, and to keeping nobody who left.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { anchorClaim, LiveIndex } from '../../lib/live-index.ts'
import type { Anchors } from '../../lib/mandate.ts'
import type { AnchorKind } from '../../lib/revocation-set.ts'

const KINDS = ['session', 'agent_session', 'delegation_edge'] as const
// Few, so that they meet, and some that a joined key would confuse.
const IDS = ['a', 'b', 'session', 'agent_session', '__proto__', 'a\u0000b', '']

const id = fc.constantFrom(...IDS)
const anchors: fc.Arbitrary<Anchors> = fc.record(
  { sid: id, rootSid: id, agentSessionId: id, delegationEdgeId: id },
  { requiredKeys: [] },
)

/** An independent judge: whether a mandate with these anchors stands under one. */
function stands(
  { sid, rootSid, agentSessionId, delegationEdgeId }: Anchors,
  kind: AnchorKind,
  id: string,
) {
  if (kind === 'session') return sid === id || rootSid === id
  return (kind === 'agent_session' ? agentSessionId : delegationEdgeId) === id
}

describe('LiveIndex', () => {
  it('finds whoever came and did not leave, each once, and forgets the others', () => {
    const step = fc.record({ anchors, leaves: fc.nat() })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), steps => {
        const index = new LiveIndex<number>()
        const present = new Map<number, Anchors>()
        for (const [item, { anchors, leaves }] of steps.entries()) {
          index.add(anchors, item)
          present.set(item, anchors)
          const gone = leaves % (2 * steps.length)
          const theirs = present.get(gone)
          if (theirs !== undefined) {
            index.delete(theirs, gone)
            present.delete(gone)
          }
          const taken = new Set<string>()
          for (const kind of KINDS) {
            for (const id of IDS) {
              const expected = [...present].filter(([, theirs]) => stands(theirs, kind, id))
              assert.deepEqual(
                [...index.under(kind, id)],
                expected.map(([item]) => item),
              )
              if (expected.length > 0) taken.add(JSON.stringify([kind, id]))
            }
          }
          assert.equal(index.size, taken.size)
        }
        for (const [item, theirs] of present) index.delete(theirs, item)
        assert.equal(index.size, 0)
      }),
    )
  })

  it('does not mind one who leaves twice, or never came', () => {
    const index = new LiveIndex<string>()
    index.delete({ sid: 'a' }, 'x')
    index.add({ sid: 'a', rootSid: 'a' }, 'x')
    index.add({ sid: 'a' }, 'y')
    index.delete({ sid: 'a', rootSid: 'a' }, 'x')
    index.delete({ sid: 'a', rootSid: 'a' }, 'x')
    assert.deepEqual([...index.under('session', 'a')], ['y'])
  })
})

describe('anchorClaim', () => {
  const all = { sid: 's', rootSid: 'r', agentSessionId: 's', delegationEdgeId: 's' }
  for (const [kind, id, claim] of [
    ['session', 's', 'sid'],
    ['session', 'r', 'root_sid'],
    ['agent_session', 's', 'agent_session_id'],
    ['delegation_edge', 's', 'delegation_edge_id'],
  ] as const) {
    it(`names ${claim}`, () => assert.equal(anchorClaim(all, kind, id), claim))
  }

  it('names sid where both are the same', () => {
    assert.equal(anchorClaim({ sid: 'a', rootSid: 'a' }, 'session', 'a'), 'sid')
  })
})
