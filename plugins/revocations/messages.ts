// Denies what a message of the revocation stream names, if whoever wrote it holds the streams key (contract section 6).
import type { KeyObject } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { AnchorKind } from '../../lib/revocation-set.ts'
import { streamIdTime } from '../../lib/stream-id.ts'
import { verifyStreamEntry } from '../../lib/stream-signature.ts'
import type { StreamEntry } from '../store.ts'
import type { DeadLetters } from './dead-letters.ts'
import type { KnownRevocations } from './known.ts'

/** The stream that Caracal publishes revocations to. */
export const REVOCATION_STREAM = 'caracal.sessions.revoke'

/** How long a message counts, and how far back history is read: milliseconds. */
export const DAY = 24 * 60 * 60 * 1000

/** Is told what comes of the messages. */
export interface MessageMeters {
  /** A message was read for the first time. */
  readonly onMessage?: (() => void) | undefined
  /** A message was dropped: its signature is missing or wrong. */
  readonly onInvalidSignature?: (() => void) | undefined
  /** A message named nothing to revoke. */
  readonly onDeadLetter?: (() => void) | undefined
  /** Seconds from a message's entry into Redis to its application; never for history. */
  readonly onPropagation?: ((seconds: number) => void) | undefined
}

/**
 * How a message came to be read: as it was written, from the history before the start, or from history once more, where
 * only what is news counts.
 */
export type Reading = 'live' | 'history' | 'again'

/** Applies messages. */
export class Messages {
  readonly #known: KnownRevocations
  readonly #dead: DeadLetters
  readonly #keys: readonly KeyObject[]
  readonly #log: FastifyBaseLogger
  readonly #meters: MessageMeters

  /** @param keys those that verify; with none, which only `dev` allows, every message counts */
  constructor(
    known: KnownRevocations,
    dead: DeadLetters,
    keys: readonly KeyObject[],
    log: FastifyBaseLogger,
    meters: MessageMeters,
  ) {
    this.#known = known
    this.#dead = dead
    this.#keys = keys
    this.#log = log
    this.#meters = meters
  }

  /** Applies one message. Never throws: a message that is no good must not hide the next one. */
  apply(entry: StreamEntry, reading: Reading): void {
    const { id, fields } = entry
    const time = streamIdTime(id)
    if (reading === 'live') this.#known.clock.atLeast(time)
    const now = this.#known.clock.now()
    // A message that has just come counts from now where the clock of Redis is behind.
    const end = DAY + (reading === 'live' ? Math.max(time, now) : time)
    if (end <= now) return
    const first = reading !== 'again'
    if (first) this.#meters.onMessage?.()
    if (this.#keys.length > 0 && !verifyStreamEntry(this.#keys, REVOCATION_STREAM, fields)) {
      if (!first) return
      this.#meters.onInvalidSignature?.()
      this.#log.warn({ id }, 'revocation message dropped: its signature is missing or wrong')
      return
    }
    const named: readonly (readonly [AnchorKind, string | undefined])[] = [
      ['session', fields['session_id']],
      ['agent_session', fields['agent_session_id']],
      ['delegation_edge', fields['delegation_edge_id']],
      ['delegation_edge', fields['edge_id']],
    ]
    let poison = true
    let news = false
    for (const [kind, anchor] of named) {
      if (anchor === undefined || anchor === '') continue
      poison = false
      news = this.#known.revoke({ kind, id: anchor, revokedAt: time }, end) || news
    }
    if (poison) {
      news = this.#dead.take(entry)
      if (first || news) this.#meters.onDeadLetter?.()
    } else if (reading === 'live') {
      this.#meters.onPropagation?.(Math.max(0, Date.now() - time) / 1000)
    }
    if (news && !first) this.#meters.onMessage?.()
  }
}
