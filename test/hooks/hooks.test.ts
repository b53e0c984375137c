// Holds the checks that look at a request alone to contract section 2: admitted, denied, and the boundary between.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Denial } from '../../denial.ts'
import { denyClientIdHeader } from '../../hooks/client-id-header.ts'
import { denyWithoutEvidence, denyWithoutIntent } from '../../hooks/evidence-unavailable.ts'
import { denyExpiringBearer } from '../../hooks/expiring-bearer.ts'
import { denyMalformedBearer } from '../../hooks/malformed-bearer.ts'
import { denyMandateTarget } from '../../hooks/mandate-target.ts'
import { denyMandateUse } from '../../hooks/mandate-use.ts'
import { denyMissingBearer } from '../../hooks/missing-bearer.ts'
import { denyMissingClient } from '../../hooks/missing-client.ts'
import { denyMissingTokenId } from '../../hooks/missing-token-id.ts'
import { denyMissingZone } from '../../hooks/missing-zone.ts'
import { denyOversizedBearer } from '../../hooks/oversized-bearer.ts'
import { denyTooLargeRequest } from '../../hooks/request-too-large.ts'
import { denyStaleRevocations } from '../../hooks/revocation-state-unavailable.ts'
import type { Check } from '../../plugins/passage.ts'
import { type Given, judge, mandate, presented } from './judge.ts'

const NOW = 1_789_000_000_000
const NOW_SECONDS = NOW / 1000
const expiring = denyExpiringBearer(() => NOW)

const identifiers: [value: unknown, admitted: boolean][] = [
  ['zone-1', true],
  ['A.b_c:d-9', true],
  ['x'.repeat(128), true],
  ['x'.repeat(129), false],
  ['', false],
  ['a b', false],
  ['a\n', false],
  [undefined, false],
  [null, false],
  [7, false],
  [['zone-1'], false],
]

const audit = (accepting: boolean) => ({ accepting: () => accepting })

const revocations = (fresh: boolean) => ({
  isFresh: () => fresh,
})

interface Case {
  readonly title: string
  readonly check: Check
  readonly given?: Given
  /** The name of the check that denies; absent: it admits. */
  readonly denied?: string
}

