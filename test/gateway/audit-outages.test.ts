// Holds the gateway to account for every request that an upstream saw, under load, whatever becomes of Redis (contract
// section 8).
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { lastFirst, type Scope } from '../cleanup.ts'
import type { EvidenceEntry } from '../evidence.ts'
import { freePort } from '../redis.ts'
import { until } from '../until.ts'
import { type Stack, startStack } from './harness.ts'
import {
  assertAccounted,
  assertNothingLeft,
  assertSettled,
  figuresOf,
  Load,
  PATIENT,
  reasonOf,
  work,
} from './load.ts'
import { temporaryDirectory } from './support.ts'

const LONG = 30_000
const REFUSED = '503 replay state unavailable'

/** What goes wrong with Redis, and how it ends. */
interface Outage {
  readonly durable?: boolean
  readonly begin: (stack: Stack) => Promise<void> | void
  readonly end: (stack: Stack) => Promise<void> | void
  /** Whether it may have taken what it did not answer for. */
  readonly silent: boolean
}

const OUTAGES: Readonly<Record<string, Outage>> = {
  'is killed, and comes back with all that it held': {
    durable: true,
    begin: ({ redis }) => redis.stop(),
    end: ({ redis }) => redis.restart(),
    silent: true,
  },
  'answers nothing for some seconds': {
    begin: ({ redis }) => redis.pause(),
    end: ({ redis }) => redis.resume(),
    silent: true,
  },
  'has no memory left': {
    begin: async ({ redis }) => void (await redis.command('CONFIG', 'SET', 'maxmemory', '1')),
    end: async ({ redis }) => void (await redis.command('CONFIG', 'SET', 'maxmemory', '0')),
    silent: false,
  },
  'is a replica that takes no writes, and is promoted': {
    // Of a master that is not there: what it holds stays.
    begin: async ({ redis }) =>
      void (await redis.command('REPLICAOF', '127.0.0.1', await freePort())),
    end: async ({ redis }) => void (await redis.command('REPLICAOF', 'NO', 'ONE')),
    silent: false,
  },
}

/** A gateway under load. */
async function start(t: Scope, durable: boolean) {
  const directory = await temporaryDirectory(t)
  const env = { ...PATIENT, AUDIT_REPLAY_DIR: directory }
  const stack = await startStack(t, { env, redis: { durable } })
  work(stack)
  return { stack, directory, load: new Load(t, stack) }
}

/** What holds once all is well again: nobody was told anything else, nothing is lost, nothing is left. */
async function assertRecovered(
  t: Scope,
  { stack, directory, load }: Awaited<ReturnType<typeof start>>,
  { silent, earlier = [] }: { silent: boolean; earlier?: readonly EvidenceEntry[] },
): Promise<void> {
  await load.more('200', 100)
  await load.stop()
  const figures = await assertSettled(stack.gateway)
  const { duplicated } = await assertAccounted(t, stack, { loads: [load], earlier })
  if (!silent) assert.equal(duplicated, 0)
  assert.deepEqual([...new Set(load.outcomes.map(({ summary }) => summary))].toSorted(), [
    '200',
    REFUSED,
  ])
  // What went to disk came from there, once.
  assert.ok((figures['audit_persisted'] ?? 0) > 0)
  assert.equal(figures['audit_drained'], figures['audit_persisted'])
  assert.ok((figures['audit_sink_errors'] ?? 0) > 0)
  assert.doesNotMatch(stack.gateway.output(), /Warning:/)
  await assertNothingLeft(directory, [stack.gateway])
}

describe('the gateway accounts for every request under load when Redis', () => {
  for (const [what, { durable = false, begin, end, silent }] of Object.entries(OUTAGES)) {
    test(
      what,
      lastFirst(async t => {
        const running = await start(t, durable)
        const { stack, load } = running
        await load.more('200', 200)
        await begin(stack)
        const begun = performance.now()
        await load.more(REFUSED, 100)
        await until(
          async () => ((await figuresOf(stack.gateway))['audit_persisted'] ?? 0) > 0,
          LONG,
        )
        await until(async () => (await reasonOf(stack.gateway)) === 'redis_unreachable', LONG)
        await load.more(REFUSED, 200)
        assert.deepEqual(Object.keys(load.between(begun, performance.now())), [REFUSED])
        await end(stack)
        await assertRecovered(t, running, { silent })
      }),
    )
  }

  test(
    'is killed, and comes back with nothing',
    lastFirst(async t => {
      const running = await start(t, false)
      const { stack, load } = running
      const { redis, gateway } = stack
      await load.more('200', 200)
      // From now on it takes nothing more, so that all that it has taken is seen before it is lost.
      await redis.command('CLIENT', 'PAUSE', 60_000, 'WRITE')
      const earlier = await redis.entries('caracal.audit.events')
      await redis.stop()
      await load.more(REFUSED, 100)
      await until(async () => (await reasonOf(gateway)) === 'redis_unreachable', LONG)
      await redis.restart()
      await assertRecovered(t, running, { silent: false, earlier })
    }),
  )
})
