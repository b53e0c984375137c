// Denies every mandate whose session, agent session or delegation was revoked, from the moment Redis or PostgreSQL says so.
import type { KeyObject } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Anchors } from '../../lib/mandate.ts'
import { hmacKey } from '../../lib/stream-signature.ts'
import { DatabaseSource } from './database-source.ts'
import { DeadLetters } from './dead-letters.ts'
import { Keeper } from './keeper.ts'
import { KnownRevocations, type RevocationListener } from './known.ts'
import { LiveStream } from './live-stream.ts'
import { type MessageMeters, Messages } from './messages.ts'
import { StreamSource } from './stream-source.ts'

export { DEAD_LETTER_STREAM } from './dead-letters.ts'
export type { Revocation, RevocationListener } from './known.ts'
export { REVOCATION_STREAM } from './messages.ts'

/** What the gateway knows of revocations. */
export interface Revocations {
  /**
   * Whether the last snapshot that was read to its end, or proven to hold still, began less than 70 s ago, and the live
   * stream was read since then; if not, nobody may be admitted.
   */
  isFresh(): boolean
  /** Whether any of the anchors is revoked. Absent and empty ones are not. */
  isRevoked(anchors: Anchors): boolean
  /** Reads a snapshot anew; resolves to {@link Revocations.size}. Concurrent calls share one read. */
  reload(): Promise<number>
  /** Anchors that are revoked now, those included that have ended in the last minute. */
  readonly size: number
  /** Seconds since the older of the two reads that {@link Revocations.isFresh} is about began. */
  snapshotAgeSeconds(): number
  /** Whether the last 24 hours of the stream were trimmed, or may have been; never with a database. */
  readonly historyIncomplete: boolean
  /** Calls the listener with every anchor that comes to be revoked, right after {@link Revocations.isRevoked} knows it. */
  onRevoked(listener: RevocationListener): void
}

/** Options of the plugin. Without a key, which only `dev` allows, every message counts. */
export interface RevocationsOptions extends MessageMeters {
  /** `STREAMS_HMAC_KEY`, hex. */
  readonly hmacKey?: string | undefined
  /** `STREAMS_HMAC_KEY_PREVIOUS`, hex: verifies, never signs. */
  readonly previousHmacKey?: string | undefined
  /** A reload that somebody asked for is done. */
  readonly onReload?: (() => void) | undefined
  /** A reload that somebody asked for failed. */
  readonly onReloadError?: (() => void) | undefined
}

declare module 'fastify' {
  interface FastifyInstance {
    readonly revocations: Revocations
  }
}

const FRESH_FOR = 70_000

async function revocationsPlugin(app: FastifyInstance, options: RevocationsOptions): Promise<void> {
  const keys = streamKeys(options)
  const { store, database, log } = app
  const known = new KnownRevocations(log)
  const dead = new DeadLetters(store, log, keys[0])
  const messages = new Messages(known, dead, keys, log, options)
  const live = new LiveStream(store, log, {
    onEntry: entry => messages.apply(entry, 'live'),
    onRead: () => dead.write(),
    onRestored() {
      dead.distrust()
      keeper.mend()
    },
    onLost(position) {
      dead.distrust()
      source.lost(position)
    },
  })
  const source = database
    ? new DatabaseSource(database, known, live)
    : new StreamSource({ store, live, clock: known.clock, log, messages })
  const keeper = new Keeper(source, log)
  // Before the start: one that fails ends what it has begun.
  app.addHook('onClose', async () => {
    for (const part of [keeper, source, live, known, dead]) part.stop()
  })

  const age = () => performance.now() - Math.min(keeper.began, live.lastRead)
  let reloading: Promise<number> | undefined
  async function reload(): Promise<number> {
    try {
      await keeper.readWhole()
      options.onReload?.()
      return known.size
    } catch (error) {
      options.onReloadError?.()
      throw error
    }
  }
  app.decorate('revocations', {
    isFresh: () => age() < FRESH_FOR,
    isRevoked: anchors => known.isRevoked(anchors),
    reload() {
      reloading ??= reload().finally(() => {
        reloading = undefined
      })
      return reloading
    },
    get size() {
      return known.size
    },
    snapshotAgeSeconds: () => age() / 1000,
    get historyIncomplete() {
      return source.isIncomplete
    },
    onRevoked: listener => known.onRevoked(listener),
  } satisfies Revocations)

  // No start without a snapshot: what was revoked before would be admitted.
  try {
    await source.check()
    await keeper.start()
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : 'unknown error'
    throw new Error(`what is revoked cannot be read: ${message}`, { cause })
  }
  live.start()
  known.start()
}

export default fp(revocationsPlugin, {
  name: 'revocations',
  fastify: '5.x',
  dependencies: ['store', 'database'],
})

// The current key first: it signs.
function streamKeys({
  hmacKey: current,
  previousHmacKey: previous,
}: RevocationsOptions): KeyObject[] {
  if (current === undefined) {
    if (previous === undefined) return []
    throw new TypeError('previousHmacKey needs hmacKey: set the current key as well')
  }
  const keys = [hmacKey('hmacKey', current)]
  if (previous !== undefined) keys.push(hmacKey('previousHmacKey', previous))
  return keys
}
