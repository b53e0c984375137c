// A store inside the process, for `dev` without Redis: one gateway alone, and gone with it.
import { compareStreamIds } from '../lib/stream-id.ts'
import type { Store, StreamEntry } from '../plugins/store.ts'

/** Bounds of the in-process store. */
export interface MemoryStoreOptions {
  /** Claims held at once; further ones are rejected, for a forgotten claim would admit a replay. */
  readonly maxClaims?: number
  /** Entries a stream keeps; the oldest go. */
  readonly maxEntries?: number
  /** Unix milliseconds. */
  readonly now?: () => number
}

const SWEEP_INTERVAL = 30_000

/** A {@link Store} without a server. It forgets everything with the process. */
export function createMemoryStore(options: MemoryStoreOptions = {}): Store {
  const { maxClaims = 100_000, maxEntries = 5_000, now = Date.now } = options
  const claims = new Map<string, { readonly end: number; readonly value: string }>()
  const streams = new Map<string, StreamEntry[]>()
  const added = new Map<string, number>()
  const waiting = new Set<() => void>()
  let closed = false

  const sweep = () => {
    const time = now()
    for (const [key, { end }] of claims) if (end <= time) claims.delete(key)
  }
  const sweeper = setInterval(sweep, SWEEP_INTERVAL).unref()

  const nextId = (entries: readonly StreamEntry[]) => {
    const id = `${now()}-0`
    const last = entries.at(-1)?.id
    if (last === undefined || compareStreamIds(id, last) > 0) return id
    // Two in one millisecond, or the clock went back: ids only ever grow.
    const [time, sequence] = last.split('-')
    return `${time}-${Number(sequence) + 1}`
  }
  const after = (stream: string, id: string, count: number) =>
    (streams.get(stream) ?? []).filter(entry => compareStreamIds(entry.id, id) > 0).slice(0, count)
  const refuseClosed = () => {
    if (closed) throw new Error('the in-process store is closed')
  }

  return {
    async ping() {
      refuseClosed()
    },
    async claim(key, value, milliseconds) {
      refuseClosed()
      const time = now()
      const end = claims.get(key)?.end
      if (end !== undefined && end > time) return false
      if (claims.size >= maxClaims) sweep()
      if (claims.size >= maxClaims) throw new Error('the in-process store is full')
      claims.set(key, { end: time + milliseconds, value })
      return true
    },
    async claimed(key) {
      refuseClosed()
      const claim = claims.get(key)
      return claim !== undefined && claim.end > now() ? claim.value : undefined
    },
    async append(stream, batch) {
      if (closed) return batch.map(() => new Error('the in-process store is closed'))
      const entries = streams.get(stream) ?? []
      streams.set(stream, entries)
      for (const fields of batch) entries.push({ id: nextId(entries), fields: { ...fields } })
      added.set(stream, (added.get(stream) ?? 0) + batch.length)
      if (entries.length > maxEntries) entries.splice(0, entries.length - maxEntries)
      for (const wake of waiting) wake()
      return batch.map(() => undefined)
    },
    async range(stream, start, count) {
      refuseClosed()
      if (start.startsWith('(')) return after(stream, complete(start.slice(1)), count)
      const from = complete(start)
      return (streams.get(stream) ?? [])
        .filter(entry => compareStreamIds(entry.id, from) >= 0)
        .slice(0, count)
    },
    async info(stream) {
      refuseClosed()
      const entries = streams.get(stream)
      if (entries === undefined) return undefined
      const lastId = entries.at(-1)?.id
      return {
        length: entries.length,
        firstId: entries[0]?.id,
        lastId,
        lastGeneratedId: lastId ?? '0-0',
        entriesAdded: added.get(stream) ?? 0,
      }
    },
    async tail(stream, id, count, block) {
      refuseClosed()
      const deadline = now() + block
      for (;;) {
        const entries = after(stream, id, count)
        const left = deadline - now()
        if (entries.length > 0 || left <= 0 || closed) return entries
        await new Promise<void>(resolve => {
          const wake = () => {
            clearTimeout(timer)
            waiting.delete(wake)
            resolve()
          }
          const timer = setTimeout(wake, left).unref()
          waiting.add(wake)
        })
      }
    },
    close() {
      closed = true
      clearInterval(sweeper)
      for (const wake of waiting) wake()
    },
  }
}

// As in Redis: a start without a sequence is the first of its millisecond, `-` the first of all.
function complete(id: string): string {
  if (id === '-') return '0-0'
  return id.includes('-') ? id : `${id}-0`
}
