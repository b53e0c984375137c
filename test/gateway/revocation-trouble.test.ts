// Holds the gateway to know what it knew, and to miss nothing that comes, whatever becomes of Redis (contract section 6).
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { before, describe, type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { startRedis, type TestRedis } from '../redis.ts'
import { until } from '../until.ts'
import { movableClock } from './clock.ts'
import { ALONE, call, type Stack, startGateway, startStack } from './harness.ts'
import { assertRefusal, type Refusal } from './refusal.ts'
import { hasLogged, REVOCATIONS, revoke, signedRevocation, suiteCleanup } from './support.ts'

const HOUR = 60 * 60 * 1000
const REVOKED: Refusal = { status: 401, error: 'invalid_token', description: 'session revoked' }
const STALE: Refusal = {
  status: 503,
  error: 'sts_unavailable',
  description: 'revocation state unavailable',
}
const AGAIN = /^revocations are read again$/
// A client that reconnects waits up to a second between two attempts, and machines are noisy.
const SOON = 15_000

describe('the gateway', () => {
  const suite = suiteCleanup()
  let stack: Stack

  before(async () => {
    stack = await startStack(suite, { env: ALONE })
  })

  /** A gateway with a Redis of its own, and a clock that can be moved. */
  async function begin(t: TestContext, args: readonly string[] = []) {
    const [redis, clock] = await Promise.all([startRedis(t, { args }), movableClock(t)])
    const gateway = await startGateway(t, {
      ...stack.env,
      ...clock.env,
      REDIS_URL: redis.url,
      REDIS_READ_TIMEOUT: '500ms',
    })
    const present = (sid: string = randomUUID()) =>
      call(gateway.url, '/v1/invoices', { token: stack.mint({ sid }) })
    const known = (sid: string, milliseconds?: number) =>
      until(async () => (await present(sid)).status === 401, milliseconds)
    const revoked = async () => {
      const sid = randomUUID()
      await revoke(redis, { session_id: sid })
      await known(sid)
      return sid
    }
    const metric = async (name: string) => {
      const answer = await call(gateway.url, '/metrics.json', {
        token: 'metrics-bearer',
        resource: null,
      })
      return Number(answer.json()[name])
    }
    const isServed = () => until(async () => (await present()).status === 200, SOON)
    return { gateway, redis, clock, present, known, revoked, metric, isServed }
  }

  /** Adds a message as soon as Redis can take it, maybe before the gateway is back. */
  async function addAtOnce(redis: TestRedis, id?: string): Promise<string> {
    const sid = randomUUID()
    await redis.add(REVOCATIONS, signedRevocation({ session_id: sid }), id)
    return sid
  }

  test('goes on when Redis was killed and comes back with its data', async t => {
    const kept = ['--appendonly', 'yes', '--appendfsync', 'always']
    const { redis, gateway, present, known, revoked, metric, isServed } = await begin(t, kept)
    const before = await revoked()
    await redis.stop()
    await until(() => hasLogged(gateway, /^revocations cannot be read$/))
    assertRefusal(await present(before), REVOKED)
    assert.equal((await present()).json()['error_description'], 'replay state unavailable')
    await redis.restart()
    const after = await addAtOnce(redis)
    await known(after, SOON)
    await isServed()
    await revoked()
    assertRefusal(await present(before), REVOKED)
    await until(async () => (await metric('revocation_snapshot_age_seconds')) < 5, SOON)
    assert.equal(await metric('revocation_messages'), 3)
    assert.equal(await metric('revocation_history_incomplete'), 0)
  })

  test('applies what comes right after a pause of 10 s', async t => {
    const { redis, gateway, present, known, revoked, metric } = await begin(t)
    const before = await revoked()
    redis.pause()
    await setTimeout(10_000)
    assertRefusal(await present(before), REVOKED)
    assert.ok((await metric('revocation_snapshot_age_seconds')) > 5)
    redis.resume()
    const after = await addAtOnce(redis)
    await known(after, SOON)
    const applied = Date.now()
    const restored = gateway.logs.findLast(
      ({ msg, connection }) => msg === 'redis connection restored' && connection === 'tail',
    )
    // 100 ms on a quiet machine; other tests run beside this one.
    assert.ok(applied - Number(restored?.['time']) < 500, `${applied - Number(restored?.['time'])}`)
    await revoked()
    assertRefusal(await present(before), REVOKED)
  })

  test('forgets nothing that Redis has lost, and sees what it numbers anew', async t => {
    const { redis, present, known, revoked, metric, isServed } = await begin(t)
    const before = [await revoked(), await revoked()]
    await redis.restart()
    // As a replica would number it whose clock is behind.
    const after = await addAtOnce(redis, `${Date.now() - HOUR}-0`)
    await known(after, SOON)
    const live = await addAtOnce(redis, `${Date.now() - HOUR}-9`)
    await known(live)
    await isServed()
    for (const sid of before) assertRefusal(await present(sid), REVOKED)
    await until(async () => (await metric('revocation_history_incomplete')) === 1)
    assert.equal(await metric('revocations_active'), 4)
  })

  test('forgets nothing, and misses nothing, when Redis comes back from an older copy', async t => {
    const { redis, gateway, present, known, revoked, isServed } = await begin(t)
    const kept = await revoked()
    await redis.command('SAVE')
    const lost = [await revoked(), await revoked()]
    const [first] = await redis.entries(REVOCATIONS)
    const [time] = first?.id.split('-') ?? []
    await redis.restart()
    // As many as were lost: the stream looks as it did, but for its ids.
    const behind = [await addAtOnce(redis, `${time}-1`), await addAtOnce(redis, `${time}-2`)]
    const newest = await addAtOnce(redis)
    await known(newest, SOON)
    for (const sid of behind) await known(sid, SOON)
    await isServed()
    for (const sid of [kept, ...lost]) assertRefusal(await present(sid), REVOKED)
    assert.ok(hasLogged(gateway, AGAIN))
    await revoked()
  })

  test('serves nobody by what it knew 70 s ago, until it has read all of it again', async t => {
    const { redis, gateway, clock, present, revoked, metric, isServed } = await begin(t)
    const before = await revoked()
    const allow = (command: string) => redis.command('ACL', 'SETUSER', 'default', command)
    await allow('-xrange')
    const clients = String(await redis.command('CLIENT', 'LIST'))
    const tail = /^id=(\d+) .*name=caracal-gateway-tail /m.exec(clients)?.[1] ?? ''
    await redis.command('CLIENT', 'KILL', 'ID', tail)
    await until(() => hasLogged(gateway, AGAIN), SOON)
    await until(() => hasLogged(gateway, /^the revocation snapshot cannot be read$/), SOON)
    // The stream is read again, what was written in the meantime is not known to have been.
    await revoked()
    assert.equal((await present()).status, 200, 'what it knows is fresh for 70 s')
    await clock.advance(71_000)
    assertRefusal(await present(), STALE)
    const ready = await call(gateway.url, '/ready', { resource: null })
    assert.equal(ready.json()['reason'], 'revocation_snapshot_stale')
    assert.equal(await metric('revocation_snapshot_fresh'), 0)
    assert.ok((await metric('revocation_snapshot_age_seconds')) > 70)
    assertRefusal(await present(before), STALE)
    await allow('+xrange')
    await isServed()
    assertRefusal(await present(before), REVOKED)
    assert.equal(await metric('revocation_snapshot_fresh'), 1)
  })
})
