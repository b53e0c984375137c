// Holds the gateway to leave nothing behind in Redis: replicas come and go (contract section 6).
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestGateway, startWorld } from '../in-process.ts'
import { startRedis } from '../redis.ts'
import { until } from '../until.ts'
import { startGateway, startStack } from './harness.ts'
import { REVOCATIONS, revoke } from './support.ts'

test('the gateway starts and stops 50 times without a trace in Redis', async t => {
  const [redis, world] = await Promise.all([startRedis(t), startWorld(t)])
  await redis.add(REVOCATIONS, { session_id: 'a' })
  const traces = async () => ({
    keys: await redis.command('KEYS', '*'),
    groups: await redis.command('XINFO', 'GROUPS', REVOCATIONS),
    stream: await redis.entries(REVOCATIONS),
    clients: String(await redis.command('CLIENT', 'LIST'))
      .trim()
      .split('\n').length,
  })
  const before = await traces()
  for (let round = 0; round < 50; round += 1) {
    const app = await createTestGateway(t, world, { REDIS_URL: redis.url })
    assert.ok(app.revocations.isRevoked({ sid: 'a' }))
    await app.close()
  }
  await until(async () => (await traces()).clients === before.clients)
  assert.deepEqual(await traces(), before)
})

test('the gateway leaves nothing in Redis as a process either, stopped or killed', async t => {
  const { redis, env, gateway } = await startStack(t)
  await revoke(redis, { session_id: 'a' })
  await gateway.stop()
  const before = await redis.command('KEYS', '*')
  const second = await startGateway(t, env)
  assert.equal(await second.stop(), 0)
  const third = await startGateway(t, env)
  third.signal('SIGKILL')
  await until(async () => !String(await redis.command('CLIENT', 'LIST')).includes('caracal'))
  assert.deepEqual(await redis.command('KEYS', '*'), before)
  assert.deepEqual(await redis.command('XINFO', 'GROUPS', REVOCATIONS), [])
})
