// The gauges show what is so when somebody asks.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { lastFirst } from '../cleanup.ts'
import { createTestGateway, startWorld } from '../in-process.ts'
import { until } from '../until.ts'

describe('the gauges', () => {
  it(
    'show whether /ready answers 200',
    lastFirst(async t => {
      const app = await createTestGateway(t, await startWorld(t))
      await until(() => app.readiness.reason() === undefined)
      assert.equal((await app.meters.flat())['ready'], 1)
      app.readiness.drain()
      assert.equal((await app.meters.flat())['ready'], 0)
    }),
  )
})
