// Holds the gateway to forget no revocation and admit no mandate twice when another Redis takes over, and to recover by
// itself.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { before, describe, test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { lastFirst } from '../cleanup.ts'
import { startCluster } from '../cluster.ts'
import type { TestRedis } from '../redis.ts'
import { startSentinel, type TestSentinel } from '../sentinel.ts'
import { until } from '../until.ts'
import { ALONE, type Answer, call, type Stack, startStack } from './harness.ts'
import { assertAccounted, Load, PATIENT, work } from './load.ts'
import { revoke, suiteCleanup } from './support.ts'

const ENV = { REDIS_READ_TIMEOUT: '1s' }

const describes = ({ status, json }: Answer) => `${status} ${String(json()['error_description'])}`

describe('the gateway behind sentinels', () => {
  const suite = suiteCleanup()
  let sentinel: TestSentinel
  let stack: Stack

  before(async () => {
    sentinel = await startSentinel(suite, { password: 'p%@ss' })
    stack = await startStack(suite, { env: { ...ALONE, ...ENV, REDIS_URL: sentinel.url } })
  })

  const present = (token: string) => call(stack.gateway.url, '/v1/invoices', { token })
  const presentSession = (sid: string) => present(stack.mint({ sid }))
  const ready = async () => (await call(stack.gateway.url, '/ready', { resource: null })).status

  /** Presents mandates, each of them twice, until it is stopped; resolves to the statuses of each pair. */
  function traffic(): () => Promise<readonly (readonly [number, number])[]> {
    const stopped = new AbortController()
    const pairs = (async () => {
      const statuses: (readonly [number, number])[] = []
      while (!stopped.signal.aborted) {
        const token = stack.mint()
        statuses.push([(await present(token)).status, (await present(token)).status])
        // Each refusal is evidence that waits for Redis; there is room for so much of it.
        await pause(20)
      }
      return statuses
    })()
    return () => {
      stopped.abort()
      return pairs
    }
  }

  /** What holds around every change of the master, which `change` brings about; it resolves to the new one. */
  async function survives(change: (master: TestRedis, replica: TestRedis) => Promise<TestRedis>) {
    const master = await sentinel.master()
    const [first, second] = sentinel.servers
    const replica = master === first ? second : first
    const [known, spent] = [randomUUID(), stack.mint()]
    assert.equal((await presentSession(known)).status, 200)
    assert.equal((await present(spent)).status, 200)
    await revoke(master, { session_id: known })
    await until(async () => (await presentSession(known)).status === 401)
    // What has not reached the replica yet is lost with the master: replication is asynchronous.
    await sentinel.follows(replica)

    const stop = traffic()
    const next = await change(master, replica)
    const arriving = randomUUID()
    await revoke(next, { session_id: arriving })
    assert.equal(describes(await presentSession(known)), '401 session revoked')
    await until(async () => (await presentSession(arriving)).status === 401, 15_000)
    assert.equal(describes(await presentSession(arriving)), '401 session revoked')
    await until(async () => (await ready()) === 200, 15_000)
    await until(async () => (await stack.call()).status === 200, 15_000)
    assert.equal(describes(await present(spent)), '401 token replay detected')
    assert.equal(describes(await presentSession(known)), '401 session revoked')

    for (const pair of await stop()) {
      // Admitted once, or refused because nobody could say; never twice.
      assert.match(pair.join(), /^(200,401|200,503|503,200|503,401|503,503)$/)
    }
    await until(async () => (await stack.metric('audit_queue_depth')) === 0, 15_000)
    await sentinel.follows(master)
  }

  test('serves on after an orderly fail-over', async () => {
    await survives(() => sentinel.failOver())
  })

  test('serves on after the master was killed, and refuses in between', async () => {
    await survives(async (master, replica) => {
      await master.stop()
      await until(async () => (await stack.call()).status === 503)
      await until(async () => (await ready()) === 503)
      assert.equal(describes(await stack.call()), '503 replay state unavailable')
      await sentinel.promoted(replica)
      await master.restart()
      return replica
    })
  })

  test('serves on after the master hung, and leaves it alone when it wakes', async t => {
    await survives(async (master, replica) => {
      master.pause()
      t.after(() => master.resume())
      await sentinel.promoted(replica)
      // It still believes that it is the master.
      master.resume()
      return replica
    })
  })
})

test(
  'the gateway loses no evidence and admits no mandate twice, if the new master has what the old one acknowledged',
  lastFirst(async t => {
    const sentinel = await startSentinel(t)
    const env = { ...ENV, ...PATIENT, REDIS_URL: sentinel.url }
    const stack = await startStack(t, { env })
    work(stack)
    const load = new Load(t, stack)
    await load.more('200', 100)
    const master = await sentinel.master()
    const [first, second] = sentinel.servers
    const replica = master === first ? second : first

    // Whatever the gateway will read of the master's answers, the replica has: Redis keeps its promise.
    stack.gateway.signal('SIGSTOP')
    let offset: string | undefined
    await until(async () => {
      const before = offset
      await pause(100)
      const text = String(await master.command('INFO', 'replication'))
      offset = /master_repl_offset:(\d+)/.exec(text)?.[1]
      return offset !== undefined && offset === before
    }, 20_000)
    await sentinel.follows(replica)
    const mandates = stack.sts.exchanges.map(({ fields }) => fields['subject_token'] ?? '')
    await master.stop()
    stack.gateway.signal('SIGCONT')
    await sentinel.promoted(replica)
    await load.more('200', 100)
    await load.stop()
    await assertAccounted(t, { ...stack, redis: replica }, { loads: [load] })

    const reached = stack.upstream.arrivals.length
    for (const token of mandates.slice(-50)) {
      const answer = await call(stack.gateway.url, '/v1/invoices', { token })
      assert.equal(describes(answer), '401 token replay detected')
    }
    assert.equal(stack.upstream.arrivals.length, reached)
    await master.restart()
  }),
)

describe('the gateway on a cluster', () => {
  test('spends mandates, hears revocations and leaves evidence', async t => {
    const cluster = await startCluster(t)
    const stack = await startStack(t, { env: { ...ENV, REDIS_URL: cluster.url } })
    const tokens = Array.from({ length: 20 }, () => stack.mint())
    for (const expected of [200, 401]) {
      const answers = await Promise.all(
        tokens.map(token => call(stack.gateway.url, '/v1/invoices', { token })),
      )
      assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([expected]))
    }
    const sid = randomUUID()
    const present = () => call(stack.gateway.url, '/v1/invoices', { token: stack.mint({ sid }) })
    assert.equal((await present()).status, 200)
    const stream = 'caracal.sessions.revoke'
    await revoke(await cluster.owner(stream), { session_id: sid })
    await until(async () => (await present()).status === 401)
    const evidence = await cluster.owner('caracal.audit.events')
    await until(async () => (await evidence.entries('caracal.audit.events')).length > 40)
  })
})
