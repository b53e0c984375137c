// Denies every mandate whose session, agent session or delegation was revoked in the last 24 hours.
import type { KeyObject } from 'node:crypto'
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Anchors } from '../lib/mandate.ts'
import { type AnchorKind, RevocationSet } from '../lib/revocation-set.ts'
import { compareStreamIds, streamIdTime } from '../lib/stream-id.ts'
import { hmacKey, signStreamEntry, verifyStreamEntry } from '../lib/stream-signature.ts'
import type { Store, StreamEntry } from './store.ts'

/** What the gateway knows of revocations. */
export interface Revocations {
  /** Whether the last successful read is less than 70 s ago; if not, nobody may be admitted. */
  isFresh(): boolean
  /** Whether any of the anchors is revoked. Absent and empty ones are not. */
  isRevoked(anchors: Anchors): boolean
  /** Rereads the last 24 hours; resolves to {@link Revocations.size}. Concurrent calls share one read. */
  reload(): Promise<number>
  /** Anchors that are revoked now. */
  readonly size: number
  /** Seconds since the last successful read. */
  snapshotAgeSeconds(): number
  /** Calls the listener with every anchor that comes to be revoked, right after {@link Revocations.isRevoked} knows it. */
  onRevoked(listener: (revocation: Revocation) => void): void
}

/** An anchor that came to be revoked. */
export interface Revocation {
  readonly kind: AnchorKind
  readonly id: string
  /** Unix milliseconds at which it was revoked: a message's entry into Redis; `undefined` when nobody said. */
  readonly revokedAt: number | undefined
}

/** Options of the plugin. Without a key, which only `dev` allows, every message counts. */
export interface RevocationsOptions {
  /** `STREAMS_HMAC_KEY`, hex. */
  readonly hmacKey?: string | undefined
  /** `STREAMS_HMAC_KEY_PREVIOUS`, hex: verifies, never signs. */
  readonly previousHmacKey?: string | undefined
  /** A message was read for the first time. */
  readonly onMessage?: (() => void) | undefined
  /** A message was dropped: its signature is missing or wrong. */
  readonly onInvalidSignature?: (() => void) | undefined
  /** A message named nothing to revoke. */
  readonly onDeadLetter?: (() => void) | undefined
  readonly onReload?: (() => void) | undefined
  readonly onReloadError?: (() => void) | undefined
  /** Seconds from a message's entry into Redis to its application; never for history. */
  readonly onPropagation?: ((seconds: number) => void) | undefined
}

declare module 'fastify' {
  interface FastifyInstance {
    readonly revocations: Revocations
  }
}

/** The stream that Caracal publishes revocations to. */
export const REVOCATION_STREAM = 'caracal.sessions.revoke'
/** Where messages go that name nothing to revoke. */
export const DEAD_LETTER_STREAM = 'caracal.sessions.revoke.dead'

const DAY = 24 * 60 * 60 * 1000
const FRESH_FOR = 70_000
const PAGE = 1_000
const BLOCK = 2_000
const SWEEP_INTERVAL = 60_000
const DEAD_LETTER_ERROR = 'missing session_id, agent_session_id, or delegation_edge_id'

async function revocationsPlugin(app: FastifyInstance, options: RevocationsOptions): Promise<void> {
  if (options.previousHmacKey !== undefined && options.hmacKey === undefined) {
    throw new TypeError('previousHmacKey needs hmacKey: set the current key as well')
  }
  const reader = new RevocationReader(app.store, app.log, options)
  // No start without history: what was revoked before would be admitted.
  await reader.start()
  app.decorate('revocations', reader)
  app.addHook('onClose', async () => reader.stop())
}

export default fp(revocationsPlugin, {
  name: 'revocations',
  fastify: '5.x',
  dependencies: ['store'],
})

type Source = 'history' | 'live' | 'reread'

/** Reads the whole stream; leaves nothing behind in Redis, so that replicas can come and go. */
class RevocationReader implements Revocations {
  readonly #store: Store
  readonly #log: FastifyBaseLogger
  readonly #options: RevocationsOptions
  readonly #keys: KeyObject[] = []
  readonly #revoked = new RevocationSet()
  // Where the live read goes on, and the newest entry that was seen there, if any was.
  #position = '0-0'
  #seen: string | undefined
  #lastRead = Number.NEGATIVE_INFINITY
  #reloading: Promise<number> | undefined
  #stopped = new AbortController()
  #sweeper: NodeJS.Timeout | undefined
  readonly #listeners: ((revocation: Revocation) => void)[] = []
  // Poison: what waits to be written, what is known to have been, and how far the dead letters were read.
  readonly #dead = new Map<string, StreamEntry>()
  readonly #buried = new Set<string>()
  #buriedUpTo = '0-0'

