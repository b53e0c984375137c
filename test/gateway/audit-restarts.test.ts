// Holds the gateway to account for every request that an upstream saw, under load, when it is killed or stopped (contract
// section 8).
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { lastFirst } from '../cleanup.ts'
import { until } from '../until.ts'
import { startGateway, startStack } from './harness.ts'
import {
  arrived,
  assertAccounted,
  assertNothingLeft,
  assertSettled,
  assertTidy,
  figuresOf,
  Load,
  PATIENT,
  work,
} from './load.ts'
import { kill, temporaryDirectory } from './support.ts'

const LONG = 30_000

for (const durability of ['strict', 'synced']) {
  test(
    `the gateway accounts for every request after it was killed under load: ${durability}`,
    lastFirst(async t => {
      const directory = await temporaryDirectory(t)
      const env = { ...PATIENT, AUDIT_REPLAY_DIR: directory, AUDIT_DURABILITY: durability }
      const stack = await startStack(t, { env })
      work(stack)
      const load = new Load(t, stack)
      await load.more('200', 300)
      await kill(stack.gateway)
      await load.stop()

      // Two at once, and a third: whoever comes first.
      const next = await Promise.all([1, 2, 3].map(() => startGateway(t, stack.env)))
      await assertTidy(directory, 3)
      let drained = 0
      for (const gateway of next) drained += (await assertSettled(gateway))['audit_drained'] ?? 0
      const { interrupted } = await assertAccounted(t, stack, {
        loads: [load],
        killed: true,
      })
      assert.ok(interrupted > 0)
      assert.ok(drained >= interrupted)
      await assertNothingLeft(directory, next)
    }),
  )
}

test(
  'the gateway accounts for every request after it was killed under load while Redis was away',
  lastFirst(async t => {
    const directory = await temporaryDirectory(t)
    const env = { ...PATIENT, AUDIT_REPLAY_DIR: directory }
    const stack = await startStack(t, { env, redis: { durable: true } })
    work(stack)
    const load = new Load(t, stack)
    await load.more('200', 200)
    await stack.redis.stop()
    await load.more('503 replay state unavailable', 50)
    await until(async () => ((await figuresOf(stack.gateway))['audit_persisted'] ?? 0) >= 50, LONG)
    await kill(stack.gateway)
    await load.stop()
    await stack.redis.restart()
    const next = await startGateway(t, stack.env)
    await assertTidy(directory, 1)
    await assertSettled(next)
    await assertAccounted(t, stack, { loads: [load], killed: true })
    await assertNothingLeft(directory, [next])
  }),
)

test(
  'the gateway takes over what another one leaves that shared its directory, and is killed under load',
  lastFirst(async t => {
    const directory = await temporaryDirectory(t)
    const stack = await startStack(t, { env: { ...PATIENT, AUDIT_REPLAY_DIR: directory } })
    const other = await startGateway(t, stack.env)
    work(stack)
    const loads = [new Load(t, stack), new Load(t, stack, other)]
    for (const load of loads) await load.more('200', 200)
    await kill(other)
    await loads[0]?.more('200', 100)
    // It is found by a look, of which there is one every few seconds.
    await assertTidy(directory, 1)
    await Promise.all(loads.map(load => load.stop()))
    const { audit_drained } = await assertSettled(stack.gateway)
    const account = await assertAccounted(t, stack, { loads, killed: true })
    assert.ok(account.interrupted > 0)
    assert.ok((audit_drained ?? 0) >= account.interrupted)
    assert.equal(loads[0]?.count('broken'), 0)
    await assertNothingLeft(directory, [stack.gateway])
  }),
)

test(
  'the gateway accounts for every request through 20 restarts in a row under load',
  lastFirst(async t => {
    const directory = await temporaryDirectory(t)
    const stack = await startStack(t, { env: { ...PATIENT, AUDIT_REPLAY_DIR: directory } })
    work(stack)
    const load = new Load(t, stack)
    let gateway = stack.gateway
    let killed = 0
    for (let restart = 0; restart < 20; restart += 1) {
      await load.more('200', 30)
      if (restart % 2 === 0) {
        await kill(gateway)
        killed += 1
      } else {
        assert.equal(await gateway.stop(), 0)
      }
      gateway = await startGateway(t, stack.env)
      await load.turnTo(gateway)
    }
    await load.more('200', 30)
    await load.stop()
    await assertTidy(directory, 1)
    await assertSettled(gateway)
    assert.ok(arrived(stack).length >= 21 * 30)
    const account = await assertAccounted(t, stack, { loads: [load], killed: true })
    // No more than were in flight when it was killed: what is stopped ends what it has begun.
    assert.ok(account.interrupted <= killed * 24, `${account.interrupted}`)
    await assertNothingLeft(directory, [gateway])
  }),
)
