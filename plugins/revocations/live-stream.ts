// Guarantees that no revocation message that is written from now on goes unread, and says so when one may have.
import { setTimeout as pause } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import { loggedReason } from '../../lib/log-error.ts'
import { pace } from '../../lib/pace.ts'
import { compareStreamIds } from '../../lib/stream-id.ts'
import type { Store, StreamEntry, StreamInfo } from '../store.ts'
import { REVOCATION_STREAM } from './messages.ts'

/** What a stream's reader tells. */
export interface LiveStreamEvents {
  /** Applies a new message. */
  readonly onEntry: (entry: StreamEntry) => void
  /** A read is done, whether or not it brought anything. */
  readonly onRead: () => void
  /** It is read again after a read failed: Redis may have lost what it held, or be another one. */
  readonly onRestored: () => void
  /** Redis numbers entries from before `position`, up to which the stream had been read: it lost some. */
  readonly onLost: (position: string) => void
}

/** Where a stream stands, and up to where it had been read before the question. */
export interface Located {
  readonly info: StreamInfo
  readonly from: string
  /** How many entries up to `info.lastGeneratedId` have been read live. */
  readonly taken: number
}

const NO_STREAM: StreamInfo = {
  length: 0,
  firstId: undefined,
  lastId: undefined,
  lastGeneratedId: '0-0',
  entriesAdded: 0,
}
// Entries of a read: what a reply costs to parse nobody can interrupt.
const PAGE = 200
const BLOCK = 1_000
// Short: a message that waits when Redis is back is to be applied within 100 ms.
const RETRY = 50

interface Waiter {
  readonly id: string
  readonly since: number
  readonly resolve: () => void
  readonly reject: (error: Error) => void
}

/** Reads the stream as it is written; leaves nothing behind in Redis, so that replicas can come and go. */
export class LiveStream {
  readonly #store: Store
  readonly #log: FastifyBaseLogger
  readonly #events: LiveStreamEvents
  readonly #stopped = new AbortController()
  // Where the read goes on; undefined before the first look at the stream.
  #position: string | undefined
  #lastRead = Number.NEGATIVE_INFINITY
  #failures = 0
  #taken = 0
  // The ids that are read while Redis is asked where the stream stands.
  readonly #questions = new Set<string[]>()
  #waiters: Waiter[] = []

  constructor(store: Store, log: FastifyBaseLogger, events: LiveStreamEvents) {
    this.#store = store
    this.#log = log
    this.#events = events
  }

  /** When the last look or read began after which nothing was left to read, by `performance.now()`. */
  get lastRead(): number {
    return this.#lastRead
  }

  /** Whether it is known from where on the stream is to be read. */
  get isLocated(): boolean {
    return this.#position !== undefined
  }

  /**
   * Looks where the stream stands, and moves the position back when it lies before: entries to come would have ids that a
   * read from the old position never shows. Resolves when all that was there then has been read.
   *
   * @throws Error when Redis does not answer, or the stream is not being read
   */
  async locate(): Promise<Located> {
    const began = performance.now()
    const from = this.#position ?? '0-0'
    const before = this.#taken
    const meanwhile: string[] = []
    this.#questions.add(meanwhile)
    try {
      const info = await this.#look()
      this.#assertRead()
      if (info.lastId !== undefined) await this.#reaches(info.lastId)
      // There was nothing else to read then.
      this.#lastRead = Math.max(this.#lastRead, began)
      const upTo = meanwhile.filter(id => compareStreamIds(id, info.lastGeneratedId) <= 0)
      return { info, from, taken: before + upTo.length }
    } finally {
      this.#questions.delete(meanwhile)
    }
  }

  /** Reads from the position that {@link LiveStream.locate} has found. */
  start(): void {
    void this.#follow()
  }

  stop(): void {
    this.#stopped.abort()
    this.#disappoint(new Error('the gateway is closing'))
  }

  async #look(): Promise<StreamInfo> {
    const before = this.#position
    const info = (await this.#store.info(REVOCATION_STREAM)) ?? NO_STREAM
    const { lastGeneratedId } = info
    if (before === undefined) {
      this.#position = lastGeneratedId
      this.#lastRead = performance.now()
    } else if (compareStreamIds(lastGeneratedId, before) < 0) {
      this.#position = lastGeneratedId
      this.#log.warn(
        { read: before, last: lastGeneratedId },
        'the revocation stream lost entries: it is read from where it stands',
      )
      this.#events.onLost(before)
    }
    return info
  }

  async #follow(): Promise<void> {
    const { signal } = this.#stopped
    while (!signal.aborted) {
      const began = performance.now()
      try {
        const from = this.#position ?? '0-0'
        // After a failure it does not wait: what is fresh again is to be known at once.
        const block = this.#failures > 0 ? 1 : BLOCK
        const entries = await this.#store.tail(REVOCATION_STREAM, from, PAGE, block)
        // Moved back meanwhile: it is read again from there.
        if (this.#position !== from || !(await this.#take(entries))) continue
        // Afterwards: what there is to read does not wait for the other connection.
        if (this.#failures > 0) await this.#look()
        this.#lastRead = Math.max(this.#lastRead, began)
        if (this.#failures > 0) {
          this.#log.info({ failures: this.#failures }, 'revocations are read again')
          this.#failures = 0
          this.#events.onRestored()
        }
        this.#content(began, entries.length < PAGE)
        this.#events.onRead()
      } catch (error) {
        if (signal.aborted) return
        this.#failures += 1
        if (this.#failures === 1) {
          this.#log.warn({ reason: loggedReason(error) }, 'revocations cannot be read')
        }
        this.#disappoint(new Error('the revocation stream cannot be read'))
        await pause(RETRY, undefined, { signal, ref: false }).catch(() => undefined)
      }
    }
  }

  // False when the position was moved back meanwhile.
  async #take(entries: readonly StreamEntry[]): Promise<boolean> {
    const slice = pace()
    for (const entry of entries) {
      this.#events.onEntry(entry)
      this.#position = entry.id
      this.#taken += 1
      for (const meanwhile of this.#questions) meanwhile.push(entry.id)
      if (!slice.isOver()) continue
      await slice.rest()
      if (this.#position !== entry.id) return false
    }
    return true
  }

  #assertRead(): void {
    if (this.#failures > 0) throw new Error('the revocation stream cannot be read')
    if (this.#stopped.signal.aborted) throw new Error('the gateway is closing')
  }

  #reaches(id: string): Promise<void> {
    if (compareStreamIds(this.#position ?? '0-0', id) >= 0) return Promise.resolve()
    return new Promise((resolve, reject) => {
      this.#waiters.push({ id, since: performance.now(), resolve, reject })
    })
  }

  // Whoever waits for an entry has it, or it is gone: a read that began later found the end without it.
  #content(began: number, atTheEnd: boolean): void {
    this.#waiters = this.#waiters.filter(({ id, since, resolve }) => {
      const here = compareStreamIds(this.#position ?? '0-0', id) >= 0
      if (!here && !(atTheEnd && began >= since)) return true
      resolve()
      return false
    })
  }

  #disappoint(error: Error): void {
    for (const { reject } of this.#waiters) reject(error)
    this.#waiters = []
  }
}
