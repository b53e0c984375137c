/**
 * Remembers what stood under a name, and where, in 16 bytes a name.
 */
import { hash, randomBytes } from 'node:crypto'

// Two words of the name's digest, two of the content's, whose last bits are the marks.
const WORDS = 4
const MARKS = 3
const MARK_BITS = 0b111
const SMALLEST = 1024

/** What was known of a name before. */
export interface Known {
  /** Marks that the name had; 0: it is new. */
  readonly marks: number
  /** Whether the content is what it was the first time. */
  readonly same: boolean
}

/**
 * Names, digests of their content, and up to three marks each. A table is between three eighths and three quarters full
 * and doubles when it is more, which makes 21 to 43 bytes a name, and once more half of that while it grows. Of ten
 * million names two are taken for one with a probability of one in 300,000.
 */
export class DigestTable {
  // Nobody can choose names that meet.
  readonly #salt = randomBytes(16).toString('hex')
  readonly #digest = new Uint32Array(WORDS)
  #slots = new Uint32Array(SMALLEST * WORDS)
  #size = 0

  /** How many names are remembered. */
  get size(): number {
    return this.#size
  }

  /** Remembers a name; the content of the first time stays. @param mark one bit of 1, 2 and 4 */
  add(name: string, content: string, mark: 1 | 2 | 4): Known {
    this.#digestOf(name, 0)
    this.#digestOf(content, 2)
    let at = this.#find(this.#slots, this.#digest)
    const marks = this.#marks(at)
    if (marks === 0) {
      if ((this.#size + 1) * WORDS * 4 > this.#slots.length * 3) {
        this.#grow()
        at = this.#find(this.#slots, this.#digest)
      }
      this.#size += 1
      this.#slots.set(this.#digest, at)
      this.#mark(at, 0, mark)
      return { marks, same: true }
    }
    const [, , high = 0, low = 0] = this.#digest
    const rest = (this.#slots[at + MARKS] ?? 0) & ~MARK_BITS
    const same = this.#slots[at + 2] === high && rest === (low & ~MARK_BITS)
    this.#mark(at, marks, mark)
    return { marks, same }
  }

  /** The marks of a name; 0: it is not known. */
  marks(name: string): number {
    this.#digestOf(name, 0)
    return this.#marks(this.#find(this.#slots, this.#digest))
  }

  /** How many names have such marks. */
  count(wanted: (marks: number) => boolean): number {
    let count = 0
    for (let at = 0; at < this.#slots.length; at += WORDS) {
      const marks = this.#marks(at)
      if (marks !== 0 && wanted(marks)) count += 1
    }
    return count
  }

  #digestOf(text: string, at: number): void {
    const digest = hash('sha256', this.#salt + text, 'hex')
    this.#digest[at] = Number.parseInt(digest.slice(0, 8), 16)
    this.#digest[at + 1] = Number.parseInt(digest.slice(8, 16), 16)
  }

  #marks(at: number): number {
    return (this.#slots[at + MARKS] ?? 0) & MARK_BITS
  }

  #mark(at: number, marks: number, mark: number): void {
    this.#slots[at + MARKS] = ((this.#slots[at + MARKS] ?? 0) & ~MARK_BITS) | marks | mark
  }

  /** Where a name stands, or has room. */
  #find(slots: Uint32Array, [one = 0, two = 0]: Uint32Array): number {
    const count = slots.length / WORDS
    let at = (one & (count - 1)) * WORDS
    while (((slots[at + MARKS] ?? 0) & MARK_BITS) !== 0) {
      if (slots[at] === one && slots[at + 1] === two) break
      at = (at + WORDS) % slots.length
    }
    return at
  }

  #grow(): void {
    const slots = new Uint32Array(this.#slots.length * 2)
    for (let at = 0; at < this.#slots.length; at += WORDS) {
      if (this.#marks(at) === 0) continue
      const entry = this.#slots.subarray(at, at + WORDS)
      slots.set(entry, this.#find(slots, entry))
    }
    this.#slots = slots
  }
}
