/**
 * Guarantees that what a copy lacks is looked for soon, and that nobody makes it expensive: one read at a time for
 * everything that is missed, each thing once an interval at most, and no waiting without end.
 */
import { LRUCache } from 'lru-cache'

/** What a {@link MissQueue} needs; times in milliseconds. */
export interface MissQueueOptions<Key> {
  /** Reads these anew. A rejection tells that nothing was learned. */
  readonly read: (keys: readonly Key[]) => Promise<void>
  /** Time between two reads of the same thing, and the rest after a read that failed. */
  readonly interval: number
  /** The longest that anybody waits. */
  readonly patience: number
  /** Most keys of one read. Default 100. */
  readonly batch?: number
  /** Most keys that wait. Default 1000. */
  readonly capacity?: number
  /** Milliseconds of a clock that is never set back. */
  readonly now?: () => number
}

interface Miss<Key> {
  readonly key: Key
  readonly known: Promise<void>
  readonly settle: () => void
}

/** How many reads are remembered, for the interval between two of the same thing. */
const REMEMBERED = 10_000

/** Reads what was missed, in batches. */
export class MissQueue<Key> {
  readonly #options: Required<MissQueueOptions<Key>>
  /** By id, in order of arrival; those that are being read are the first. */
  readonly #misses = new Map<string, Miss<Key>>()
  readonly #lately: LRUCache<string, true>
  #readSince = Infinity
  #restsUntil = -Infinity

  constructor(options: MissQueueOptions<Key>) {
    const { now = () => performance.now() } = options
    this.#options = { batch: 100, capacity: 1000, now, ...options }
    this.#lately = new LRUCache({
      max: REMEMBERED,
      ttl: options.interval,
      ttlResolution: 0,
      perf: { now },
    })
  }

  /**
   * Has a key read, or joins those that wait for the same.
   *
   * @param id what makes two keys the same
   * @returns resolves when it was read, could not be, or patience is over; `undefined`: it is not read now
   */
  ask(id: string, key: Key): Promise<void> | undefined {
    const { now, patience, capacity } = this.#options
    const time = now()
    // A source that is slow already, or has just failed, is no reason for another to wait.
    if (time < this.#restsUntil || time - this.#readSince >= patience) return undefined
    const joined = this.#misses.get(id)
    if (joined !== undefined) return joined.known
    if (this.#lately.has(id) || this.#misses.size >= capacity) return undefined

    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, patience).unref()
    const settle = () => {
      clearTimeout(timer)
      resolve()
    }
    this.#misses.set(id, { key, known: promise, settle })
    if (this.#readSince === Infinity) void this.#read()
    return promise
  }

  async #read(): Promise<void> {
    const { now, read, batch, interval } = this.#options
    while (this.#misses.size > 0) {
      this.#readSince = now()
      const misses = [...this.#misses.entries()].slice(0, batch)
      for (const [id] of misses) this.#lately.set(id, true)
      try {
        await read(misses.map(([, { key }]) => key))
        for (const [id, { settle }] of misses) {
          this.#misses.delete(id)
          settle()
        }
      } catch {
        this.#restsUntil = now() + interval
        for (const { settle } of this.#misses.values()) settle()
        this.#misses.clear()
      }
    }
    this.#readSince = Infinity
  }
}