const cases: Case[] = [
  {
    title: 'no evidence',
    check: denyWithoutEvidence(audit(false)),
    denied: 'evidence_unavailable',
  },
  { title: 'evidence that can be kept', check: denyWithoutEvidence(audit(true)) },
  {
    title: 'a stale revocation state',
    check: denyStaleRevocations(revocations(false)),
    denied: 'revocation_state_unavailable',
  },
  { title: 'a fresh revocation state', check: denyStaleRevocations(revocations(true)) },

  {
    title: 'a bearer',
    check: denyMissingBearer(),
    given: { headers: { authorization: 'bEARER a' } },
  },
  ...['', 'Bearer', 'Bearer ', 'Basic YTpi', 'Token a.b.c'].map(authorization => ({
    title: `an Authorization of ${JSON.stringify(authorization)}`,
    check: denyMissingBearer(),
    given: { headers: { authorization } },
    denied: 'missing_bearer',
  })),
  { title: 'no Authorization', check: denyMissingBearer(), denied: 'missing_bearer' },
  {
    title: 'a bearer of 4096 bytes',
    check: denyOversizedBearer(),
    given: { passage: { bearer: 'x'.repeat(4096) } },
  },
  {
    title: 'a bearer of 4097 bytes',
    check: denyOversizedBearer(),
    given: { passage: { bearer: 'x'.repeat(4097) } },
    denied: 'oversized_bearer',
  },
  ...['', 'a.b', 'a.b.c.d', 'a.b.c', `${'x'.repeat(2000)}.${'y'.repeat(2000)}.z`].map(bearer => ({
    title: `a bearer of ${JSON.stringify(bearer.slice(0, 10))}`,
    check: denyMalformedBearer(),
    given: { passage: { bearer } },
    denied: 'malformed_bearer',
  })),
  { title: 'no bearer at all', check: denyMalformedBearer(), denied: 'malformed_bearer' },

  ...[
    { left: 35, denied: undefined },
    { left: 36, denied: undefined },
    { left: 300, denied: undefined },
    { left: 34, denied: 'expiring_bearer' },
    { left: 0, denied: 'expiring_bearer' },
    { left: -1, denied: 'expiring_bearer' },
    { left: 1 - NOW_SECONDS, denied: 'expiring_bearer' },
  ].map(({ left, denied }) => ({
    title: `a token with ${left} s left`,
    check: expiring,
    given: { passage: { presented: presented({ exp: NOW_SECONDS + left }) } },
    ...(denied !== undefined && { denied }),
  })),
  {
    title: 'a token a millisecond short of 35 s',
    check: denyExpiringBearer(() => NOW + 1),
    given: { passage: { presented: presented({ exp: NOW_SECONDS + 35 }) } },
    denied: 'expiring_bearer',
  },
  { title: 'a token that was never read', check: expiring, denied: 'expiring_bearer' },

  { title: 'no X-Caracal-Client-ID', check: denyClientIdHeader() },
  ...['client-1', ''].map(id => ({
    title: `an X-Caracal-Client-ID of ${JSON.stringify(id)}`,
    check: denyClientIdHeader(),
    given: { headers: { 'X-Caracal-Client-ID': id } },
    denied: 'client_id_header',
  })),

  ...identifiers.flatMap(([value, admitted]) => {
    const text = JSON.stringify(value)?.slice(0, 12)
    return [
      {
        title: `a zone_id of ${text}`,
        check: denyMissingZone(),
        given: { passage: { presented: presented({ zone_id: value }) } },
        ...(!admitted && { denied: 'missing_zone' }),
      },
      {
        title: `a client_id of ${text}`,
        check: denyMissingClient(),
        given: { passage: { presented: presented({ client_id: value }) } },
        ...(!admitted && { denied: 'missing_client' }),
      },
    ]
  }),

  {
    title: 'an accepted use',
    check: denyMandateUse(['gateway']),
    given: { passage: { mandate: mandate() } },
  },
  {
    title: 'a second accepted use',
    check: denyMandateUse(['gateway', 'session']),
    given: { passage: { mandate: mandate({ use: 'session' }) } },
  },
  ...['session', 'Gateway', '', null, ['gateway']].map(use => ({
    title: `a use of ${JSON.stringify(use)}`,
    check: denyMandateUse(['gateway']),
    given: { passage: { mandate: mandate({ use }) } },
    denied: 'mandate_use',
  })),

  ...[undefined, 'resource://a', ['resource://b', 'resource://a']].map(target => ({
    title: `a target of ${JSON.stringify(target)}`,
    check: denyMandateTarget(),
    given: { passage: { resource: 'resource://a', mandate: mandate({ target }) } },
  })),
  ...['resource://b', [], '', null, 1, {}, ['resource://A'], ['resource://a/']].map(target => ({
    title: `a target of ${JSON.stringify(target)}`,
    check: denyMandateTarget(),
    given: { passage: { resource: 'resource://a', mandate: mandate({ target }) } },
    denied: 'mandate_target',
  })),

  { title: 'a jti', check: denyMissingTokenId(), given: { passage: { mandate: mandate() } } },
  ...[undefined, '', null, 1, ['j']].map(jti => ({
    title: `a jti of ${JSON.stringify(jti)}`,
    check: denyMissingTokenId(),
    given: { passage: { mandate: mandate({ jti }) } },
    denied: 'missing_token_id',
  })),

  { title: 'no Content-Length', check: denyTooLargeRequest(10) },
  ...[
    { length: '0', denied: undefined },
    { length: '10', denied: undefined },
    { length: '11', denied: 'request_too_large' },
    { length: '99999999999999999999999', denied: 'request_too_large' },
  ].map(({ length, denied }) => ({
    title: `a Content-Length of ${length}`,
    check: denyTooLargeRequest(10),
    given: { headers: { 'content-length': length } },
    ...(denied !== undefined && { denied }),
  })),
]

describe('the gateway', () => {
  for (const { title, check, given, denied = 'admitted' } of cases) {
    it(`${denied === 'admitted' ? 'admits' : 'denies'} ${title}`, async () => {
      assert.equal((await judge(check, given)).check, denied)
    })
  }

  it('keeps the bearer that it found for the checks behind', async () => {
    const { passage } = await judge(denyMissingBearer(), {
      headers: { authorization: 'Bearer a.b.c' },
    })
    assert.equal(passage.bearer, 'a.b.c')
  })

  it('begins the trace before it writes the intent that tells of it, and waits for that', async () => {
    const traceparent = `00-${'ab'.repeat(16)}-${'cd'.repeat(8)}-01`
    const seen: unknown[] = []
    const intend: Check = async (_request, passage) => void seen.push(passage.trace?.traceparent)
    const given = { headers: { traceparent } }
    assert.equal((await judge(denyWithoutIntent({ intend }), given)).check, 'admitted')
    assert.deepEqual(seen, [traceparent])
    const refusal = new Denial('evidence_unavailable')
    for (const intend of [() => Promise.reject(refusal), () => assert.fail(refusal)]) {
      assert.equal((await judge(denyWithoutIntent({ intend }), given)).check, refusal.check)
    }
  })

  it('fails closed when a check reads a mandate that nobody has verified', async () => {
    await assert.rejects(judge(denyMissingTokenId()), /500|not established/)
  })
})
