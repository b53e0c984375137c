// Guarantees that evidence reaches Redis at least once and in order, as long as the process lives.
import { createHmac } from 'node:crypto'
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { hmacKey } from '../lib/stream-signature.ts'
import { uuidv7 } from '../lib/uuid.ts'
import type { Store } from './store.ts'

/** What happened, as it goes into the ledger (contract section 8); `id` and `occurred_at` are added. */
export interface AuditEvent {
  readonly zone_id: string
  readonly event_type: string
  readonly request_id: string
  readonly decision: 'allow' | 'deny'
  readonly evaluation_status: string
  /** Everything that is no member of the ledger's schema. Never a token, a credential, a query, a body. */
  readonly metadata_json: Readonly<Record<string, unknown>>
}

/** Where evidence goes. */
export interface Audit {
  /** Whether there is room for evidence; if not, nobody may be admitted. */
  accepting(): boolean
  /** Takes an event; never throws, never blocks. */
  record(event: AuditEvent): void
  /** Events that wait for Redis. */
  readonly depth: number
  /** Events that may wait before {@link Audit.accepting} says no. */
  readonly capacity: number
  /** Whether evidence was lost for good; stays true. */
  readonly lost: boolean
}

/** Options of the plugin. */
export interface AuditOptions {
  /** `AUDIT_HMAC_KEY`, hex. Without it, which only `dev` allows, events are unsigned. */
  readonly hmacKey?: string | undefined
  /** Events that may wait; 10,000 unless told. Requests in flight may add 5,000 more. */
  readonly capacity?: number | undefined
  /** The longest that closing waits for Redis, milliseconds; 5,000 unless told. */
  readonly closeTimeout?: number | undefined
  /** Evidence was lost for good: how many events. */
  readonly onDropped?: ((count: number) => void) | undefined
  /** Redis did not take a batch, or part of one; it is sent again. */
  readonly onSinkError?: (() => void) | undefined
}

declare module 'fastify' {
  interface FastifyInstance {
    readonly audit: Audit
  }
}

/** The stream that Caracal's audit service reads. */
export const AUDIT_STREAM = 'caracal.audit.events'

const BATCH = 500
const BATCH_DELAY = 5
const IN_FLIGHT_RESERVE = 5_000

async function auditPlugin(app: FastifyInstance, options: AuditOptions): Promise<void> {
  const queue = new AuditQueue(app.store, app.log, options)
  app.decorate('audit', queue)
  app.addHook('onClose', async () => queue.close())
}

export default fp(auditPlugin, { name: 'audit', fastify: '5.x', dependencies: ['store'] })

class AuditQueue implements Audit {
  readonly capacity: number
  readonly #store: Store
  readonly #log: FastifyBaseLogger
  readonly #options: AuditOptions
  readonly #sign: ((data: string) => string) | undefined
  // The serialised entries: a resend must be the same bytes, or the audit service sees tampering.
  #queue: Readonly<Record<string, string>>[] = []
  #lost = false
  #closing = false
  #closed = false
  #failures = 0
  #timer: NodeJS.Timeout | undefined
  #sending: Promise<void> | undefined

  constructor(store: Store, log: FastifyBaseLogger, options: AuditOptions) {
    this.#store = store
    this.#log = log
    this.#options = options
    this.capacity = options.capacity ?? 10_000
    if (!Number.isInteger(this.capacity) || this.capacity < 1) {
      throw new TypeError('capacity must be an integer of 1 or more')
    }
    if (options.hmacKey !== undefined) {
      const key = hmacKey('hmacKey', options.hmacKey)
      this.#sign = data => createHmac('sha256', key).update(data).digest('hex')
    }
  }

  get depth(): number {
    return this.#queue.length
  }

  get lost(): boolean {
    return this.#lost
  }

  accepting(): boolean {
    return !this.#closing && this.#queue.length < this.capacity
  }

