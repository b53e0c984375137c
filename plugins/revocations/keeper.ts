// Guarantees that the age of what the gateway knows counts from when a read began that came to its end, and that somebody
// tries again when one does not.
import type { FastifyBaseLogger } from 'fastify'
import { loggedReason } from '../../lib/log-error.ts'

/** Where snapshots come from. */
export interface SnapshotSource {
  /**
   * Makes sure, once, that there is what a snapshot is read from.
   *
   * @throws Error that says what is missing
   */
  check(): Promise<void>
  /**
   * Resolves when everything is known that was revoked when the read began.
   *
   * @param whole takes nothing for granted that an earlier read has found
   */
  read(whole: boolean): Promise<void>
  /** The revocation stream lost entries, some of them before `position`. */
  lost(position: string): void
  /** Whether it is known, or may be, that what was revoked in the last 24 hours is no longer all there. */
  readonly isIncomplete: boolean
  /** Ends a read that goes on. */
  stop(): void
}

const INTERVAL = 30_000
const LONGEST_RETRY = 5_000
const TICK = 500

/** Keeps the snapshot fresh: one read at a time, every 30 s, after a break, and when somebody asks. */
export class Keeper {
  readonly #source: SnapshotSource
  readonly #log: FastifyBaseLogger
  // By performance.now(), all of them.
  #began = Number.NEGATIVE_INFINITY
  #due = Number.POSITIVE_INFINITY
  // Breaks that there were, and those that a whole read has come after.
  #breaks = 0
  #mended = 0
  #last: Promise<unknown> = Promise.resolve()
  #refreshing = false
  #failures = 0
  #ticker: NodeJS.Timeout | undefined
  #stopped = false

  constructor(source: SnapshotSource, log: FastifyBaseLogger) {
    this.#source = source
    this.#log = log
  }

  /** When the last read began that came to its end, by `performance.now()`. */
  get began(): number {
    return this.#began
  }

  /**
   * Reads the first snapshot, and refreshes it from then on.
   *
   * @throws whatever the read throws
   */
  async start(): Promise<void> {
    await this.#take(true)
    // Looked at rather than waited for: a process that was held up is late by no more than that.
    this.#ticker = setInterval(() => this.#tick(), TICK).unref()
  }

  stop(): void {
    this.#stopped = true
    clearInterval(this.#ticker)
  }

  /** What was read may not be all: reads the whole of it, without waiting for the next read to be due. */
  mend(): void {
    this.#breaks += 1
    this.#due = Number.NEGATIVE_INFINITY
    this.#tick()
  }

  /** Reads all of it, after the read that goes on, if one does. */
  readWhole(): Promise<void> {
    return this.#take(true)
  }

  #tick(): void {
    if (this.#stopped || this.#refreshing || performance.now() < this.#due) return
    this.#refreshing = true
    this.#due = Number.POSITIVE_INFINITY
    this.#take(false)
      .then(
        () => {
          if (this.#failures > 0) {
            this.#log.info({ failures: this.#failures }, 'the revocation snapshot is read again')
          }
          this.#failures = 0
        },
        (error: unknown) => {
          if (this.#stopped) return
          this.#failures += 1
          // Unless it is to be mended meanwhile: then at once.
          if (this.#due > performance.now()) {
            const wait = Math.min(LONGEST_RETRY, 1_000 * 2 ** (this.#failures - 1))
            this.#due = performance.now() + wait
          }
          if (this.#failures > 1) return
          this.#log.warn({ reason: loggedReason(error) }, 'the revocation snapshot cannot be read')
        },
      )
      .finally(() => {
        this.#refreshing = false
      })
  }

  #take(asked: boolean): Promise<void> {
    const run = this.#last.then(async () => {
      const began = performance.now()
      const breaks = this.#breaks
      const whole = asked || breaks !== this.#mended
      await this.#source.read(whole)
      if (whole) this.#mended = breaks
      this.#began = began
      // Another break in the meantime: what was read is as old as it is, and not to be relied on for long.
      this.#due = this.#breaks === this.#mended ? began + INTERVAL : Number.NEGATIVE_INFINITY
    })
    this.#last = run.catch(() => undefined)
    return run
  }
}
