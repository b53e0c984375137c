/**
 * Guarantees that an event is sent as the bytes that were written, signed, and that one place knows whether Redis takes
 * any.
 */
import { createHmac, type KeyObject } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { WrittenEvent } from '../../lib/audit-event.ts'
import type { Store } from '../store.ts'

/** The stream that Caracal's audit service reads. */
export const AUDIT_STREAM = 'caracal.audit.events'
/** Events that are sent at a time. */
export const BATCH = 500

/** The way of events to Redis. */
export class Sink {
  /** Redis takes events again. */
  onTaking: () => void = () => undefined
  readonly #store: Store
  readonly #key: KeyObject | undefined
  readonly #log: FastifyBaseLogger
  readonly #onError: () => void
  #taking = true
  #complained = false
  #failures = 0

  /** @param key signs; without one, which only `dev` allows, events are unsigned */
  constructor(
    store: Store,
    key: KeyObject | undefined,
    log: FastifyBaseLogger,
    onError: () => void,
  ) {
    this.#store = store
    this.#key = key
    this.#log = log
    this.#onError = onError
  }

  /** Whether Redis took what was sent last. */
  get taking(): boolean {
    return this.#taking
  }

  /** Milliseconds until the next attempt after one that failed: 50 doubling to 1,000. */
  get backOff(): number {
    return Math.min(1_000, 50 * 2 ** Math.min(Math.max(0, this.#failures - 1), 10))
  }

  /** Sends events in order. @returns those that Redis did not take, or may not have taken */
  async send<Event extends WrittenEvent>(events: readonly Event[]): Promise<Event[]> {
    if (events.length === 0) return []
    const results = await this.#store.append(
      AUDIT_STREAM,
      events.map(event => this.#fields(event)),
    )
    const failed = events.filter((_, index) => results[index] !== undefined)
    if (failed.length === 0) this.#took()
    else this.#refused(results.find(error => error !== undefined)?.message, failed.length)
    return failed
  }

  /** There is nothing at hand to find out with whether Redis is back: the next events will tell. */
  hope(): void {
    if (this.#taking) return
    this.#taking = true
    this.onTaking()
  }

  #fields({ id, data }: WrittenEvent): Readonly<Record<string, string>> {
    if (this.#key === undefined) return { id, data }
    return { id, data, sig: createHmac('sha256', this.#key).update(data).digest('hex') }
  }

  #took(): void {
    this.#failures = 0
    if (this.#complained) this.#log.info('audit events are taken again')
    this.#complained = false
    this.hope()
  }

  #refused(message: string | undefined, count: number): void {
    this.#taking = false
    this.#failures += 1
    this.#onError()
    if (this.#complained) return
    this.#complained = true
    this.#log.error({ count, message }, 'audit events wait: Redis does not take them')
  }
}
