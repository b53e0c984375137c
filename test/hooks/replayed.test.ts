// Holds the replay check to contract section 3: one use, and no open door while the store is away.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { denyReplayed } from '../../hooks/replayed.ts'
import { judge, mandate, recordedStages } from './judge.ts'

const NOW = 1_789_999_900_500
const EXP = 1_790_000_000

interface Options {
  readonly first?: boolean | Error
  readonly failOpen?: boolean
  readonly claims?: Readonly<Record<string, unknown>>
}

async function judged({ first = true, failOpen = false, claims = {} }: Options) {
  const claimed: [jti: string, milliseconds: number][] = []
  const stages = recordedStages()
  const guard = {
    async claim(jti: string, requestId: string, milliseconds: number) {
      assert.notEqual(requestId, '')
      claimed.push([jti, milliseconds])
      if (first instanceof Error) throw first
      return first
    },
  }
  const check = denyReplayed(guard, { failOpen, now: () => NOW, stages })
  const given = { passage: { mandate: mandate({ exp: EXP, ...claims }) } }
  return { ...(await judge(check, given)), claimed, stages: stages.record }
}

describe('denyReplayed', () => {
  it('admits the first use, and claims it until the token’s end', async () => {
    const { check, passage, claimed, stages } = await judged({})
    assert.equal(check, 'admitted')
    assert.deepEqual(claimed, [['j-1', 99_500]])
    assert.equal(passage.spent, true)
    assert.deepEqual(stages, [['replay', 'ended']])
  })

  it('denies a second use', async () => {
    const { check, denial, passage, stages } = await judged({ first: false })
    assert.equal(check, 'replayed')
    assert.deepEqual(stages, [['replay', denial]])
    assert.equal(passage.spent, false)
  })

  it('denies while the store cannot answer, and says why in the log alone', async () => {
    const { check, denial, passage, stages } = await judged({ first: new Error('ECONNREFUSED') })
    assert.equal(check, 'replay_state_unavailable')
    assert.deepEqual(stages, [['replay', denial]])
    assert.equal(passage.spent, false)
    assert.match(String(denial?.cause), /ECONNREFUSED/)
    assert.ok(!denial?.description.includes('ECONNREFUSED'))
  })

  it('admits while the store cannot answer where JTI_FAIL_OPEN says so', async () => {
    assert.equal((await judged({ first: new Error('away'), failOpen: true })).check, 'admitted')
  })

  it('denies a second use wherever the store can answer, JTI_FAIL_OPEN or not', async () => {
    assert.equal((await judged({ first: false, failOpen: true })).check, 'replayed')
  })

  it('does not consume a session mandate', async () => {
    const { check, passage, claimed, stages } = await judged({
      first: false,
      claims: { use: 'session' },
    })
    assert.equal(check, 'admitted')
    assert.deepEqual([claimed, stages], [[], []])
    assert.equal(passage.spent, false)
  })

  it('claims a token that ended in the meantime for a moment, not for a time gone by', async () => {
    const { claimed } = await judged({ claims: { exp: 1_000 } })
    assert.deepEqual(claimed, [['j-1', 1]])
  })
})
