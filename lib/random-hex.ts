/**
 * Draws random bytes for requests: from the system many at a time, because a draw for each costs twenty times as much.
 */
import { randomFillSync } from 'node:crypto'

const POOL_BYTES = 8_192

/** A source of cryptographically strong random bytes. */
export class RandomHex {
  readonly #pool = Buffer.alloc(POOL_BYTES)
  #at = POOL_BYTES

  /** So many bytes that were given to nobody before, as hex; 8,192 at most. */
  draw(bytes: number): string {
    if (this.#at + bytes > POOL_BYTES) {
      randomFillSync(this.#pool)
      this.#at = 0
    }
    this.#at += bytes
    return this.#pool.toString('hex', this.#at - bytes, this.#at)
  }
}
