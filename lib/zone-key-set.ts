// Guarantees that a zone's keys are fetched no more than strangers' tokens justify, and that none
// verifies after it has left the set, or longer than 10 minutes after it was last seen.

/** How long an answer of the zone counts, in milliseconds (contract section 3). */
const FRESH_FOR = 5 * 60_000
/** From this age on, the use of a key fetches the set anew while requests go on. */
const REFRESH_AHEAD_AT = 0.8 * FRESH_FOR
/** How long a key serves after it was last seen, while fetches fail. */
const USABLE_FOR = 10 * 60_000
/** Least time between two refetches that unknown kids force. */
const UNKNOWN_KID_INTERVAL = 30_000
/** The wait after a first failed fetch; each further failure doubles it. */
const FIRST_WAIT = 500
/** The longest wait after a failed fetch. */
const LONGEST_WAIT = 30_000
/**
 * How long a failure speaks for the zone. While it does, expired keys answer at once and the next
 * attempt runs behind them; later a request waits for an attempt of its own, so that a zone that
 * was idle does not answer from keys that nobody has tried to renew.
 */
const FAILING_FOR = 2 * LONGEST_WAIT

/** Why a set is fetched: the label of `jwks_refetch_total`. */
export type FetchReason = 'first' | 'expired' | 'unknown_kid' | 'ahead'

/** What a {@link ZoneKeySet} needs from outside. */
export interface ZoneKeySetOptions<Key> {
  /**
   * Fetches the zone's whole set, by kid; it is given the kid that is being asked for. An empty map
   * says that the zone has no keys. Rejects when the zone cannot tell.
   */
  readonly fetch: (kid: string) => Promise<ReadonlyMap<string, Key>>
  /** Makes the error that a request is refused with while the zone cannot tell. */
  readonly unavailable: (cause: unknown) => Error
  /** Milliseconds of a clock that is never set back. */
  readonly clock: () => number
  /** A number from 0 to 1 (1 excluded), for the jitter. */
  readonly random: () => number
  /** Called when a fetch has ended. Must not throw. */
  readonly onFetch?: ((reason: FetchReason, ok: boolean) => void) | undefined
}

/**
 * The verification keys of one zone: when they are fetched, and for how long they count
 * (contract section 3). It holds no timer: what is due happens when a key is next asked for.
 */
export class ZoneKeySet<Key extends object> {
  readonly #options: ZoneKeySetOptions<Key>
  #keys: ReadonlyMap<string, Key> = new Map()
  /** When the fetch began that brought the keys. */
  #seenAt = -Infinity
  /** The fetch under way; resolves to whether it was answered, never rejects. */
  #pending: Promise<boolean> | undefined
  #failures = 0
  #failedAt = -Infinity
  #retryAt = -Infinity
  #lastFailure: unknown
  #gateOpensAt = -Infinity

  constructor(options: ZoneKeySetOptions<Key>) {
    this.#options = options
  }

  /**
   * The zone's key of that `kid`: at once when it is known and counts, else when the zone has told.
   *
   * @returns undefined when the zone has no such key
   * @throws (rejects) the error of `unavailable` when the zone cannot tell
   */
  find(kid: string): Key | undefined | Promise<Key | undefined> {
    const now = this.#options.clock()
    const age = now - this.#seenAt
    const key = this.#usable(kid, now)
    const failing = this.#failures > 0 && now - this.#failedAt < FAILING_FOR
    if (key === undefined || (age >= FRESH_FOR && !failing)) return this.#ask(kid)
    if (age >= REFRESH_AHEAD_AT && this.#pending === undefined && now >= this.#retryAt) {
      void this.#fetch(age < FRESH_FOR ? 'ahead' : 'expired', kid, now)
    }
    return key
  }

  async #ask(kid: string): Promise<Key | undefined> {
    // A fetch that was under way before this request came may have been answered just before the
    // key was published, so its answer can admit the kid and cannot rule it out.
    if (this.#pending !== undefined) {
      const key = this.#verdict(kid, await this.#pending)
      if (key !== undefined) return key
    }
    const now = this.#options.clock()
    let fetched = this.#pending
    if (fetched === undefined) {
      if (now < this.#retryAt) return this.#verdict(kid, false)
      const fresh = now - this.#seenAt < FRESH_FOR
      if (fresh && now < this.#gateOpensAt) return this.#keys.get(kid)
      const reason = this.#seenAt === -Infinity ? 'first' : fresh ? 'unknown_kid' : 'expired'
      fetched = this.#fetch(reason, kid, now)
    }
    return this.#verdict(kid, await fetched)
  }

  /** What the state of the set says about a kid, after a fetch that was answered or failed. */
  #verdict(kid: string, answered: boolean): Key | undefined {
    const key = this.#usable(kid, this.#options.clock())
    if (key === undefined && !answered) throw this.#options.unavailable(this.#lastFailure)
    return key
  }

  #usable(kid: string, now: number): Key | undefined {
    return now - this.#seenAt < USABLE_FOR ? this.#keys.get(kid) : undefined
  }

  #fetch(reason: FetchReason, kid: string, startedAt: number): Promise<boolean> {
    const { fetch, onFetch } = this.#options
    this.#pending = fetch(kid).then(
      keys => {
        this.#pending = undefined
        this.#keys = keys
        this.#seenAt = startedAt
        this.#failures = 0
        this.#lastFailure = undefined
        // Only an answer closes the gate. A refetch that failed is paced by the wait, or it would
        // keep a rotated key out long after the zone has recovered.
        if (reason === 'unknown_kid') this.#gateOpensAt = startedAt + UNKNOWN_KID_INTERVAL
        onFetch?.(reason, true)
        return true
      },
      (cause: unknown) => {
        this.#pending = undefined
        this.#failed(cause)
        onFetch?.(reason, false)
        return false
      },
    )
    return this.#pending
  }

  #failed(cause: unknown): void {
    const { clock, random } = this.#options
    const wait = Math.min(FIRST_WAIT * 2 ** this.#failures, LONGEST_WAIT)
    this.#failures += 1
    this.#lastFailure = cause
    this.#failedAt = clock()
    // Down to three quarters, so that replicas that failed together do not come back together.
    this.#retryAt = this.#failedAt + wait * (1 - random() / 4)
  }
}
