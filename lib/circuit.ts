/**
 * Guarantees that a failing STS is left alone: a circuit breaker with a single half-open probe.
 *
 * Own code: the libraries at hand either let everyone wait for the probe (cockatiel) or open by the share of
 * failures in a time window (opossum), while contract section 4 counts failures without a success between them,
 * takes no notice of refusals, and fails fast beside the probe.
 */

/** How a request stands to the circuit: through as usual, or through as the one probe. */
export type Entry = 'closed' | 'probe'

/** What a {@link Circuit} is made of. */
export interface CircuitOptions {
  /** Failures without a success between them that open the circuit. */
  readonly threshold: number
  /** How long it stays open, in milliseconds, before one probe goes through. */
  readonly openFor: number
  /** Called each time the circuit opens. */
  readonly onOpen?: () => void
}

/** A circuit breaker; `now` is a time in milliseconds. */
export class Circuit {
  readonly #options: CircuitOptions
  #failures = 0
  #openUntil: number | undefined
  #probing = false

  constructor(options: CircuitOptions) {
    this.#options = options
  }

  /** Whether the circuit is not closed: open, or half-open until its probe succeeds. */
  get open(): boolean {
    return this.#openUntil !== undefined
  }

  /** Whether a request would be refused now. */
  refuses(now: number): boolean {
    return this.#openUntil !== undefined && (now < this.#openUntil || this.#probing)
  }

  /** Milliseconds until a probe may go through; 0 when one may go, or is going, now. */
  waitFor(now: number): number {
    return this.#openUntil === undefined ? 0 : Math.max(0, this.#openUntil - now)
  }

  /**
   * Lets a request through, or returns `undefined`. Whoever is let through calls {@link leave} in the end.
   */
  enter(now: number): Entry | undefined {
    if (this.#openUntil === undefined) return 'closed'
    if (this.refuses(now)) return undefined
    this.#probing = true
    return 'probe'
  }

  /**
   * Takes a request's result.
   *
   * @param result `neutral` is a refusal of policy: it neither counts nor resets
   */
  leave(entry: Entry, result: 'success' | 'failure' | 'neutral', now: number): void {
    if (entry === 'probe') this.#probing = false
    if (result === 'success') {
      this.#failures = 0
      this.#openUntil = undefined
      return
    }
    if (result === 'neutral') return
    this.#failures += 1
    const opens =
      this.#openUntil === undefined ? this.#failures >= this.#options.threshold : entry === 'probe'
    if (opens) {
      this.#openUntil = now + this.#options.openFor
      this.#options.onOpen?.()
    }
  }
}
