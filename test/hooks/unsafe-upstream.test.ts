// Holds the check of the directive to contract sections 2 and 7: its order, and what evidence learns of a refused one.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { denyUnsafeUpstream } from '../../hooks/unsafe-upstream.ts'
import { parseUpstreamUrl } from '../../lib/upstream-url.ts'
import type { Egress } from '../../plugins/egress.ts'
import { judge, RESOURCE } from './judge.ts'

const egress = (permits: boolean): Egress => ({
  destination: url => ({ upstream: parseUpstreamUrl(url), permitted: permits }),
  carry: () => assert.fail('something was sent'),
})

const judged = (directive: unknown, permits = true) =>
  judge(denyUnsafeUpstream(egress(permits)), {
    passage: {
      resource: RESOURCE,
      exchange: { accessToken: 'access', upstreams: { [RESOURCE]: directive } },
    },
  })

const USUAL = { url: 'https://a.test', auth_mode: 'caracal_jwt', provider_id: 'p' }

describe('denyUnsafeUpstream', () => {
  it('admits, and establishes the directive', async () => {
    const { check, passage } = await judged(USUAL)
    assert.equal(check, 'admitted')
    assert.deepEqual(passage.directive?.headers, ['Authorization', 'Bearer access'])
    assert.equal(passage.facts?.upstreamHost, 'a.test')
  })

  for (const directive of [undefined, null, 'https://a.test', []]) {
    it(`denies a resource whose directive is ${JSON.stringify(directive)}`, async () => {
      const { check, passage } = await judged(directive)
      assert.equal(check, 'unrouted_resource')
      assert.equal(passage.directive, undefined)
    })
  }

  it('denies without an exchange', async () => {
    const { check } = await judge(denyUnsafeUpstream(egress(true)), {
      passage: { resource: RESOURCE },
    })
    assert.equal(check, 'unrouted_resource')
  })

  for (const [title, directive, permits, denied] of [
    ['a url that is none', { ...USUAL, url: 'x' }, true, 'unsafe_upstream'],
    ['a host that may not be dialled', USUAL, false, 'unsafe_upstream'],
    [
      'a credential for another host',
      { ...USUAL, allowed_token_hosts: ['b.test'] },
      true,
      'credential_host',
    ],
    ['a mode that nobody knows', { ...USUAL, auth_mode: '?' }, true, 'request_build_failed'],
  ] as const) {
    it(`denies ${title}, and keeps the facts for evidence`, async () => {
      const { check, passage } = await judged(directive, permits)
      assert.equal(check, denied)
      assert.equal(passage.directive, undefined)
      assert.equal(passage.facts?.providerId, 'p')
    })
  }
})
