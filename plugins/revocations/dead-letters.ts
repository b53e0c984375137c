// Guarantees that a message that names nothing to revoke is kept where somebody can look at it, once.
import type { KeyObject } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import { loggedReason } from '../../lib/log-error.ts'
import { signStreamEntry } from '../../lib/stream-signature.ts'
import type { Store, StreamEntry } from '../store.ts'

/** Where messages go that name nothing to revoke. */
export const DEAD_LETTER_STREAM = 'caracal.sessions.revoke.dead'

const ERROR = 'missing session_id, agent_session_id, or delegation_edge_id'
const PAGE = 100
// An hour more than the history that is read, for clocks that differ.
const FORGOTTEN_AFTER = 25 * 60 * 60 * 1000

/** Writes the dead letters; what cannot be written waits for the next {@link DeadLetters.write}. */
export class DeadLetters {
  readonly #store: Store
  readonly #log: FastifyBaseLogger
  readonly #key: KeyObject | undefined
  // What was taken, what of it waits to be written, what is known to have been, and how far the letters were read.
  readonly #taken = new Set<string>()
  readonly #waiting = new Map<string, StreamEntry>()
  readonly #written = new Set<string>()
  #readUpTo = '0-0'
  #writing = false
  #failing = false
  #stopped = false

  /** @param key signs the letters; without one, which only `dev` allows, they are not signed */
  constructor(store: Store, log: FastifyBaseLogger, key: KeyObject | undefined) {
    this.#store = store
    this.#log = log
    this.#key = key
  }

  /**
   * Takes a message that is to be written unless it was already.
   *
   * @returns whether it was not taken before
   */
  take(entry: StreamEntry): boolean {
    const { id } = entry
    const known = this.#taken.has(id)
    this.#taken.add(id)
    if (!this.#written.has(id) && !this.#waiting.has(id)) {
      this.#waiting.set(id, entry)
      this.write()
    }
    return !known
  }

  /** Redis may have lost letters, and may give their ids again. */
  distrust(): void {
    this.#written.clear()
    this.#readUpTo = '0-0'
  }

  /** Writes what waits; nobody has to wait for it. */
  write(): void {
    if (this.#writing || this.#stopped || this.#waiting.size === 0) return
    this.#writing = true
    this.#writeAll()
      .then(
        () => {
          this.#failing = false
        },
        (error: unknown) => {
          if (!this.#failing && !this.#stopped) {
            this.#log.error({ reason: loggedReason(error) }, 'dead letters cannot be written')
          }
          this.#failing = true
        },
      )
      .finally(() => {
        this.#writing = false
        // What came when the last one had just been written.
        if (!this.#failing) this.write()
      })
  }

  stop(): void {
    this.#stopped = true
  }

  async #writeAll(): Promise<void> {
    for (const ids of [this.#taken, this.#written]) {
      for (const id of ids) if (isForgotten(id)) ids.delete(id)
    }
    await this.#readWritten()
    for (const [id, { fields }] of this.#waiting) {
      if (!this.#written.has(id)) {
        const letter: Record<string, string> = {
          original_id: id,
          error: ERROR,
          values: JSON.stringify(fields),
        }
        if (this.#key) letter['_sig'] = signStreamEntry(this.#key, DEAD_LETTER_STREAM, letter)
        const [error] = await this.#store.append(DEAD_LETTER_STREAM, [letter])
        if (error) throw error
        this.#log.warn({ id }, 'revocation message names nothing to revoke, kept as a dead letter')
        this.#written.add(id)
      }
      this.#waiting.delete(id)
    }
  }

  async #readWritten(): Promise<void> {
    for (;;) {
      const letters = await this.#store.range(DEAD_LETTER_STREAM, `(${this.#readUpTo}`, PAGE)
      for (const { id, fields } of letters) {
        this.#readUpTo = id
        const original = fields['original_id']
        if (original !== undefined && !isForgotten(original)) this.#written.add(original)
      }
      if (letters.length < PAGE) return
    }
  }
}

// Whether the message is so old that no read brings it back.
function isForgotten(id: string): boolean {
  const time = /^(\d+)-/.exec(id)?.[1]
  return time === undefined || Number(time) + FORGOTTEN_AFTER <= Date.now()
}
