// Guarantees that whoever depends on a revocation learns of it the moment it is known, and that a snapshot replaces what
// was known only when it was read to its end.
import type { FastifyBaseLogger } from 'fastify'
import type { Anchors } from '../../lib/mandate.ts'
import { pace } from '../../lib/pace.ts'
import { type AnchorKind, RevocationSet } from '../../lib/revocation-set.ts'
import { type UnixClock, unixClock } from '../../lib/unix-clock.ts'

/** An anchor that came to be revoked. */
export interface Revocation {
  readonly kind: AnchorKind
  readonly id: string
  /** Unix milliseconds at which it was revoked: a message's entry into Redis; `undefined` when nobody said. */
  readonly revokedAt: number | undefined
}

/** Hears of every anchor that comes to be revoked. */
export type RevocationListener = (revocation: Revocation) => void

const SWEEP_INTERVAL = 60_000

/** What is revoked now, as far as the gateway knows. */
export class KnownRevocations {
  readonly clock: UnixClock = unixClock()
  readonly #log: FastifyBaseLogger
  readonly #set = new RevocationSet()
  readonly #listeners: RevocationListener[] = []
  #sweeper: NodeJS.Timeout | undefined

  constructor(log: FastifyBaseLogger) {
    this.#log = log
  }

  /** Anchors that are revoked, or were less than a minute or so ago. */
  get size(): number {
    return this.#set.size
  }

  onRevoked(listener: RevocationListener): void {
    this.#listeners.push(listener)
  }

  isRevoked({ sid, rootSid, agentSessionId, delegationEdgeId }: Anchors): boolean {
    const now = this.clock.now()
    const has = (kind: AnchorKind, id: string | undefined) =>
      id !== undefined && id !== '' && this.#set.has(kind, id, now)
    return (
      has('session', sid) ||
      (rootSid !== sid && has('session', rootSid)) ||
      has('agent_session', agentSessionId) ||
      has('delegation_edge', delegationEdgeId)
    )
  }

  /**
   * Revokes an anchor until `end` (Unix milliseconds, or `Infinity`).
   *
   * @returns whether that was not known
   */
  revoke(revocation: Revocation, end: number): boolean {
    const { kind, id } = revocation
    if (!this.#set.add(kind, id, end, this.clock.now())) return false
    for (const listener of this.#listeners) {
      try {
        listener(revocation)
      } catch (error) {
        this.#log.error({ err: error }, 'who was told of a revocation failed')
      }
    }
    return true
  }

  /** Forgets what is known, but for what is revoked while `read` runs, if it comes to its end. One at a time. */
  async replace(read: () => Promise<void>): Promise<void> {
    this.#set.beginSnapshot()
    try {
      await read()
      await gently(this.#set.endSnapshot())
    } catch (error) {
      this.#set.abortSnapshot()
      throw error
    }
  }

  start(): void {
    const sweep = () => void gently(this.#set.sweep(this.clock.now()))
    this.#sweeper = setInterval(sweep, SWEEP_INTERVAL).unref()
  }

  stop(): void {
    clearInterval(this.#sweeper)
  }
}

async function gently(steps: Generator<void, void, void>): Promise<void> {
  const slice = pace()
  for (const _ of steps) if (slice.isOver()) await slice.rest()
}
