// Denies whatever was revoked, until its time is over, in a small and bounded room for each revocation.
import { hash } from 'node:crypto'

/** What an id names (contract section 6): an authority record, a governed session, a delegation. */
export type AnchorKind = 'session' | 'agent_session' | 'delegation_edge'

const SHARDS = 256
// Four words of a digest, and the end.
const WORDS = 5
const END = 4
const SMALLEST = 16
// An end that no clock reaches.
const NEVER = 0xffff_ffff

/**
 * A set of revoked anchors, each with its own end.
 *
 * An entry is the first 128 bits of a SHA-256, an end in seconds and a mark: 21 bytes a slot. A table is between three
 * eighths and three quarters full, which makes 28 to 56 bytes an entry; a `Map` of strings takes three times that. There
 * are 256 tables, so that none takes longer than a fraction of a millisecond to grow, and so that growing one needs no
 * second copy of them all. Two ids that share 128 bits would deny a mandate, never admit one.
 *
 * Between {@link RevocationSet.beginSnapshot} and the end of {@link RevocationSet.endSnapshot} whatever is added is
 * marked, and what is not marked then is forgotten: a snapshot replaces what was known, save what came meanwhile.
 */
export class RevocationSet {
  readonly #shards: (Shard | undefined)[] = Array.from({ length: SHARDS }, () => undefined)
  readonly #key = new Uint32Array(END)
  #size = 0
  #mark = 0

  /** How many anchors are held, those that are over but not yet swept included. */
  get size(): number {
    return this.#size
  }

