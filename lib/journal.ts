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
  readonly #intents = new Map<string, WrittenEvent>()
  readonly #outcomes = new Map<string, WrittenEvent>()

  read(line: JournalLine): void {
    if (line.kind === 'done') {
      for (const id of line.ids) {
        this.#intents.delete(id)
        this.#outcomes.delete(id)
      }
      return
    }
    const { id } = line.event
    // An intent that was copied forward is there twice, and counts for nothing behind its outcome.
    if (line.kind === 'outcome') this.#outcomes.set(id, line.event)
    else this.#intents.set(id, line.event)
  }

  /** The events that are due, oldest id first: outcomes as they were written, and intents without one. */
  get due(): WrittenEvent[] {
    const due = new Map([...this.#intents, ...this.#outcomes])
    return [...due.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
  }
}
