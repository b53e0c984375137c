// The revocation store alone: on a real Redis or an in-process one, with or without a database, its counters and log kept.
import type { TestContext } from 'node:test'
import Fastify from 'fastify'
import fp from 'fastify-plugin'
import { createMemoryStore } from '../../../dev/memory-store.ts'
import { hmacKey, signStreamEntry } from '../../../lib/stream-signature.ts'
import type { Database, OnPage } from '../../../plugins/database.ts'
import revocations, {
  REVOCATION_STREAM,
  type Revocation,
  type RevocationsOptions,
} from '../../../plugins/revocations/index.ts'
import store, { type Store } from '../../../plugins/store.ts'
import type { TestRedis } from '../../redis.ts'
import { until } from '../../until.ts'

export const KEY = 'aa'.repeat(32)
export const HOUR = 60 * 60 * 1000

/** Fields of a message. */
export type Fields = Readonly<Record<string, string>>

/** The fields and their signature. */
export const signed = (fields: Fields, key = KEY): Fields => ({
  ...fields,
  _sig: signStreamEntry(hmacKey('key', key), REVOCATION_STREAM, fields),
})
/** A message that revokes an authority record. */
export const session = (id: string): Fields => ({ zone_id: 'z', session_id: id, reason: 'test' })

/** What the store did. */
export interface Counts {
  messages: number
  invalid: number
  dead: number
  reloads: number
  reloadErrors: number
  propagation: number[]
  revoked: Revocation[]
  lines: string[]
}

/** How {@link start} starts. */
export interface StartOptions extends RevocationsOptions {
  /** Default: an in-process one. */
  readonly redis?: TestRedis
  readonly store?: Store
  readonly database?: Database
}

/** Starts the store; it ends with the test. */
export async function start(t: TestContext, options: StartOptions = {}) {
  const { redis, store: given = createMemoryStore(), database, ...rest } = options
  const counts: Counts = {
    messages: 0,
    invalid: 0,
    dead: 0,
    reloads: 0,
    reloadErrors: 0,
    propagation: [],
    revoked: [],
    lines: [],
  }
  const stream = { write: (line: string) => void counts.lines.push(line) }
  const app = Fastify({ logger: { level: 'debug', stream } })
  t.after(() => app.close())
  if (redis) app.register(store, { url: redis.url, dialTimeout: 2_000, readTimeout: 500 })
  else app.register(store, { store: given })
  app.register(
    fp(async () => void app.decorate('database', database), {
      name: 'database',
    }),
  )
  app.register(revocations, {
    hmacKey: KEY,
    ...rest,
    onMessage: () => void (counts.messages += 1),
    onInvalidSignature: () => void (counts.invalid += 1),
    onDeadLetter: () => void (counts.dead += 1),
    onReload: () => void (counts.reloads += 1),
    onReloadError: () => void (counts.reloadErrors += 1),
    onPropagation: seconds => void counts.propagation.push(seconds),
  })
  await app.after()
  app.revocations.onRevoked(revocation => counts.revoked.push(revocation))
  await app.ready()
  const logged = (text: string) => counts.lines.filter(line => line.includes(text)).length
  return { app, counts, revocations: app.revocations, logged }
}

/** A steady clock that can be moved ahead, in milliseconds; it ends with the test. */
export function movedClock(t: TestContext): { ahead: number } {
  const clock = { ahead: 0 }
  const real = performance.now.bind(performance)
  t.mock.method(performance, 'now', () => real() + clock.ahead)
  return clock
}

/** Lets the store refresh what it knows, which it does 30 s after the last time. */
export async function refreshed(
  clock: { ahead: number },
  revocations: { snapshotAgeSeconds(): number },
): Promise<void> {
  clock.ahead += 31_000
  await until(() => revocations.snapshotAgeSeconds() < 15, 15_000)
}

interface Row {
  readonly id: string
  readonly at: number | null
}

/** A database that is made up, its tables empty. */
export function createDatabase() {
  const required: [string, Readonly<Record<string, string>>][] = []
  const tables = {
    authority_records: [] as Row[],
    sessions: [] as Row[],
    delegation_edges: [] as Row[],
  }
  const byName: Readonly<Record<string, readonly Row[]>> = tables
  const database = {
    tables,
    required,
    rows: async () => [],
    maxConnections: 0,
    acquiredConnections: 0,
    reads: 0,
    /** Called in the middle of a read. */
    meanwhile: async (): Promise<void> => undefined,
    async requireTable(table: string, columns: Readonly<Record<string, string>>): Promise<void> {
      required.push([table, columns])
    },
    async pages<R>(sql: string, _parameters: readonly unknown[], onPage: OnPage<R>): Promise<void> {
      const name = /from (\w+) where/.exec(sql)?.[1] ?? ''
      if (name === 'authority_records') database.reads += 1
      const rows: R[] = JSON.parse(JSON.stringify(byName[name] ?? []))
      for (const row of rows) await onPage([row])
      if (name === 'sessions') await database.meanwhile()
    },
  }
  return database
}
