// Reads a range of the audit stream, page by page, and goes on from where it was.

import type { StreamInfo } from '../../lib/redis-reply.ts'
import { compareStreamIds, streamIdTime } from '../../lib/stream-id.ts'
import { AUDIT_STREAM } from '../../plugins/audit/sink.ts'
import type { Store } from '../../plugins/store.ts'
import { Findings } from './findings.ts'
import type { Proof } from './proof.ts'

/** Entries that are asked for at a time: each may have a mebibyte. */
const PAGE = 200

/** A range of the stream, both ends included. */
export interface Range {
  readonly since: string
  /** Undefined: what is there when it is read. */
  readonly until: string | undefined
}

/** The range, as far as it was read. */
export class StreamReader {
  readonly findings = new Findings()
  readonly #store: Store
  readonly #range: Range
  readonly #proof: Proof
  #next: string
  #info: StreamInfo | undefined

  constructor(store: Store, range: Range, proof: Proof) {
    this.#store = store
    this.#range = range
    this.#proof = proof
    this.#next = range.since
  }

  /** Reads what is new. @throws Error when Redis does not answer */
  async read(): Promise<void> {
    this.#info = await this.#store.info(AUDIT_STREAM)
    // Not for ever: a stream that is written to has no end.
    const end = this.#range.until ?? this.#info?.lastGeneratedId
    if (end === undefined) return
    for (;;) {
      const page = await this.#store.range(AUDIT_STREAM, this.#next, PAGE)
      for (const entry of page) {
        if (compareStreamIds(entry.id, end) > 0) return
        this.#proof.entry(entry, this.findings)
        this.#next = `(${entry.id}`
      }
      if (page.length < PAGE) return
    }
  }

  /** The time, Unix milliseconds by the clock of Redis, from which on the stream holds whatever was added to it. */
  get wholeSince(): number {
    const begin = streamIdTime(this.#range.since)
    const { firstId, lastGeneratedId, length = 0, entriesAdded } = this.#info ?? {}
    if (lastGeneratedId === undefined || length === entriesAdded) return begin
    // Its oldest entries were removed; before Redis 7 they may have been.
    return Math.max(begin, streamIdTime(firstId ?? lastGeneratedId))
  }
}
