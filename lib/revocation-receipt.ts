/**
 * Tells by what a request in flight was revoked, and how long it took to end it (contract sections 6 and 8).
 */
import type { AnchorClaim } from './live-index.ts'

/** One request's receipt: made when its revocation becomes known, stamped when the request is ended for it. */
export class RevocationReceipt {
  /** The claim that the revocation named. */
  readonly anchor: AnchorClaim
  readonly #revokedAt: number | undefined
  #cutAt: number | undefined

  /** @param revokedAt Unix milliseconds; `undefined` when nobody said */
  constructor(anchor: AnchorClaim, revokedAt: number | undefined) {
    this.anchor = anchor
    this.#revokedAt = revokedAt
  }

  /** Notes that the request was ended at `now` (Unix milliseconds); only the first call counts. */
  stamp(now: number): void {
    this.#cutAt ??= now
  }

  /** Whether the request was ended for its revocation: it may also have come to its own end before. */
  get cut(): boolean {
    return this.#cutAt !== undefined
  }

  /**
   * Whole milliseconds from the revocation to the request's end; `undefined` when either is unknown. The two times
   * may be of two clocks: never negative.
   */
  get latencyMs(): number | undefined {
    if (this.#cutAt === undefined || this.#revokedAt === undefined) return undefined
    return Math.max(0, Math.round(this.#cutAt - this.#revokedAt))
  }
}
