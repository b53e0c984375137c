// Holds readiness to contract section 1: the first reason that holds, at once, from state refreshed in the background.

import assert from 'node:assert/strict'
import { describe, it, type TestContext } from 'node:test'
import Fastify from 'fastify'
import fp from 'fastify-plugin'
import readiness from '../../plugins/readiness.ts'

/** What readiness looks at: all well, until a test says otherwise. */
function world() {
  return {
    redis: async (): Promise<void> => undefined,
    sts: async (_timeout: number): Promise<boolean> => true,
    fresh: true,
    bindings: true,
    lost: false,
    replayUnavailable: false,
    looks: 0,
  }
}

async function started(t: TestContext, state: ReturnType<typeof world>) {
  const app = Fastify()
  const provide = (name: string, value: object) =>
    app.register(fp(async instance => void instance.decorate(name, value), { name }))
  await provide('store', {
    ping: () => {
      state.looks += 1
      return state.redis()
    },
  })
  await provide('sts', { healthy: (timeout: number) => state.sts(timeout) })
  await provide('revocations', { isFresh: () => state.fresh })
  await provide('bindings', { healthy: () => state.bindings })
  await provide('audit', {
    get lost() {
      return state.lost
    },
    get replayUnavailable() {
      return state.replayUnavailable
    },
  })
  await app.register(readiness)
  t.after(() => app.close())
  return app
}

/** Lets promises that are settled already have their effect. */
async function settle(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise(setImmediate)
}

describe('readiness', () => {
  it('is not ready before the first look, and ready after it', async t => {
    const app = await started(t, world())
    assert.equal(app.readiness.reason(), 'redis_unreachable')
    await app.ready()
    await settle()
    assert.equal(app.readiness.reason(), undefined)
  })

  it('tells the first reason in the contract’s order, each until it is mended', async t => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const state = world()
    const app = await started(t, state)
    state.redis = () => Promise.reject(new Error('away'))
    state.sts = async () => false
    Object.assign(state, { fresh: false, bindings: false, lost: true, replayUnavailable: true })
    await app.ready()
    await settle()
    const look = async () => {
      t.mock.timers.tick(2_000)
      await settle()
      return app.readiness.reason()
    }
    assert.equal(await look(), 'redis_unreachable')
    state.redis = async () => undefined
    assert.equal(await look(), 'revocation_snapshot_stale')
    state.fresh = true
    assert.equal(app.readiness.reason(), 'bindings_unavailable')
    state.bindings = true
    assert.equal(app.readiness.reason(), 'audit_evidence_lost')
    state.lost = false
    assert.equal(app.readiness.reason(), 'audit_replay_unavailable')
    state.replayUnavailable = false
    assert.equal(app.readiness.reason(), 'sts_unreachable')
    state.sts = async () => true
    assert.equal(await look(), undefined)
    state.redis = () => Promise.reject(new Error('away again'))
    assert.equal(await look(), 'redis_unreachable')
    app.readiness.drain()
    assert.equal(app.readiness.reason(), 'draining')
    await app.close()
  })

  it('answers at once while a dependency hangs, and takes it for unreachable', async t => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const state = world()
    state.redis = () => new Promise(() => undefined)
    const app = await started(t, state)
    await app.ready()
    await settle()
    assert.equal(app.readiness.reason(), 'redis_unreachable')
    t.mock.timers.tick(2_000)
    await settle()
    assert.equal(app.readiness.reason(), 'redis_unreachable')
    state.redis = async () => undefined
    t.mock.timers.tick(2_000)
    await settle()
    assert.equal(app.readiness.reason(), undefined)
    await app.close()
  })

  it('keeps its state under 5 s old, though one dependency hangs after the other', async t => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const state = world()
    state.sts = timeout => new Promise(resolve => setTimeout(resolve, timeout, false))
    const app = await started(t, state)
    await app.ready()
    await settle()
    state.redis = () => new Promise(() => undefined)
    for (let milliseconds = 0; milliseconds < 4_900; milliseconds += 100) {
      t.mock.timers.tick(100)
      await settle()
    }
    assert.equal(app.readiness.reason(), 'redis_unreachable')
    await app.close()
  })

  it('looks no more once it is closed', async t => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const state = world()
    const app = await started(t, state)
    await app.ready()
    await settle()
    assert.equal(state.looks, 1)
    t.mock.timers.tick(2_000)
    await settle()
    assert.equal(state.looks, 2)
    await app.close()
    t.mock.timers.tick(10_000)
    await settle()
    assert.equal(state.looks, 2)
  })

  it('looks no more when it is closed within a look', async t => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const state = world()
    const answer = Promise.withResolvers<void>()
    state.redis = () => answer.promise
    const app = await started(t, state)
    await app.ready()
    await app.close()
    answer.resolve()
    await settle()
    t.mock.timers.tick(10_000)
    await settle()
    assert.equal(state.looks, 1)
  })
})
