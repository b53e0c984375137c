// Holds the exchange's step to contract section 4: what the STS is told, and whose evidence is due when the caller goes.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Denial } from '../../denial.ts'
import { exchangeMandate } from '../../hooks/exchange.ts'
import type { ExchangeRequest } from '../../lib/exchange.ts'
import { canonicalPath } from '../../lib/path.ts'
import type { Passage } from '../../plugins/passage.ts'
import type { Sts } from '../../plugins/sts.ts'
import { type Given, judge, mandate, presented, RESOURCE } from './judge.ts'

const GRANTED = { accessToken: 'access', upstreams: { [RESOURCE]: { url: 'https://a.test' } } }

const given = (): Given => ({
  method: 'POST',
  url: '/v1/a%20b?secret=1',
  passage: {
    mandate: mandate(),
    presented: presented(),
    resource: RESOURCE,
    path: canonicalPath('/v1/a%20b'),
  },
})

function sts(exchange: Sts['exchange']): Sts {
  return { refusal: () => undefined, exchange, healthy: async () => true, circuitOpen: false }
}

describe('exchangeMandate', () => {
  it('tells the STS the mandate and the request, without its query, and keeps the answer', async () => {
    const asked: ExchangeRequest[] = []
    const settled: Passage[] = []
    const check = exchangeMandate(
      sts(async request => {
        asked.push(request)
        return GRANTED
      }),
      (_request, passage) => void settled.push(passage),
    )
    const { check: verdict, passage } = await judge(check, given())
    assert.equal(verdict, 'admitted')
    assert.equal(passage.exchange, GRANTED)
    assert.equal(passage.exchanging, false)
    assert.deepEqual(settled, [])
    const [{ requestId, ...request } = assert.fail('nobody asked')] = asked
    assert.ok(requestId)
    assert.deepEqual(request, {
      zoneId: 'zone-1',
      clientId: 'client-1',
      token: 'a.b.c',
      resource: RESOURCE,
      method: 'POST',
      path: '/v1/a b',
    })
    assert.equal(asked.length, 1)
  })

  for (const name of [
    'sts_refused',
    'sts_unreachable',
    'sts_timeout',
    'sts_circuit_open',
  ] as const) {
    it(`denies ${name}, and does not ask again`, async () => {
      let times = 0
      const check = exchangeMandate(
        sts(async () => {
          times += 1
          throw new Denial(name)
        }),
        () => assert.fail('settled too early'),
      )
      const { check: verdict, passage } = await judge(check, given())
      assert.equal(verdict, name)
      assert.deepEqual([times, passage.exchange, passage.exchanging], [1, undefined, false])
    })
  }

  it('has the evidence settled by itself when the caller went in the meantime', async () => {
    const settled = Promise.withResolvers<Passage>()
    let passage: Passage | undefined
    const check = exchangeMandate(
      sts(async () => {
        assert.equal(passage?.exchanging, true)
        if (passage !== undefined) passage.closed = true
        return GRANTED
      }),
      (_request, of) => {
        settled.resolve(of)
        // So that the request of this test ends.
        of.closed = false
      },
    )
    await judge((request, own, reply) => {
      passage = own
      return check(request, own, reply)
    }, given())
    assert.equal((await settled.promise).exchange, GRANTED)
  })
})
