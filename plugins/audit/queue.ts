/**
 * Guarantees that evidence goes to Redis, or to a replay file while Redis takes none, in bounded memory, and that an
 * outcome whose intent stands in the journal leaves only once it stands there too: else a restart after a crash would
 * tell another story under the same id.
 */
import { setTimeout as pause } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import { type AuditEvent, renamedEvent, writeEvent } from '../../lib/audit-event.ts'
import { uuidv7 } from '../../lib/uuid.ts'
import type { KeptFile, ReplayDirectory } from './directory.ts'
import type { JournalItem } from './journal.ts'
import { BATCH, type Sink } from './sink.ts'

const BATCH_DELAY = 5
/** Milliseconds of events in a replay file: each costs two syncs. */
const KEEP_DELAY = 200
/** A millisecond more for each file that is there, up to this: whoever looks lists all, and an outage can last a day. */
const LONGEST_KEEP_DELAY = 2_000
/** Milliseconds that the journal may not know yet of what was delivered, when nothing else is written to it. */
const FLUSH_DELAY = 50
/** Events beyond the capacity: requests that were admitted while there was room still have their evidence kept. */
const IN_FLIGHT_RESERVE = 5_000

interface Entry {
  id: string
  data: string
  /** What the journal holds of it without its outcome. */
  intent: JournalItem | undefined
  /** The outcome in the journal. */
  item: JournalItem | undefined
  /** Whether the outcome is as safe in the journal as `AUDIT_DURABILITY` promises. */
  safe: boolean
}

/** What {@link Queue} tells. */
export interface QueueOptions {
  readonly capacity: number
  /** Replay files that are there. */
  readonly files: () => number
  /** Events were lost for good: how many, and why. */
  readonly onDropped: (count: number, cause: string) => void
  /** Events are in a replay file. */
  readonly onKept: (count: number, file: KeptFile) => void
}

/** The events of this process on their way. */
export class Queue {
  readonly #sink: Sink
  readonly #directory: ReplayDirectory | undefined
  readonly #log: FastifyBaseLogger
  readonly #options: QueueOptions
  #waiting: Entry[] = []
  /** Cannot leave while their outcome cannot be written. */
  #held: Entry[] = []
  #sending: Entry[] = []
  #timer: NodeJS.Timeout | undefined
  #flushTimer: NodeJS.Timeout | undefined
  #running: Promise<void> | undefined
  #keeping: Promise<unknown> | undefined
  #complained = false
  #closing = false
  #closed = false

  constructor(
    sink: Sink,
    directory: ReplayDirectory | undefined,
    log: FastifyBaseLogger,
    options: QueueOptions,
  ) {
    this.#sink = sink
    this.#directory = directory
    this.#log = log
    this.#options = options
  }

  get depth(): number {
    return this.#waiting.length + this.#held.length + this.#sending.length
  }

  get closing(): boolean {
    return this.#closing
  }