  constructor(store: Store, log: FastifyBaseLogger, options: RevocationsOptions) {
    this.#store = store
    this.#log = log
    this.#options = options
    if (options.hmacKey !== undefined) this.#keys.push(hmacKey('hmacKey', options.hmacKey))
    if (options.previousHmacKey !== undefined) {
      this.#keys.push(hmacKey('previousHmacKey', options.previousHmacKey))
    }
  }

  get size(): number {
    this.#revoked.sweep(Date.now())
    return this.#revoked.size
  }

  isFresh(): boolean {
    return performance.now() - this.#lastRead < FRESH_FOR
  }

  snapshotAgeSeconds(): number {
    return (performance.now() - this.#lastRead) / 1000
  }

  isRevoked({ sid, rootSid, agentSessionId, delegationEdgeId }: Anchors): boolean {
    const now = Date.now()
    const has = (kind: AnchorKind, id: string | undefined) =>
      id !== undefined && id !== '' && this.#revoked.has(kind, id, now)
    return (
      has('session', sid) ||
      (rootSid !== sid && has('session', rootSid)) ||
      has('agent_session', agentSessionId) ||
      has('delegation_edge', delegationEdgeId)
    )
  }

  onRevoked(listener: (revocation: Revocation) => void): void {
    this.#listeners.push(listener)
  }

  reload(): Promise<number> {
    this.#reloading ??= this.#reload().finally(() => {
      this.#reloading = undefined
    })
    return this.#reloading
  }

  async start(): Promise<void> {
    await this.#readFromTheBeginning()
    this.#sweeper = setInterval(() => this.#sweep(), SWEEP_INTERVAL).unref()
    void this.#follow()
  }

  stop(): void {
    this.#stopped.abort()
    clearInterval(this.#sweeper)
  }

  async #reload(): Promise<number> {
    try {
      // The live read goes on meanwhile, and applying twice changes nothing: no message can be lost.
      await this.#readHistory('reread')
      this.#options.onReload?.()
      return this.size
    } catch (error) {
      this.#options.onReloadError?.()
      throw error
    }
  }

  // Sets the live read's position as well: at start, and when Redis lost what had been read.
  async #readFromTheBeginning(): Promise<void> {
    this.#seen = undefined
    this.#position = `${Math.max(0, Date.now() - DAY)}-0`
    const last = await this.#readHistory('history')
    if (last === undefined) return
    this.#seen = last
    this.#position = last
  }

  async #readHistory(source: Source): Promise<string | undefined> {
    let last: string | undefined
    let start = `${Math.max(0, Date.now() - DAY)}`
    for (;;) {
      const entries = await this.#store.range(REVOCATION_STREAM, start, PAGE)
      for (const entry of entries) this.#apply(entry, source)
      last = entries.at(-1)?.id ?? last
      if (entries.length < PAGE || last === undefined) break
      start = `(${last}`
    }
    this.#lastRead = performance.now()
    await this.#bury()
    return last
  }

  async #follow(): Promise<void> {
    let failures = 0
    while (!this.#stopped.signal.aborted) {
      try {
        // Looked at once before waiting again: a read that blocks would notice 2 s later what was lost, and that
        // the state is fresh again.
        if (failures > 0) await this.#recoverLostStream()
        const block = failures > 0 ? 1 : BLOCK
        const entries = await this.#store.tail(REVOCATION_STREAM, this.#position, PAGE, block)
        for (const entry of entries) this.#apply(entry, 'live')
        const last = entries.at(-1)?.id
        if (last !== undefined) {
          this.#position = last
          this.#seen = last
        } else {
          await this.#recoverLostStream()
        }
        this.#lastRead = performance.now()
        if (failures > 0) this.#log.info({ failures }, 'revocations are read again')
        failures = 0
        await this.#bury()
      } catch (error) {
        if (this.#stopped.signal.aborted) return
        failures += 1
        if (failures === 1) this.#log.warn(reason(error), 'revocations cannot be read')
        await this.#pause(Math.min(500, 25 * 2 ** Math.min(failures, 5)))
      }
    }
  }

  // A Redis that came back empty, or fell back to a replica, numbers new entries from where it stands: they
  // may lie before the position, where the live read would never see them.
  async #recoverLostStream(): Promise<void> {
    if (this.#seen === undefined) return
    const last = await this.#store.lastId(REVOCATION_STREAM)
    if (last !== undefined && compareStreamIds(last, this.#seen) >= 0) return
    this.#log.warn(
      { seen: this.#seen, last },
      'the revocation stream lost entries, reading it again',
    )
    // The dead letters may be gone as well, or numbered from where they stood.
    this.#buriedUpTo = '0-0'
    await this.#readFromTheBeginning()
  }

  #apply(entry: StreamEntry, source: Source): void {
    const { id, fields } = entry
    // A reread moves no counter: the live read has counted the message, or will.
    const first = source !== 'reread'
    if (first) this.#options.onMessage?.()
    if (this.#keys.length > 0 && !verifyStreamEntry(this.#keys, REVOCATION_STREAM, fields)) {
      if (first) {
        this.#options.onInvalidSignature?.()
        this.#log.warn({ id }, 'revocation message dropped: its signature is missing or wrong')
      }
      return
    }
    const end = streamIdTime(id) + DAY
    const named: readonly (readonly [AnchorKind, string | undefined])[] = [
      ['session', fields['session_id']],
      ['agent_session', fields['agent_session_id']],
      ['delegation_edge', fields['delegation_edge_id']],
      ['delegation_edge', fields['edge_id']],
    ]
    let poison = true
    for (const [kind, value] of named) {
      if (value === undefined || value === '') continue
      poison = false
      if (end > Date.now()) this.#revoke(kind, value, end, streamIdTime(id))
    }
    if (poison) {
      if (first) this.#options.onDeadLetter?.()
      if (!this.#buried.has(id)) this.#dead.set(id, entry)
    } else if (source === 'live') {
      this.#options.onPropagation?.(Math.max(0, Date.now() - streamIdTime(id)) / 1000)
    }
  }

  #revoke(kind: AnchorKind, id: string, end: number, revokedAt: number): void {
    const known = this.#revoked.has(kind, id, Date.now())
    this.#revoked.add(kind, id, end)
    if (!known) for (const listener of this.#listeners) listener({ kind, id, revokedAt })
  }

  // Writes poison to the dead letters once; what fails is tried again after the next read.
  async #bury(): Promise<void> {
    if (this.#dead.size === 0) return
    try {
      await this.#readBuried()
      for (const [id, { fields }] of this.#dead) {
        if (!this.#buried.has(id)) {
          const letter: Record<string, string> = {
            original_id: id,
            error: DEAD_LETTER_ERROR,
            values: JSON.stringify(fields),
          }
          const key = this.#keys[0]
          if (key) letter['_sig'] = signStreamEntry(key, DEAD_LETTER_STREAM, letter)
          const [error] = await this.#store.append(DEAD_LETTER_STREAM, [letter])
          if (error) throw error
          this.#log.warn(
            { id },
            'revocation message names nothing to revoke, kept as a dead letter',
          )
          this.#buried.add(id)
        }
        this.#dead.delete(id)
      }
    } catch (error) {
      this.#log.error(reason(error), 'dead letters cannot be written')
    }
  }

  async #readBuried(): Promise<void> {
    for (;;) {
      const letters = await this.#store.range(DEAD_LETTER_STREAM, `(${this.#buriedUpTo}`, PAGE)
      for (const { id, fields } of letters) {
        this.#buriedUpTo = id
        const original = fields['original_id']
        if (original !== undefined && !this.#isOver(original)) this.#buried.add(original)
      }
      if (letters.length < PAGE) return
    }
  }

  #sweep(): void {
    this.#revoked.sweep(Date.now())
    for (const id of this.#buried) if (this.#isOver(id)) this.#buried.delete(id)
  }

  // Whether the entry is so old that no read brings it back; an hour more for clocks that differ.
  #isOver(id: string): boolean {
    const time = /^(\d+)-/.exec(id)?.[1]
    return time === undefined || Number(time) + DAY + DAY / 24 <= Date.now()
  }

  #pause(milliseconds: number): Promise<void> {
    return new Promise(resolve => {
      const { signal } = this.#stopped
      const done = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', done)
        resolve()
      }
      const timer = setTimeout(done, milliseconds).unref()
      signal.addEventListener('abort', done)
    })
  }
}

// What went wrong in one line; a stack would say nothing more.
function reason(error: unknown) {
  return { message: error instanceof Error ? error.message : 'unknown error' }
}
