// Denies what the stream said in its last 24 hours: the source of snapshots where there is no database.
import type { FastifyBaseLogger } from 'fastify'
import { pace } from '../../lib/pace.ts'
import { compareStreamIds, streamIdTime } from '../../lib/stream-id.ts'
import type { UnixClock } from '../../lib/unix-clock.ts'
import type { Store, StreamInfo } from '../store.ts'
import { course, missingBefore } from './continuity.ts'
import type { SnapshotSource } from './keeper.ts'
import type { LiveStream } from './live-stream.ts'
import { DAY, type Messages, REVOCATION_STREAM, type Reading } from './messages.ts'

/** What a stream source needs. */
export interface StreamSourceOptions {
  readonly store: Store
  readonly live: LiveStream
  readonly clock: UnixClock
  readonly log: FastifyBaseLogger
  readonly messages: Messages
}

// Entries of a read: what a reply costs to parse nobody can interrupt.
const PAGE = 200
// A machine's clock that was set back by more than that may have taken for over what is not.
const CLOCK_STEP = 1_000
// Whoever may write to a stream may give its entries any id, and so a time that no date has.
const LAST_DATE = 8_640_000_000_000_000

/**
 * Reads the history whole at the start, after a break, and when it cannot prove that the live read has seen everything.
 */
export class StreamSource implements SnapshotSource {
  readonly #options: StreamSourceOptions
  #baseline: { info: StreamInfo; taken: number; clockAhead: number } | undefined
  // False from when something does not fit until the history has been read to its end.
  #proven = false
  // Unix milliseconds.
  #missingBefore = 0
  #warned = false
  #stopped = false

  constructor(options: StreamSourceOptions) {
    this.#options = options
  }

  get isIncomplete(): boolean {
    return this.#missingBefore > this.#options.clock.now() - DAY
  }

  async check(): Promise<void> {
    // A stream that is not there is an empty one.
  }

  stop(): void {
    this.#stopped = true
  }

  lost(position: string): void {
    this.#miss(streamIdTime(position))
  }

  async read(whole: boolean): Promise<void> {
    const { live, log } = this.#options
    const { info, from, taken } = await live.locate()
    const before = this.#baseline
    const clockAhead = Date.now() - performance.now()
    if (before !== undefined) {
      const went = course(before.info, info, taken - before.taken)
      if (went === 'lost') this.lost(from)
      if (went !== 'continuous') this.#proven = false
      if (compareStreamIds(info.lastGeneratedId, from) < 0) this.#proven = false
      if (!this.#proven && !whole)
        log.warn('the revocation stream changed unseen: it is read again')
      if (clockAhead < before.clockAhead - CLOCK_STEP) this.#proven = false
    }
    if (whole || !this.#proven) {
      this.#proven = false
      // Beyond that the live read has it, or will.
      const upTo = before === undefined ? info.lastGeneratedId : older(from, info.lastGeneratedId)
      await this.#readHistory(upTo, before === undefined ? 'history' : 'again')
      this.#proven = true
    }
    this.#baseline = { info, taken, clockAhead }
    this.#miss(missingBefore(info) ?? 0)
  }

  async #readHistory(upTo: string, reading: Reading): Promise<void> {
    const { store, clock, messages } = this.#options
    const slice = pace()
    let start = `${Math.max(0, Math.floor(clock.now() - DAY))}`
    for (;;) {
      const entries = await store.range(REVOCATION_STREAM, start, PAGE)
      // A reply has been parsed in this turn.
      await slice.rest()
      const last = entries.at(-1)
      const within = last !== undefined && compareStreamIds(last.id, upTo) <= 0
      for (const entry of entries) {
        if (!within && compareStreamIds(entry.id, upTo) > 0) return
        messages.apply(entry, reading)
        if (slice.isOver()) await slice.rest()
      }
      if (last === undefined || entries.length < PAGE) return
      if (this.#stopped) throw new Error('the gateway is closing')
      start = `(${last.id}`
    }
  }

  #miss(before: number): void {
    this.#missingBefore = Math.max(this.#missingBefore, before)
    const { isIncomplete } = this
    if (isIncomplete && !this.#warned) {
      this.#options.log.warn(
        { before: new Date(Math.min(this.#missingBefore, LAST_DATE)).toISOString() },
        'the revocation stream has lost entries of the last 24 hours, or may have: what was revoked before that time may be unknown',
      )
    }
    this.#warned = isIncomplete
  }
}

function older(a: string, b: string): string {
  return compareStreamIds(a, b) < 0 ? a : b
}