  /** Takes an event, with the intent of its request if that was written; never throws. */
  record(event: AuditEvent, intent: JournalItem | undefined): void {
    // An intent that stays without an outcome becomes an event of the next start: nothing is lost.
    const lose = (cause: string) => {
      if (intent === undefined) return this.#options.onDropped(1, cause)
      if (!this.#complained)
        this.#log.error({ cause }, 'audit outcomes are lost: interrupted, the next start says')
      this.#complained = true
    }
    if (this.#closed) return lose('recorded after the end')
    if (this.depth >= this.#options.capacity + IN_FLIGHT_RESERVE) return lose('queue is full')
    try {
      const written = writeEvent(intent?.id ?? uuidv7(), event, Date.now())
      this.#waiting.push({ ...written, intent, item: undefined, safe: false })
    } catch (error) {
      return lose(error instanceof Error ? error.message : 'cannot be serialised')
    }
    if (this.#waiting.length === BATCH) this.#reschedule()
    else this.#schedule()
  }

  /** Something has changed that events wait for. */
  wake(): void {
    this.#waiting = [...this.#held, ...this.#waiting]
    this.#held = []
    this.#reschedule()
  }

  /**
   * Sends what waits, and keeps what Redis has not taken by the deadline on disk.
   *
   * @param deadline `performance.now()`
   */
  async close(deadline: number): Promise<void> {
    this.#closing = true
    clearTimeout(this.#timer)
    while (this.#unsent() && performance.now() < deadline) {
      const left = () => deadline - performance.now()
      await within(left(), this.#run())
      if (!this.#sink.taking && this.#directory?.usable !== true) {
        await within(left(), pause(this.#sink.backOff))
      }
    }
    // What is just being written to a replay file is not to be written to another.
    await this.#keeping
    this.#closed = true
    let rest = await this.#keep(
      this.#journaled([...this.#sending, ...this.#held, ...this.#waiting]),
    )
    rest = rest.filter(({ intent, item }) => intent === undefined && item === undefined)
    if (rest.length > 0) this.#options.onDropped(rest.length, 'not delivered before the end')
    this.#sending = []
    this.#held = []
    this.#waiting = []
    clearTimeout(this.#flushTimer)
    this.#flush()
  }

  #unsent(): boolean {
    return this.#waiting.length + this.#sending.length > 0
  }

  get #diverting(): boolean {
    return !this.#sink.taking && this.#directory?.usable === true
  }

  #reschedule(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#schedule()
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#running !== undefined || this.#closing) return
    if (this.#waiting.length === 0) return
    // Not unref'ed: evidence that waits is a reason to live.
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      void this.#run()
    }, this.#delay())
  }

  #delay(): number {
    if (this.#diverting) {
      if (this.#waiting.length >= BATCH) return 0
      return Math.min(LONGEST_KEEP_DELAY, KEEP_DELAY + this.#options.files())
    }
    if (!this.#sink.taking) return this.#sink.backOff
    return this.#waiting.length >= BATCH ? 0 : BATCH_DELAY
  }

  #run(): Promise<void> {
    this.#running ??= this.#deliver().finally(() => {
      this.#running = undefined
      this.#schedule()
    })
    return this.#running
  }

  async #deliver(): Promise<void> {
    this.#sending = this.#waiting.splice(0, BATCH)
    this.#sending = this.#journaled(this.#sending)
    this.#sending = await this.#synced(this.#sending)
    // Closing has not waited for the disk: what was to be sent is in a replay file.
    if (this.#closed) return
    const batch = this.#sending
    let failed = this.#diverting ? batch : await this.#sink.send(batch)
    // Closing has not waited for the answer: it has taken what was left.
    if (this.#closed) return
    this.#done(without(batch, failed))
    this.#sending = failed
    const keeping = this.#keep(failed)
    this.#keeping = keeping
    failed = await keeping
    this.#waiting.unshift(...failed)
    this.#sending = []
  }

  /** Writes the outcomes that the journal lacks. @returns what may go on; the rest is held */
  #journaled(entries: Entry[]): Entry[] {
    const journal = this.#directory?.journal
    if (this.#directory === undefined || this.#directory.durability === 'relaxed') return entries
    const lacking = entries.filter(({ item }) => item === undefined || item.journal !== journal)
    if (lacking.length === 0) return entries
    for (const entry of lacking) {
      // The intent has gone with its journal. Whoever has that may have said that the request was interrupted.
      if (entry.intent !== undefined && entry.intent.journal !== journal) {
        if (entry.item === undefined) Object.assign(entry, renamedEvent(entry, uuidv7()))
        entry.intent = undefined
      }
      entry.item = undefined
      entry.safe = false
    }
    if (this.#directory.usable && journal !== undefined) {
      try {
        const items = journal.settle(lacking.map(entry => ({ event: entry, intent: entry.intent })))
        for (const [index, entry] of lacking.entries()) {
          entry.item = items[index]
          entry.safe = this.#directory.durability === 'strict'
        }
        return entries
      } catch (error) {
        this.#directory.fail(error)
      }
    }
    return this.#hold(entries, ({ intent, item }) => intent !== undefined && item === undefined)
  }

  async #synced(entries: Entry[]): Promise<Entry[]> {
    const journal = this.#directory?.journal
    if (journal === undefined || this.#directory?.durability !== 'synced') return entries
    const unsafe = entries.filter(({ item, safe }) => item !== undefined && !safe)
    if (unsafe.length === 0) return entries
    try {
      await journal.synced()
      for (const entry of unsafe) entry.safe = true
      return entries
    } catch (error) {
      this.#directory.fail(error)
      // What a sync has failed for the next one may pass over: these are written again.
      for (const entry of unsafe) {
        entry.intent = entry.item
        entry.item = undefined
      }
      return this.#hold(entries, ({ intent, item }) => intent !== undefined && item === undefined)
    }
  }

  #hold(entries: Entry[], held: (entry: Entry) => boolean): Entry[] {
    // At the end an intent without its outcome stays in the journal, for the next start.
    if (!this.#closed) this.#held.push(...entries.filter(held))
    return entries.filter(entry => !held(entry))
  }

  /** Puts events into replay files. @returns those that are in none */
  async #keep(entries: Entry[]): Promise<Entry[]> {
    if (entries.length === 0 || this.#directory?.usable !== true) return entries
    const kept: Entry[] = []
    await this.#directory.keep(entries, (part, file) => {
      kept.push(...part)
      this.#options.onKept(part.length, file)
    })
    this.#done(kept)
    return without(entries, kept)
  }

  #done(entries: readonly Entry[]): void {
    const journal = this.#directory?.journal
    if (journal === undefined || entries.length === 0) return
    journal.done(entries.flatMap(({ item }) => (item?.journal === journal ? [item] : [])))
    this.#flushTimer ??= setTimeout(() => {
      this.#flushTimer = undefined
      this.#flush()
    }, FLUSH_DELAY).unref()
  }

  #flush(): void {
    try {
      if (this.#directory?.usable === true) this.#directory.journal?.flush()
    } catch (error) {
      this.#directory?.fail(error)
    }
  }
}

function without(entries: readonly Entry[], others: readonly Entry[]): Entry[] {
  const gone = new Set(others)
  return entries.filter(entry => !gone.has(entry))
}

/** Waits for work that may go on when the time is over. */
export async function within(milliseconds: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const end = new Promise<void>(resolve => {
    timer = setTimeout(resolve, Math.max(0, milliseconds))
  })
  await Promise.race([work, end])
  clearTimeout(timer)
}
