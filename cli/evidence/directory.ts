// Reads AUDIT_REPLAY_DIR while gateways use it, and changes nothing in it.

import { readdir, readFile, stat } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { readEvent } from '../../lib/audit-event.ts'
import { formedEvent } from '../../lib/event-form.ts'
import { readJournalLine } from '../../lib/journal.ts'
import { HOME_NAME, OWNER_FILE, RELEASED_FILE } from '../../plugins/audit/directory.ts'
import { readLines } from '../../plugins/audit/files.ts'
import { isMissing, SILENCE } from '../../plugins/audit/homes.ts'
import { SEGMENT } from '../../plugins/audit/journal.ts'
import { lives, type Owner, readOwner, thisProcess } from '../../plugins/audit/owner.ts'
import { Findings } from './findings.ts'
import { type Proof, SEEN } from './proof.ts'

/** A request that was about to be dispatched, and of which the journal knows no more. */
export interface OpenIntent {
  readonly id: string
  readonly requestId: string
  /** The journal's directory. */
  readonly where: string
  /** Whether its gateway lives. */
  readonly alive: boolean
}

/** An event that, the journal says, was taken by Redis or is in a replay file. */
export interface Delivered {
  /** Unix milliseconds. */
  readonly at: number
  readonly where: string
}

/** What one look has found. */
export class Look {
  readonly findings = new Findings()
  readonly intents: OpenIntent[] = []
  readonly delivered = new Map<string, Delivered>()
  /** Journals of gateways that live, and of those that have ended. */
  alive = 0
  ended = 0
  /** Replay files. */
  files = 0
  /** Whether something was moved or removed while it was read. */
  disturbed = false
  readonly #root: string
  readonly #proof: Proof
  #self: Owner | undefined

  constructor(root: string, proof: Proof) {
    this.#root = root
    this.#proof = proof
  }

  /** Looks at everything; what cannot be read is a finding. */
  async read(): Promise<void> {
    this.#self = await thisProcess()
    await this.#attempt(this.#root, async () => {
      // A directory that is not there has not been moved.
      const entries = await readdir(this.#root, { withFileTypes: true }).catch((error: unknown) => {
        this.findings.add('unreadable', this.#root, reasonOf(error))
        return []
      })
      for (const entry of entries) {
        const path = join(this.#root, entry.name)
        if (entry.isDirectory()) {
          if (HOME_NAME.test(entry.name)) await this.#home(path, await this.#isAlive(path))
        } else await this.#file(path)
      }
    })
  }

  async #file(path: string): Promise<void> {
    if (path.endsWith('.corrupt')) {
      this.findings.add('set_aside', this.#name(path), 'holds lines that were torn or garbled')
    }
    if (!path.endsWith('.ndjson')) return
    this.files += 1
    await this.#lines(path, false, text => {
      const event = readEvent(text)
      if (event === undefined) return false
      this.#proof.event(event, SEEN.waiting, this.#name(path), this.findings)
      return true
    })
  }

  async #home(path: string, alive: boolean): Promise<void> {
    this[alive ? 'alive' : 'ended'] += 1
    await this.#attempt(path, async () => {
      const names = await readdir(path)
      await this.#journal(path, names, alive)
      for (const name of names) {
        if (name.endsWith('.ndjson')) await this.#file(join(path, name))
        // Taken over from a process that had ended, and not sent yet.
        else if (HOME_NAME.test(name)) await this.#home(join(path, name), false)
      }
    })
  }

  async #journal(path: string, names: readonly string[], alive: boolean): Promise<void> {
    const segments = names
      .filter(name => SEGMENT.test(name))
      .toSorted((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10))
    const where = this.#name(path)
    const intents = new Map<string, string>()
    const outcomes = new Map<string, { readonly data: string; readonly at: number }>()
    for (const segment of segments) {
      await this.#lines(join(path, segment), alive, text => {
        const line = readJournalLine(text)
        if (line === undefined) return false
        if (line.kind === 'done') {
          for (const id of line.ids) {
            intents.delete(id)
            const outcome = outcomes.get(id)
            if (outcome === undefined) continue
            outcomes.delete(id)
            this.#proof.event({ id, data: outcome.data }, SEEN.journal, where, this.findings)
            this.delivered.set(id, { at: outcome.at, where })
          }
          return true
        }
        const { id, data } = line.event
        const event = formedEvent(data)
        if (typeof event === 'string')
          this.findings.add('malformed', where, `the event ${event}`, id)
        if (line.kind === 'outcome') {
          intents.delete(id)
          const at = typeof event === 'string' ? Number.NaN : Date.parse(event.occurred_at)
          outcomes.set(id, { data, at })
        } else if (!outcomes.has(id)) {
          intents.set(id, typeof event === 'string' ? '' : event.request_id)
        }
        return true
      })
    }
    for (const [id, { data }] of outcomes) {
      this.#proof.event({ id, data }, SEEN.waiting, where, this.findings)
    }
    for (const [id, requestId] of intents) this.intents.push({ id, requestId, where, alive })
  }

  /** Reads a file's lines. @param growing whether the last may be half written @param take says whether it is one */
  async #lines(path: string, growing: boolean, take: (text: string) => boolean): Promise<void> {
    await this.#attempt(path, async () => {
      let unread = 0
      let last = true
      for await (const lines of readLines(path)) {
        for (const { text, bytes } of lines) {
          last = bytes.length === 0 || (text !== undefined && take(text))
          if (!last) unread += 1
        }
      }
      if (growing && !last) unread -= 1
      if (unread === 0) return
      this.findings.add('malformed', this.#name(path), `${unread} lines are torn or garbled`)
    })
  }

  async #isAlive(path: string): Promise<boolean> {
    const released = await stat(join(path, RELEASED_FILE)).catch(() => undefined)
    if (released !== undefined || this.#self === undefined) return false
    const file = join(path, OWNER_FILE)
    const owner = readOwner(await readFile(file, 'utf8').catch(() => ''))
    const seen = owner && (await lives(owner, this.#self))
    if (seen !== undefined) return seen
    const { mtimeMs } = (await stat(file).catch(() => undefined)) ?? { mtimeMs: 0 }
    return Date.now() - mtimeMs < SILENCE
  }

  /** What goes while it is looked at is looked for again; whatever else fails is told. */
  async #attempt(path: string, work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      if (isMissing(error)) this.disturbed = true
      else this.findings.add('unreadable', this.#name(path), reasonOf(error))
    }
  }

  #name(path: string): string {
    return relative(this.#root, path) || path
  }
}

function reasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' ? code : 'cannot be read'
}
