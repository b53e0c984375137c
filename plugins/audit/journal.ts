/**
 * Guarantees that what was written before a request went out is found again when the process is killed: one append-only
 * journal, in segments that go in the order of their making when nothing in them is needed any more.
 */
import { join } from 'node:path'
import type { WrittenEvent } from '../../lib/audit-event.ts'
import { doneLine, intentLine, outcomeLine } from '../../lib/journal.ts'
import { syncDirectory } from './files.ts'
import { Segment } from './segment.ts'

/** How segments of a journal are called; their numbers are their order. */
export const SEGMENT = /^(\d+)\.journal$/

const SEGMENT_BYTES = 4 * 1024 * 1024
/** Bytes above which open intents are copied forward, so that a stream that lasts for days does not hold all since. */
const COMPACT_BYTES = 16 * 1024 * 1024
const BUFFER_BYTES = 64 * 1024

/** An event that the journal has to keep a line of; what it holds is the journal's own business. */
export interface JournalItem {
  readonly journal: Journal
  readonly id: string
  /** Of an intent, which may have to be written again. An outcome leaves by itself, to Redis or to a replay file. */
  readonly line: string | undefined
  readonly bytes: number
  segment: Segment<JournalItem>
}

/** The journal of one process, in a directory of its own. Whatever cannot be written throws. */
export class Journal {
  readonly #directory: string
  #segments: Segment<JournalItem>[] = []
  #made = 0
  #written = 0
  // How much of that must survive the machine before a segment is removed for its sake, and does.
  #durable: number
  #bytes = 0
  #neededBytes = 0
  #size = 0
  #done: string[] = []
  #buffer: Buffer = Buffer.allocUnsafe(BUFFER_BYTES)
  #syncing: Promise<void> | undefined
  #nextSync: Promise<void> | undefined
  #newName = false

  /** @param synced whether lines are to survive the machine, and not the process alone */
  constructor(directory: string, synced: boolean) {
    this.#directory = directory
    this.#durable = synced ? 0 : Infinity
  }

  /** Events that it has to keep. */
  get size(): number {
    return this.#size
  }

  /** Bytes of all segments. */
  get bytes(): number {
    return this.#bytes
  }

  /** Writes the intent of a request. @throws Error when it cannot be written; nothing of it remains then */
  intend(event: WrittenEvent): JournalItem {
    const line = intentLine(event)
    const { segment, bytes } = this.#append(line)
    return this.#keep({ journal: this, id: event.id, line, bytes, segment })
  }

  /**
   * Writes outcomes before they are sent, in one write; `intent` is that of an event that has one.
   *
   * @throws Error when they cannot be written; nothing of them remains then
   */
  settle(
    outcomes: readonly { readonly event: WrittenEvent; readonly intent: JournalItem | undefined }[],
  ): JournalItem[] {
    if (outcomes.length === 0) return []
    const lines = outcomes.map(({ event }) => outcomeLine(event))
    const { segment } = this.#append(lines.join(''))
    return outcomes.map(({ event, intent }, index) => {
      const bytes = Buffer.byteLength(lines[index] ?? '')
      const item = { journal: this, id: event.id, line: undefined, bytes, segment }
      this.#keep(item)
      if (intent !== undefined) this.#drop(intent)
      return item
    })
  }

  /** Nothing is due for these any more; it is written with the next line, or by {@link Journal.flush}. */
  done(items: Iterable<JournalItem>): void {
    for (const item of items) {
      if (this.#drop(item)) this.#done.push(item.id)
    }
    this.#prune()
  }

  /** Writes what {@link Journal.done} has left to write. @throws Error when it cannot be written */
  flush(): void {
    if (this.#done.length > 0) this.#append('')
  }

  /** Resolves when all that is written now survives the machine. Calls at the same time share one `fdatasync`. */
  synced(): Promise<void> {
    this.#nextSync ??= this.#sync(this.#syncing)
    return this.#nextSync
  }

  /** Lets go of the files and leaves them where they are. */
  close(): void {
    for (const segment of this.#segments) segment.close()
    this.#segments = []
  }

  async #sync(before: Promise<void> | undefined): Promise<void> {
    // Whatever is written while a sync is under way waits for the next one, all for the same.
    await before?.catch(() => undefined)
    this.#syncing = this.#nextSync
    this.#nextSync = undefined
    const written = this.#written
    if (this.#newName) await this.#syncNames()
    for (const segment of this.#segments.filter(({ dirty }) => dirty)) await segment.sync()
    this.#durable = Math.max(this.#durable, written)
    this.#prune()
  }

  async #syncNames(): Promise<void> {
    this.#newName = false
    try {
      await syncDirectory(this.#directory)
    } catch (error) {
      this.#newName = true
      throw error
    }
  }

  #append(lines: string): { segment: Segment<JournalItem>; bytes: number } {
    const segment = this.#writable()
    const bytes = this.#write(segment, this.#done.length > 0 ? doneLine(this.#done) + lines : lines)
    this.#done = []
    return { segment, bytes }
  }

  #write(segment: Segment<JournalItem>, text: string): number {
    const bytes = this.#encode(text)
    segment.write(bytes)
    this.#bytes += bytes.length
    this.#written += bytes.length
    return bytes.length
  }

  /** The text's bytes, valid until the next call. */
  #encode(text: string): Buffer {
    // Three bytes are the most that a UTF-16 unit takes.
    if (text.length * 3 > this.#buffer.length) return Buffer.from(text)
    return this.#buffer.subarray(0, this.#buffer.write(text))
  }

  #writable(): Segment<JournalItem> {
    const current = this.#segments.at(-1)
    if (current !== undefined && !current.full && current.bytes < SEGMENT_BYTES) return current
    const segment = this.#open()
    this.#compact(segment)
    this.#prune()
    return segment
  }

  #open(): Segment<JournalItem> {
    const path = join(this.#directory, `${this.#made + 1}.journal`)
    const segment = new Segment<JournalItem>(path, this.#written)
    this.#made += 1
    this.#segments.push(segment)
    this.#newName = true
    return segment
  }

  /** Copies what the oldest segments hold of open requests into the newest, as long as that is worth it. */
  #compact(newest: Segment<JournalItem>): void {
    let spare = this.#bytes - Math.max(COMPACT_BYTES, 2 * this.#neededBytes)
    for (const oldest of this.#segments) {
      const lines = [...oldest.items].map(({ line }) => line)
      if (spare <= 0 || oldest === newest || lines.includes(undefined)) break
      spare -= oldest.bytes
      if (lines.length === 0) continue
      this.#write(newest, lines.join(''))
      for (const item of oldest.items) {
        item.segment = newest
        newest.items.add(item)
      }
      oldest.items.clear()
      oldest.emptiedAt = this.#written
    }
  }

  /**
   * Removes what is not needed any more, oldest first: an outcome that went before its intent would make the next start
   * say that the request was interrupted.
   */
  #prune(): void {
    while (this.#segments.length > 1) {
      const [oldest] = this.#segments
      if (oldest === undefined || oldest.items.size > 0 || oldest.emptiedAt > this.#durable) return
      try {
        oldest.remove()
      } catch {
        return
      }
      this.#segments.shift()
      this.#bytes -= oldest.bytes
    }
  }

  #keep(item: JournalItem): JournalItem {
    item.segment.items.add(item)
    this.#neededBytes += item.bytes
    this.#size += 1
    return item
  }

  #drop(item: JournalItem): boolean {
    const { segment, bytes } = item
    if (!segment.items.delete(item)) return false
    segment.emptiedAt = this.#written
    this.#neededBytes -= bytes
    this.#size -= 1
    return true
  }
}
