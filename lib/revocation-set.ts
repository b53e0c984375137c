// Denies whatever was revoked, until its time is over, in a fixed and small room for each revocation.
import { hash } from 'node:crypto'

/** What an id names (contract section 6): an authority record, a governed session, a delegation. */
export type AnchorKind = 'session' | 'agent_session' | 'delegation_edge'

const WORDS = 4
const SMALLEST = 64

/**
 * A set of revoked anchors, each with its own end.
 *
 * An entry is the first 128 bits of a SHA-256 and an end in seconds, 20 bytes in an open-addressed
 * table that doubles when it is two thirds full: 30 to 60 bytes however long the id is. A `Map` of
 * strings takes two to three times that. Two ids that share 128 bits would deny a mandate, never admit one.
 */
export class RevocationSet {
  #capacity = SMALLEST
  #keys = new Uint32Array(SMALLEST * WORDS)
  // Unix seconds; 0 is a free slot.
  #ends = new Uint32Array(SMALLEST)
  #size = 0

  /** How many anchors are held, those that are over but not yet swept included. */
  get size(): number {
    return this.#size
  }

  /**
   * Revokes an anchor until `expiresAt` (Unix milliseconds, rounded up to a second). A later end
   * replaces an earlier one, never the other way round.
   */
  add(kind: AnchorKind, id: string, expiresAt: number): void {
    const end = Math.min(0xffff_ffff, Math.ceil(expiresAt / 1000))
    if (!(end >= 1)) return
    if ((this.#size + 1) * 3 > this.#capacity * 2) this.#resize(this.#capacity * 2)
    const key = digest(kind, id)
    const slot = this.#find(key)
    if (this.#ends[slot] === 0) {
      this.#keys.set(key, slot * WORDS)
      this.#size += 1
    }
    this.#ends[slot] = Math.max(this.#ends[slot] ?? 0, end)
  }

  /** Whether the anchor is revoked at `now` (Unix milliseconds). */
  has(kind: AnchorKind, id: string, now: number): boolean {
    if (this.#size === 0) return false
    const end = this.#ends[this.#find(digest(kind, id))] ?? 0
    return end * 1000 > now
  }

  /** Forgets what is over at `now` (Unix milliseconds); returns how many anchors that were. */
  sweep(now: number): number {
    const before = this.#size
    for (let slot = 0; slot < this.#capacity; slot += 1) {
      // The slot is looked at again: a later entry may have moved into it.
      while (this.#ends[slot] !== 0 && (this.#ends[slot] ?? 0) * 1000 <= now) this.#remove(slot)
    }
    if (this.#capacity > SMALLEST && this.#size * 4 < this.#capacity) {
      let capacity = SMALLEST
      while ((this.#size + 1) * 2 > capacity) capacity *= 2
      this.#resize(capacity)
    }
    return before - this.#size
  }

  // The slot that holds the key, else the free slot where it belongs. Linear probing: a table that is
  // never more than two thirds full always has one.
  #find(key: Uint32Array): number {
    const mask = this.#capacity - 1
    let slot = (key[0] ?? 0) & mask
    while (this.#ends[slot] !== 0 && !this.#holds(slot, key)) slot = (slot + 1) & mask
    return slot
  }

  #holds(slot: number, key: Uint32Array): boolean {
    const at = slot * WORDS
    return (
      this.#keys[at] === key[0] &&
      this.#keys[at + 1] === key[1] &&
      this.#keys[at + 2] === key[2] &&
      this.#keys[at + 3] === key[3]
    )
  }

  // Closes the gap by moving later entries of the same run forward, so that no tombstones pile up.
  #remove(slot: number): void {
    const mask = this.#capacity - 1
    let gap = slot
    let next = slot
    for (;;) {
      next = (next + 1) & mask
      if (this.#ends[next] === 0) break
      const home = (this.#keys[next * WORDS] ?? 0) & mask
      // Stays when its home lies between the gap (exclusive) and where it is, going round the table.
      if (((next - home) & mask) < ((next - gap) & mask)) continue
      this.#keys.copyWithin(gap * WORDS, next * WORDS, (next + 1) * WORDS)
      this.#ends[gap] = this.#ends[next] ?? 0
      gap = next
    }
    this.#ends[gap] = 0
    this.#size -= 1
  }

  #resize(capacity: number): void {
    const keys = this.#keys
    const ends = this.#ends
    this.#capacity = capacity
    this.#keys = new Uint32Array(capacity * WORDS)
    this.#ends = new Uint32Array(capacity)
    for (let from = 0; from < ends.length; from += 1) {
      const end = ends[from] ?? 0
      if (end === 0) continue
      const key = keys.subarray(from * WORDS, (from + 1) * WORDS)
      const slot = this.#find(key)
      this.#keys.set(key, slot * WORDS)
      this.#ends[slot] = end
    }
  }
}

// The pair as JSON: joined strings would let one kind's id spell another's.
function digest(kind: AnchorKind, id: string): Uint32Array {
  const bytes = hash('sha256', JSON.stringify([kind, id]), 'buffer')
  const key = new Uint32Array(WORDS)
  for (let word = 0; word < WORDS; word += 1) key[word] = bytes.readUInt32LE(word * 4)
  return key
}