  record(event: AuditEvent): void {
    if (this.#closed) return this.#drop(1, 'recorded after the end')
    // Requests that were admitted while there was room still have their evidence kept.
    if (this.#queue.length >= this.capacity + IN_FLIGHT_RESERVE)
      return this.#drop(1, 'queue is full')
    try {
      this.#queue.push(this.#entry(event))
    } catch (error) {
      return this.#drop(1, error instanceof Error ? error.message : 'cannot be serialised')
    }
    if (this.#failures === 0) this.#schedule(this.#queue.length >= BATCH ? 0 : BATCH_DELAY)
  }

  /** Sends what waits, within `closeTimeout`; what is left then is lost and said to be. */
  async close(): Promise<void> {
    this.#closing = true
    clearTimeout(this.#timer)
    const deadline = performance.now() + (this.#options.closeTimeout ?? 5_000)
    while (this.#queue.length > 0 && performance.now() < deadline) {
      await within(deadline - performance.now(), this.#send())
      if (this.#failures > 0) await within(deadline - performance.now(), pause(this.#backOff()))
    }
    this.#closed = true
    if (this.#queue.length > 0) this.#drop(this.#queue.length, 'not delivered before the end')
    this.#queue = []
  }

  #entry(event: AuditEvent): Readonly<Record<string, string>> {
    const id = uuidv7()
    const data = JSON.stringify({
      id,
      zone_id: event.zone_id,
      event_type: event.event_type,
      request_id: event.request_id,
      decision: event.decision,
      evaluation_status: event.evaluation_status,
      determining_policies_json: [],
      diagnostics_json: [],
      metadata_json: event.metadata_json,
      occurred_at: new Date().toISOString(),
    })
    return this.#sign ? { id, data, sig: this.#sign(data) } : { id, data }
  }

  #schedule(delay: number): void {
    if (this.#timer !== undefined || this.#sending !== undefined || this.#closing) return
    // Not unref'ed: evidence that waits is a reason to live.
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      void this.#send()
    }, delay)
  }

  #send(): Promise<void> {
    this.#sending ??= this.#sendBatch().finally(() => {
      this.#sending = undefined
      if (this.#queue.length === 0) return
      const full = this.#queue.length >= BATCH
      this.#schedule(this.#failures > 0 ? this.#backOff() : full ? 0 : BATCH_DELAY)
    })
    return this.#sending
  }

  async #sendBatch(): Promise<void> {
    const batch = this.#queue.slice(0, BATCH)
    const results = await this.#store.append(AUDIT_STREAM, batch)
    const failed = batch.filter((_, index) => results[index] !== undefined)
    // Closing may have given up on them meanwhile.
    if (this.#queue.length === 0) return
    this.#queue.splice(0, batch.length, ...failed)
    if (failed.length === 0) {
      if (this.#failures > 0) this.#log.info({ depth: this.depth }, 'audit events are taken again')
      this.#failures = 0
      return
    }
    this.#failures += 1
    this.#options.onSinkError?.()
    if (this.#failures === 1) {
      const message = results.find(error => error !== undefined)?.message
      this.#log.error({ depth: this.depth, message }, 'audit events wait: Redis does not take them')
    }
  }

  /** Milliseconds until the next attempt: 50 doubling to 1,000. */
  #backOff(): number {
    return Math.min(1_000, 50 * 2 ** Math.min(this.#failures - 1, 10))
  }

  #drop(count: number, cause: string): void {
    this.#options.onDropped?.(count)
    // One line; the count goes on in the metric. The end's own loss is always told.
    if (!this.#lost || this.#closed) this.#log.error({ count, cause }, 'audit evidence lost')
    this.#lost = true
  }
}

function pause(milliseconds: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, milliseconds))
}

async function within(milliseconds: number, work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const end = new Promise<void>(resolve => {
    timer = setTimeout(resolve, Math.max(0, milliseconds))
  })
  await Promise.race([work, end])
  clearTimeout(timer)
}
