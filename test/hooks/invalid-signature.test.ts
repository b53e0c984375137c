// Holds the signature check to contract sections 2 and 3: nothing is granted that its zone's key does not verify.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Denial } from '../../denial.ts'
import { denyInvalidSignature } from '../../hooks/invalid-signature.ts'
import type { KeySets, Verifier } from '../../plugins/jwks.ts'
import { judge, presented, recordedStages } from './judge.ts'

const CLAIMS = { zone_id: 'zone-1', client_id: 'client-1', jti: 'j-1', use: 'gateway' }
const TOKEN = presented({ ...CLAIMS, jti: 'not the verified one' })

type Answer = ReturnType<KeySets['verifier']>

/** Judges a token while the key sets answer so; tells what they were asked, and what was measured. */
async function judged(answer: () => Answer, token = TOKEN) {
  const asked: string[][] = []
  const stages = recordedStages()
  const keySets: KeySets = {
    verifier(zone, kid) {
      asked.push([zone, kid])
      return answer()
    },
  }
  const check = denyInvalidSignature(keySets, stages)
  const verdict = await judge(check, { passage: { presented: token } })
  return { ...verdict, asked, stages: stages.record }
}

const verifies: Verifier = token => {
  assert.equal(token, TOKEN.token)
  return CLAIMS
}
const refuses: Verifier = () => {
  throw new Error('The token signature is invalid.')
}

describe('denyInvalidSignature', () => {
  for (const [title, answer] of [
    ['a key at hand', () => verifies],
    ['a key that had to be fetched', async () => verifies],
  ] as [string, () => Answer][]) {
    it(`grants the verified claims, of ${title}`, async () => {
      const { check, passage, asked, stages } = await judged(answer)
      assert.equal(check, 'admitted')
      assert.equal(passage.mandate?.jti, 'j-1')
      assert.equal(passage.mandate?.exp, TOKEN.exp)
      assert.deepEqual(asked, [['zone-1', 'k']])
      assert.deepEqual(stages, [['verify', 'ended']])
    })
  }

  for (const [title, answer, denied] of [
    ['a signature that does not hold', () => refuses, 'invalid_signature'],
    ['one under a fetched key', async () => refuses, 'invalid_signature'],
    ['a kid that the zone does not have', () => undefined, 'invalid_signature'],
    ['a kid that a fetch does not bring', async () => undefined, 'invalid_signature'],
    [
      'any token while the keys are away',
      () => Promise.reject(new Denial('keys_unavailable')),
      'keys_unavailable',
    ],
  ] as [string, () => Answer, string][]) {
    it(`denies ${title}`, async () => {
      const { check, denial, passage, stages } = await judged(answer)
      assert.equal(check, denied)
      assert.equal(passage.mandate, undefined)
      assert.deepEqual(stages, [['verify', denial]])
    })
  }

  it('says nothing of the verifier’s reason, but keeps it for the log', async () => {
    const { denial } = await judged(() => refuses)
    assert.equal(denial?.description, 'bearer signature invalid')
    assert.match(String(denial?.cause), /signature is invalid/)
  })

  for (const header of [
    {},
    { alg: 'ES256' },
    { alg: 'ES256', kid: '' },
    { alg: 'ES256', kid: 1 },
    { alg: 'none', kid: 'k' },
    { alg: 'es256', kid: 'k' },
    { alg: 'HS256', kid: 'k' },
    { alg: ['ES256'], kid: 'k' },
    { kid: 'k' },
  ]) {
    it(`denies ${JSON.stringify(header)} without asking for a key`, async () => {
      const { check, asked, stages } = await judged(() => verifies, presented(CLAIMS, header))
      assert.equal(check, 'invalid_signature')
      assert.deepEqual([asked, stages], [[], []])
    })
  }
})
