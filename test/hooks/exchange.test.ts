// Holds the exchange's step to contract section 4: what the STS is told, and what its answer becomes.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Denial } from '../../denial.ts'
import { exchangeMandate } from '../../hooks/exchange.ts'
import type { ExchangeRequest } from '../../lib/exchange.ts'
import { canonicalPath } from '../../lib/path.ts'
import type { Sts } from '../../plugins/sts.ts'
import { type Given, judge, mandate, presented, recordedStages, RESOURCE } from './judge.ts'

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
    const stages = recordedStages()
    const check = exchangeMandate(
      sts(async request => {
        asked.push(request)
        return GRANTED
      }),
      stages,
    )
    const { check: verdict, passage } = await judge(check, given())
    assert.equal(verdict, 'admitted')
    assert.equal(passage.exchange, GRANTED)
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
    assert.deepEqual(stages.record, [['exchange', 200]])
  })

  for (const name of [
    'sts_refused',
    'sts_unreachable',
    'sts_timeout',
    'sts_circuit_open',
  ] as const) {
    it(`denies ${name}, and does not ask again`, async () => {
      let times = 0
      const stages = recordedStages()
      const check = exchangeMandate(
        sts(async () => {
          times += 1
          throw new Denial(name)
        }),
        stages,
      )
      const { check: verdict, denial, passage } = await judge(check, given())
      assert.equal(verdict, name)
      assert.deepEqual([times, passage.exchange], [1, undefined])
      assert.deepEqual(stages.record, [['exchange', denial]])
    })
  }
})