  /**
   * Revokes an anchor until `expiresAt`, rounded up to a second; `Infinity` never ends. A later end replaces an earlier
   * one, never the other way round. All times are Unix milliseconds.
   *
   * @returns whether the anchor was not revoked at `now`, and is from now on
   */
  add(kind: AnchorKind, id: string, expiresAt: number, now: number): boolean {
    const end = Math.min(NEVER, Math.ceil(expiresAt / 1000))
    if (!(end >= 1) || isOver(end, now)) return false
    this.#digest(kind, id)
    const at = this.#shardOfKey()
    this.#shards[at] ??= new Shard(SMALLEST)
    let shard = this.#shards[at]
    let slot = shard.find(this.#key)
    const known = shard.end(slot)
    if (known === 0) {
      if ((shard.size + 1) * 4 > shard.capacity * 3) {
        shard = shard.moved(Math.ceil(shard.capacity * 1.5))
        this.#shards[at] = shard
        slot = shard.find(this.#key)
      }
      this.#size += 1
    }
    shard.put(slot, this.#key, Math.max(known, end), this.#mark)
    return isOver(known, now)
  }

  /** Whether the anchor is revoked at `now` (Unix milliseconds). */
  has(kind: AnchorKind, id: string, now: number): boolean {
    if (this.#size === 0) return false
    this.#digest(kind, id)
    const shard = this.#shards[this.#shardOfKey()]
    return shard !== undefined && !isOver(shard.end(shard.find(this.#key)), now)
  }

  /** Marks from now on what is added. What an earlier snapshot that was never ended has marked counts for nothing. */
  beginSnapshot(): void {
    for (const shard of this.#shards) shard?.unmark()
    this.#mark = 1
  }

  /**
   * Forgets what was not marked, a table a step, so that others have their turn between two steps. The snapshot ends
   * with the last one: what is added until then stays.
   */
  *endSnapshot(): Generator<void, void, void> {
    yield* this.#keep(shard => slot => shard.isMarked(slot))
    this.#mark = 0
  }

  /** Gives a snapshot up: whatever is known stays. */
  abortSnapshot(): void {
    this.#mark = 0
  }

  /** Forgets what is over at `now` (Unix milliseconds), a table a step. */
  sweep(now: number): Generator<void, void, void> {
    return this.#keep(shard => slot => !isOver(shard.end(slot), now))
  }

  *#keep(choose: (shard: Shard) => (slot: number) => boolean): Generator<void, void, void> {
    for (let at = 0; at < SHARDS; at += 1) {
      const shard = this.#shards[at]
      if (shard === undefined) continue
      const before = shard.size
      const left = shard.kept(choose(shard))
      this.#size -= before - left.size
      this.#shards[at] = left.size === 0 ? undefined : left
      yield
    }
  }

  // The pair as JSON: joined strings would let one kind's id spell another's. Read from a string: four times as fast as
  // from a buffer of its own.
  #digest(kind: AnchorKind, id: string): void {
    const bytes = hash('sha256', JSON.stringify([kind, id]), 'binary')
    for (let word = 0; word < END; word += 1) {
      const at = word * 4
      this.#key[word] =
        bytes.charCodeAt(at) |
        (bytes.charCodeAt(at + 1) << 8) |
        (bytes.charCodeAt(at + 2) << 16) |
        (bytes.charCodeAt(at + 3) << 24)
    }
  }

  #shardOfKey(): number {
    return (this.#key[3] ?? 0) % SHARDS
  }
}

// Linear probing: a table that is never more than three quarters full always has a free slot.
class Shard {
  readonly capacity: number
  readonly #words: Uint32Array<ArrayBuffer>
  readonly #marks: Uint8Array<ArrayBuffer>
  #size = 0

  constructor(capacity: number) {
    this.capacity = capacity
    this.#words = new Uint32Array(capacity * WORDS)
    this.#marks = new Uint8Array(capacity)
  }

  get size(): number {
    return this.#size
  }

  // The slot that holds the key, else the free slot where it belongs.
  find(key: Uint32Array): number {
    const words = this.#words
    const [a = 0, b = 0, c = 0, d = 0] = [key[0], key[1], key[2], key[3]]
    let slot = Math.floor((a / 0x1_0000_0000) * this.capacity)
    for (;;) {
      const at = slot * WORDS
      if (words[at + END] === 0) return slot
      if (words[at] === a && words[at + 1] === b && words[at + 2] === c && words[at + 3] === d) {
        return slot
      }
      slot = slot + 1 === this.capacity ? 0 : slot + 1
    }
  }

  // Unix seconds; 0 is a free slot.
  end(slot: number): number {
    return this.#words[slot * WORDS + END] ?? 0
  }

  isMarked(slot: number): boolean {
    return this.#marks[slot] === 1
  }

  put(slot: number, key: Uint32Array, end: number, mark: number): void {
    if (this.end(slot) === 0) this.#size += 1
    this.#words.set(key, slot * WORDS)
    this.#words[slot * WORDS + END] = end
    if (mark === 1) this.#marks[slot] = 1
  }

  unmark(): void {
    this.#marks.fill(0)
  }

  // This table without what is not to be kept, in less room where that leaves too much of it.
  kept(keep: (slot: number) => boolean): Shard {
    let left = 0
    for (let slot = 0; slot < this.capacity; slot += 1) {
      if (this.end(slot) !== 0 && keep(slot)) left += 1
    }
    if (left === this.#size) return this
    let { capacity } = this
    while (capacity > SMALLEST && left * 8 < capacity * 3) {
      capacity = Math.max(SMALLEST, Math.floor(capacity / 1.5))
    }
    return this.moved(capacity, keep)
  }

  moved(capacity: number, keep: (slot: number) => boolean = () => true): Shard {
    const other = new Shard(capacity)
    for (let slot = 0; slot < this.capacity; slot += 1) {
      const end = this.end(slot)
      if (end === 0 || !keep(slot)) continue
      const key = this.#words.subarray(slot * WORDS, slot * WORDS + END)
      other.put(other.find(key), key, end, this.#marks[slot] ?? 0)
    }
    // Frees the room now. A collection may be far off, and the room of all tables is not to be held twice.
    this.#words.buffer.transfer(0)
    this.#marks.buffer.transfer(0)
    return other
  }
}

function isOver(end: number, now: number): boolean {
  return end !== NEVER && end * 1000 <= now
}
