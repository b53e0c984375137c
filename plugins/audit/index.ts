/**
 * Guarantees that evidence is written before what it tells of can happen, and reaches Redis at least once, whatever
 * ends: Redis, the process, or, with `AUDIT_DURABILITY=synced`, the machine (contract section 8).
 */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { Denial } from '../../denial.ts'
import { type AuditEvent, writeEvent } from '../../lib/audit-event.ts'
import { hmacKey } from '../../lib/stream-signature.ts'
import { uuidv7 } from '../../lib/uuid.ts'
import { Backlog } from './backlog.ts'
import { type Durability, type KeptFile, ReplayDirectory } from './directory.ts'
import type { JournalItem } from './journal.ts'
import { Queue } from './queue.ts'
import type { BacklogFigures } from './replay-files.ts'
import { Sink } from './sink.ts'

export type { AuditEvent } from '../../lib/audit-event.ts'
export { AUDIT_STREAM } from './sink.ts'

/** The journal's word that a request is about to be dispatched. */
export type Intent = JournalItem

/** Where evidence goes. */
export interface Audit {
  /** Whether evidence can be kept; if not, nobody may be admitted. */
  accepting(): boolean
  /** Whether requests leave an intent before they are dispatched. */
  readonly journaled: boolean
  /**
   * Writes, before a request is dispatched, the event that is due if nothing more is heard of it.
   *
   * @throws Denial `evidence_unavailable`
   */
  intend(event: AuditEvent): Intent
  /** Resolves when an intent is as safe as `AUDIT_DURABILITY` promises; undefined when it is. @throws Denial as above */
  safe(intent: Intent): Promise<void> | undefined
  /** Takes an event, with its request's intent if there is one; never throws, never blocks. */
  record(event: AuditEvent, intent?: Intent): void
  /** Events in memory that wait for Redis. */
  readonly depth: number
  /** Events that may wait before {@link Audit.accepting} says no. */
  readonly capacity: number
  /** Whether evidence was lost for good; stays true. */
  readonly lost: boolean
  /** Whether the replay directory, if there is to be one, cannot be used now. */
  readonly replayUnavailable: boolean
  /** What lies in the replay directory. */
  readonly backlog: BacklogFigures
}

/** Options of the plugin. */
export interface AuditOptions {
  /** `AUDIT_HMAC_KEY`, hex. Without it, which only `dev` allows, events are unsigned. */
  readonly hmacKey?: string | undefined
  /** `AUDIT_REPLAY_DIR`. Without it, which only `dev` allows, evidence is in memory until Redis has it. */
  readonly directory?: string | undefined
  /** `AUDIT_DURABILITY`; `relaxed` unless told. The others need a directory. */
  readonly durability?: Durability | undefined
  /** Events that may wait in memory; 10,000 unless told. Requests in flight may add 5,000 more. */
  readonly capacity?: number | undefined
  /** The longest that closing waits for Redis, milliseconds; 2,000 unless told, without a directory 5,000. */
  readonly closeTimeout?: number | undefined
  /** Evidence was lost for good: how many events. */
  readonly onDropped?: ((count: number) => void) | undefined
  /** Redis did not take a batch, or part of one; it is sent again. */
  readonly onSinkError?: (() => void) | undefined
  /** Events were written to replay files. */
  readonly onPersisted?: ((count: number) => void) | undefined
  /** Events were sent from disk. */
  readonly onDrained?: ((count: number) => void) | undefined
  /** Lines on disk were torn or garbled. */
  readonly onCorruptLines?: ((count: number) => void) | undefined
}

declare module 'fastify' {
  interface FastifyInstance {
    readonly audit: Audit
  }
}

async function audit(app: FastifyInstance, options: AuditOptions): Promise<void> {
  const { log } = app
  const capacity = options.capacity ?? 10_000
  if (!Number.isInteger(capacity) || capacity < 1) {
    throw new TypeError('capacity must be an integer of 1 or more')
  }
  const durability = options.durability ?? 'relaxed'
  if (durability !== 'relaxed' && options.directory === undefined) {
    throw new TypeError(`durability ${durability} needs a directory`)
  }
  const key = options.hmacKey === undefined ? undefined : hmacKey('hmacKey', options.hmacKey)
  const sink = new Sink(app.store, key, log, () => options.onSinkError?.())
  const directory =
    options.directory === undefined
      ? undefined
      : new ReplayDirectory(options.directory, durability, log)

  let lost = false
  const onKept = (count: number, file: KeptFile) => {
    options.onPersisted?.(count)
    backlog?.kept(file)
  }
  const queue = new Queue(sink, directory, log, {
    capacity,
    files: () => backlog?.size ?? 0,
    onKept,
    onDropped(count, cause) {
      options.onDropped?.(count)
      // One line; the count goes on in the metric. The end's own loss is always told.
      if (!lost || queue.closing) log.error({ count, cause }, 'audit evidence lost')
      lost = true
    },
  })
  const backlog =
    directory &&
    new Backlog(sink, directory, log, {
      onKept,
      onDrained: count => options.onDrained?.(count),
      onCorrupt: count => options.onCorruptLines?.(count),
      onIdle() {
        if (queue.depth === 0) sink.hope()
      },
    })
  sink.onTaking = () => queue.wake()
  if (directory !== undefined) directory.onUsable = () => queue.wake()

  app.decorate('audit', {
    accepting() {
      if (queue.closing || queue.depth >= capacity) return false
      if (directory === undefined || directory.usable) return true
      return durability === 'relaxed' && sink.taking
    },
    journaled: durability !== 'relaxed',
    intend(event) {
      const journal = directory?.journal
      if (directory?.usable !== true || journal === undefined || queue.closing) {
        throw new Denial('evidence_unavailable')
      }
      try {
        return journal.intend(writeEvent(uuidv7(), event, Date.now()))
      } catch (cause) {
        directory.fail(cause)
        throw new Denial('evidence_unavailable', { cause })
      }
    },
    safe(intent) {
      if (durability !== 'synced') return undefined
      return intent.journal.synced().catch((cause: unknown) => {
        directory?.fail(cause)
        intent.journal.done([intent])
        throw new Denial('evidence_unavailable', { cause })
      })
    },
    record: (event, intent) => queue.record(event, intent),
    get depth() {
      return queue.depth
    },
    capacity,
    get lost() {
      return lost
    },
    get replayUnavailable() {
      return directory?.usable === false
    },
    get backlog() {
      return backlog?.figures ?? { files: 0, bytes: 0, ageSeconds: 0 }
    },
  } satisfies Audit)

  await directory?.open()
  // Not before everything else is up: what a dead process left must not hold up the start.
  app.addHook('onReady', async () => backlog?.start())
  app.addHook('onClose', async () => {
    const timeout = options.closeTimeout ?? (directory === undefined ? 5_000 : 2_000)
    const deadline = performance.now() + timeout
    await Promise.all([backlog?.close(deadline), queue.close(deadline)])
    await directory?.close()
  })
}

export default fp(audit, { name: 'audit', fastify: '5.x', dependencies: ['store'] })
