/**
 * The journal's lines: what each says, and which events are due once all of them were read (contract section 8).
 *
 * An intent is `I <id> <event>`, its event being the one that is due if nothing else follows; an outcome is
 * `O <id> <event>`; `D <id> <id> ...` names events that Redis or a replay file holds, or that are not due after all.
 */
import { readEvent, type WrittenEvent } from './audit-event.ts'

/** A line of the journal. */
export type JournalLine =
  | { readonly kind: 'intent' | 'outcome'; readonly event: WrittenEvent }
  | { readonly kind: 'done'; readonly ids: readonly string[] }

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const KINDS = { I: 'intent', O: 'outcome' } as const

/** The line of a request that is about to be dispatched; `event` says that it was interrupted. */
export function intentLine({ id, data }: WrittenEvent): string {
  return `I ${id} ${data}\n`
}

/** The line of an event that is about to be sent. */
export function outcomeLine({ id, data }: WrittenEvent): string {
  return `O ${id} ${data}\n`
}

/** The line of events that nothing is due for any more. */
export function doneLine(ids: readonly string[]): string {
  return `D ${ids.join(' ')}\n`
}

/** What a line says; `undefined` when it is torn or garbled. */
export function readJournalLine(line: string): JournalLine | undefined {
  const [sign, id = ''] = line.split(' ', 2)
  if (!UUID.test(id)) return undefined
  if (sign === 'D') {
    const ids = line.slice(2).split(' ')
    return ids.every(id => UUID.test(id)) ? { kind: 'done', ids } : undefined
  }
  if (sign !== 'I' && sign !== 'O') return undefined
  const event = readEvent(line.slice(3 + id.length))
  return event?.id === id ? { kind: KINDS[sign], event } : undefined
}

/** What is due of a journal, read line by line from its beginning. */
export class JournalReader {
  readonly #due = new Map<string, JournalLine & { event: WrittenEvent }>()

  read(line: JournalLine): void {
    if (line.kind === 'done') {
      for (const id of line.ids) this.#due.delete(id)
      return
    }
    const { id } = line.event
    // An intent that was copied forward is there twice; it counts for nothing beside its outcome.
    if (line.kind === 'outcome' || !this.#due.has(id)) this.#due.set(id, line)
  }

  /** The events that are due, in order: outcomes as they were written, and intents without one. */
  get due(): WrittenEvent[] {
    return [...this.#due.values()].map(({ event }) => event)
  }

  /** How many of them are intents: requests that the gateway died over. */
  get interrupted(): number {
    return [...this.#due.values()].filter(({ kind }) => kind === 'intent').length
  }
}
