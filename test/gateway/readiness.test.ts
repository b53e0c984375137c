// Holds `/ready` and `/health` to contract section 1 with real dependencies: each reason, in order, at once whatever hangs.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Pool } from 'undici'
import type { AuditEvent } from '../../lib/audit-event.ts'
import { createTestGateway, startWorld } from '../in-process.ts'
import { startPostgres } from '../postgres.ts'
import { type Cleanup, freePort, withFreshPort } from '../redis.ts'
import { until } from '../until.ts'
import { movableClock } from './clock.ts'
import { call, type Gateway, KEYS, listen, startStack, ZONE } from './harness.ts'

const STS = fileURLToPath(new URL('../../dev/sts-server.ts', import.meta.url))
const LONG = 30_000

async function reasonOf({ url }: Pick<Gateway, 'url'>): Promise<unknown> {
  const { status, json } = await call(url, '/ready', { resource: null })
  const { reason, ...rest } = json()
  const ready = status === 200
  assert.equal(status, ready ? 200 : 503)
  assert.deepEqual(rest, { ok: ready, ready })
  return reason
}

async function becomes(gateway: Gateway, reason: string | undefined): Promise<void> {
  await until(async () => (await reasonOf(gateway)) === reason, LONG)
}

/** An STS that can be stopped without its connections being closed. */
function startSts(t: Cleanup): Promise<{ url: string; child: ChildProcess }> {
  return withFreshPort(async () => {
    const port = await freePort()
    const child = spawn(process.execPath, [STS], {
      env: { PORT: `${port}`, ZONES: ZONE, GATEWAY_STS_HMAC_KEY: KEYS.sts },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    t.after(async () => void child.kill('SIGKILL'))
    const [line] = await once(createInterface({ input: child.stdout }), 'line')
    assert.match(line, /development STS on/)
    return { url: `http://127.0.0.1:${port}`, child }
  })
}

test('the gateway tells the first reason at once, though every dependency hangs, and recovers', async t => {
  const [postgres, sts, clock] = await Promise.all([startPostgres(t), startSts(t), movableClock(t)])
  await postgres.schema()
  const env = { ...clock.env, STS_URL: sts.url, DATABASE_URL: postgres.url }
  const { redis, gateway } = await startStack(t, { env })
  const resume = async () => {
    redis.resume()
    postgres.resume()
    sts.child.kill('SIGCONT')
  }
  t.after(resume)
  assert.equal(await reasonOf(gateway), undefined)

  sts.child.kill('SIGSTOP')
  postgres.pause()
  redis.pause()
  const hangsSince = performance.now()
  await becomes(gateway, 'redis_unreachable')
  const noticed = performance.now() - hangsSince
  assert.ok(noticed < 7_000, `state of at most 5 s ago, and a busy machine: ${noticed}`)
  const times: number[] = []
  for (let n = 0; n < 60; n++) {
    for (const [method, path, status] of [
      ['GET', '/ready', 503],
      ['HEAD', '/ready', 503],
      ['GET', '/health', 200],
      ['HEAD', '/health', 200],
    ] as const) {
      const startedAt = performance.now()
      const answer = await call(gateway.url, path, { method, resource: null })
      times.push(performance.now() - startedAt)
      assert.equal(answer.status, status)
      assert.equal(answer.text === '', method === 'HEAD')
    }
  }
  times.sort((a, b) => a - b)
  // All but those that a busy machine held up.
  assert.ok((times[Math.floor(times.length * 0.95)] ?? Infinity) < 200, String(times.slice(-20)))

  // The database has told nothing for too long, and Redis still comes first.
  await clock.advance(71_000)
  assert.equal(await reasonOf(gateway), 'redis_unreachable')
  redis.resume()
  await becomes(gateway, 'revocation_snapshot_stale')
  postgres.resume()
  await becomes(gateway, 'sts_unreachable')
  sts.child.kill('SIGCONT')
  await becomes(gateway, undefined)
})

test('the gateway is not ready while its Redis answers but takes no writes', async t => {
  const stack = await startStack(t)
  const { redis, gateway } = stack
  const config = (name: string, value: string) => redis.command('CONFIG', 'SET', name, value)
  for (const [name, broken, whole] of [
    ['maxmemory', '1', '0'],
    ['min-replicas-to-write', '1', '0'],
  ] as const) {
    await config(name, broken)
    await becomes(gateway, 'redis_unreachable')
    assert.equal((await stack.call()).status, 503)
    await config(name, whole)
    await becomes(gateway, undefined)
    assert.equal((await stack.call()).status, 200)
  }
  assert.deepEqual(await redis.command('KEYS', 'seen:jti:probe-*'), [])
})

test('the gateway asks its STS once a second at most, however often it is asked', async t => {
  let asked = 0
  const health = createServer((request, response) => {
    if (request.url === '/health') asked += 1
    response.end('{}')
  })
  const port = await listen(health)
  t.after(() => void health.close())
  const { gateway } = await startStack(t, { env: { STS_URL: `http://127.0.0.1:${port}` } })
  const pool = new Pool(gateway.url, { connections: 10 })
  const startedAt = performance.now()
  const before = asked
  let probes = 0
  const seconds = () => (performance.now() - startedAt) / 1_000
  await Promise.all(
    Array.from({ length: 10 }, async () => {
      while (probes < 3_000 || seconds() < 3) {
        probes += 1
        const { statusCode, body } = await pool.request({ path: '/ready', method: 'GET' })
        await body.dump()
        assert.equal(statusCode, 200)
      }
    }),
  )
  await pool.close()
  const calls = asked - before
  assert.ok(calls >= 1 && calls <= Math.ceil(seconds()), `${calls} calls in ${seconds()} s`)
})

test('the gateway is `draining` before it is anything else', async t => {
  const stack = await startStack(t, { env: { SHUTDOWN_DELAY: '2s' } })
  await stack.redis.stop()
  await becomes(stack.gateway, 'redis_unreachable')
  stack.gateway.child.kill('SIGTERM')
  await becomes(stack.gateway, 'draining')
  const headed = await call(stack.gateway.url, '/ready', { method: 'HEAD', resource: null })
  assert.equal(headed.status, 503)
})

test('the gateway is not ready without bindings, and never again once evidence is lost', async t => {
  const world = await startWorld(t)
  const app = await createTestGateway(t, world)
  const reason = async () => {
    const { statusCode, body } = await app.inject('/ready')
    const { reason: told } = JSON.parse(body)
    assert.equal(statusCode, told === undefined ? 200 : 503)
    return told
  }
  await until(async () => (await reason()) === undefined)
  let healthy = false
  app.bindings.use({
    hasZone: () => true,
    find: () => undefined,
    healthy: () => healthy,
    stale: false,
    size: 0,
  })
  assert.equal(await reason(), 'bindings_unavailable')
  // More than may wait: in the turn of the loop in which they come, none can leave.
  const event: AuditEvent = {
    zone_id: ZONE,
    event_type: 'gateway_request_denied',
    request_id: 'lost',
    decision: 'deny',
    evaluation_status: 'revoked',
    metadata_json: {},
  }
  for (let n = 0; n <= app.audit.capacity + 5_000; n++) app.audit.record(event)
  assert.equal(await reason(), 'bindings_unavailable', 'comes first')
  healthy = true
  assert.equal(await reason(), 'audit_evidence_lost')
  await until(() => app.audit.depth === 0, LONG)
  assert.equal(await reason(), 'audit_evidence_lost')
})
