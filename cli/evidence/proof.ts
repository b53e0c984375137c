// Judges audit events one by one as they are read, remembering of each a digest alone.

import { createHmac, type KeyObject } from 'node:crypto'
import { DigestTable } from '../../lib/digest-table.ts'
import { type FormedEvent, formedEvent } from '../../lib/event-form.ts'
import type { StreamEntry } from '../../lib/redis-reply.ts'
import type { Findings } from './findings.ts'

/** Where an event was seen: in the stream, in a journal, in a journal or replay file that Redis has yet to take it from. */
export const SEEN = { stream: 1, journal: 2, waiting: 4 } as const

/** What is known of all events so far. */
export class Proof {
  entries = 0
  resends = 0
  unsigned = 0
  readonly #key: KeyObject | undefined
  readonly #events = new DigestTable()
  readonly #requests = new DigestTable()

  /** @param key of `AUDIT_HMAC_KEY`; without one, which only `dev` allows, events are unsigned */
  constructor(key: KeyObject | undefined) {
    this.#key = key
  }

  /** Takes note of an entry of the stream. */
  entry({ id: where, fields }: StreamEntry, findings: Findings): void {
    this.entries += 1
    const { id, data, sig, ...rest } = fields
    if (id === undefined || data === undefined || Object.keys(rest).length > 0) {
      return findings.add(
        'malformed',
        where,
        'the entry has other fields than id, data and sig',
        id,
      )
    }
    this.#checkSignature(where, id, data, sig, findings)
    const known = this.event({ id, data }, SEEN.stream, where, findings)
    if (known !== undefined && (known & SEEN.stream) !== 0) this.resends += 1
  }

  /** Takes note of an event. @returns where it had been seen before, unless it is malformed or another under its id */
  event(
    { id, data }: { readonly id: string; readonly data: string },
    place: (typeof SEEN)[keyof typeof SEEN],
    where: string,
    findings: Findings,
  ): number | undefined {
    const event = formedEvent(data)
    if (typeof event === 'string') findings.add('malformed', where, `the event ${event}`, id)
    else if (event.id !== id) findings.add('malformed', where, 'the event has another id', id)
    const { marks, same } = this.#events.add(id, data, place)
    if (!same) findings.add('id_reused', where, 'the id came before, with other content', id)
    if (typeof event === 'string' || !same) return undefined
    this.#checkRequest(event, id, where, findings)
    return marks
  }

  /** Where the event of an id was seen: bits of {@link SEEN}. */
  seen(id: string): number {
    return this.#events.marks(id)
  }

  /** Events of the stream, resends aside. */
  get events(): number {
    return this.#events.count(marks => (marks & SEEN.stream) !== 0)
  }

  /** Events that Redis has yet to take. */
  get waiting(): number {
    return this.#events.count(marks => (marks & SEEN.waiting) !== 0 && (marks & SEEN.stream) === 0)
  }

  #checkSignature(
    where: string,
    id: string,
    data: string,
    signature: string | undefined,
    findings: Findings,
  ): void {
    if (signature === undefined) this.unsigned += 1
    if (this.#key === undefined) {
      if (signature === undefined) return
      return findings.add('signature', where, 'AUDIT_HMAC_KEY is not set: cannot be checked', id)
    }
    if (signature === undefined) return findings.add('signature', where, 'there is none', id)
    if (signature !== createHmac('sha256', this.#key).update(data).digest('hex')) {
      findings.add('signature', where, 'does not match the data', id)
    }
  }

  /**
   * A mandate passes the exchange once. Its request id alone tells nothing: callers may name two requests alike, and do
   * when they try again.
   */
  #checkRequest(event: FormedEvent, id: string, where: string, findings: Findings): void {
    if (event.event_type !== 'gateway_resource_request') return
    const mandate = event.metadata_json?.['subject_fingerprint']
    const request = JSON.stringify([event.zone_id, event.request_id, mandate])
    if (this.#requests.add(request, id, SEEN.stream).same) return
    findings.add('request_twice', where, `request ${event.request_id} has another event`, id)
  }
}
