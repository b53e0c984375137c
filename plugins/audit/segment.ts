/**
 * One file of a journal: only ever added to, and never left with half a line.
 */
import { closeSync, fdatasync, ftruncateSync, openSync, unlinkSync, writeSync } from 'node:fs'
import { promisify } from 'node:util'

const sync = promisify(fdatasync)

/** A file of a journal; `Item` is what the journal keeps lines of. */
export class Segment<Item> {
  /** What needs a line of this file. */
  readonly items = new Set<Item>()
  /** What had been written to the whole journal when the last item left, in bytes. */
  emptiedAt: number
  readonly #path: string
  readonly #file: number
  #bytes = 0
  #dirty = false
  #full = false
  #syncing = false
  #closed = false

  /** Makes the file, mode 0600. @throws Error when it cannot be made */
  constructor(path: string, written: number) {
    this.#path = path
    this.#file = openSync(path, 'ax', 0o600)
    this.emptiedAt = written
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Whether something was written since the last sync began. */
  get dirty(): boolean {
    return this.#dirty
  }

  /** Whether nothing more may be written to it, because a write or a sync has failed. */
  get full(): boolean {
    return this.#full
  }

  /** Adds whole lines. @throws Error when they cannot be written; nothing of them remains then */
  write(lines: Uint8Array): void {
    try {
      for (let at = 0; at < lines.length; ) at += writeSync(this.#file, lines, at)
    } catch (error) {
      this.#mend()
      throw error
    }
    this.#bytes += lines.length
    this.#dirty = true
  }

  /** Makes what was written survive the machine. */
  async sync(): Promise<void> {
    // It has gone while others were synced: nothing in it was needed any more.
    if (this.#closed) return
    this.#dirty = false
    this.#syncing = true
    try {
      await sync(this.#file)
    } catch (error) {
      // What the system could not write it may have forgotten: nothing is added to that.
      this.#full = true
      throw error
    } finally {
      this.#syncing = false
      if (this.#closed) closeSync(this.#file)
    }
  }

  /** Removes the file. @throws Error when that is not possible; the file is as it was then */
  remove(): void {
    unlinkSync(this.#path)
    this.close()
  }

  /** Lets go of the file and leaves it where it is. */
  close(): void {
    this.#closed = true
    // A sync that is under way must not find the number taken by another file.
    if (!this.#syncing) closeSync(this.#file)
  }

  /** Takes back the part of a write that went through. */
  #mend(): void {
    // The next line goes into another file: this one may have come to the end of what it may hold.
    this.#full = true
    try {
      ftruncateSync(this.#file, this.#bytes)
    } catch {
      // Whoever reads the journal sets the half line aside.
    }
  }
}
