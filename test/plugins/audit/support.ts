// The audit plugin in a process of its own making: a logger that is read, counters that are counted.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Fastify, { type FastifyInstance } from 'fastify'
import audit, {
  type Audit,
  type AuditEvent,
  type AuditOptions,
} from '../../../plugins/audit/index.ts'
import store, { type Store, type StoreOptions } from '../../../plugins/store.ts'
import type { Cleanup } from '../../redis.ts'

/** `AUDIT_HMAC_KEY`. */
export const KEY = 'aa'.repeat(32)

/** An event that can be told from others by its number. */
export const event = (n = 0): AuditEvent => ({
  zone_id: 'zone-1',
  event_type: 'gateway_resource_request',
  request_id: `r-${n}`,
  decision: 'allow',
  evaluation_status: 'executed',
  metadata_json: { n },
})

/** The number of an event. */
export function number(data: string | undefined): number {
  return JSON.parse(data ?? '{}').metadata_json.n
}

/** A running plugin. */
export interface Running {
  readonly app: FastifyInstance
  readonly audit: Audit
  readonly lines: string[]
  readonly seen: Record<'dropped' | 'sinkErrors' | 'persisted' | 'drained' | 'corrupt', number>
}

/** Starts the plugin; it ends with the test. */
export async function start(
  t: Cleanup,
  storeOptions: StoreOptions,
  options: AuditOptions = {},
): Promise<Running> {
  const lines: string[] = []
  const seen = { dropped: 0, sinkErrors: 0, persisted: 0, drained: 0, corrupt: 0 }
  const app = Fastify({
    logger: { level: 'info', stream: { write: line => void lines.push(line) } },
  })
  t.after(async () => app.close())
  app.register(store, storeOptions)
  app.register(audit, {
    hmacKey: KEY,
    closeTimeout: 300,
    ...options,
    onDropped: count => void (seen.dropped += count),
    onSinkError: () => void (seen.sinkErrors += 1),
    onPersisted: count => void (seen.persisted += count),
    onDrained: count => void (seen.drained += count),
    onCorruptLines: count => void (seen.corrupt += count),
  })
  await app.ready()
  return { app, audit: app.audit, lines, seen }
}

/** A Redis on loopback, asked impatiently. */
export const redisStore = (port: number): StoreOptions => ({
  url: `redis://127.0.0.1:${port}`,
  dialTimeout: 2_000,
  readTimeout: 500,
})

/** A store that takes what it is told to. */
export interface StubbornStore extends Store {
  /** Entries that it takes before it refuses. */
  taking: number
  readonly taken: Readonly<Record<string, string>>[]
}

/** A store that takes nothing until told. */
export function stubbornStore(): StubbornStore {
  return {
    taking: 0,
    taken: [],
    ping: async () => undefined,
    claim: async () => true,
    claimed: async () => undefined,
    async append(_stream, entries) {
      return entries.map(entry => {
        if (this.taking <= 0) return new Error('OOM')
        this.taking -= 1
        this.taken.push(entry)
        return undefined
      })
    },
    range: async () => [],
    info: async () => undefined,
    tail: async () => [],
    close: () => undefined,
  }
}

/** A directory that goes with the test. */
export async function temporaryDirectory(t: Cleanup): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'gateway-evidence-'))
  t.after(() => rm(path, { recursive: true, force: true }))
  return path
}
