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
  /** Whether a gateway's directory was moved or removed while it was read. */
  disturbed = false
  readonly #root: string
  readonly #proof: Proof
  #self: Owner | undefined

  constructor(root: string, proof: Proof) {
    this.#root = root
    this.#proof = proof
  }

  /**
   * Looks at everything; what cannot be read is a finding. What moves meanwhile goes from a journal to a replay file, from
   * there into the directory of whoever sends it, and from there to Redis: that is the order of looking, too.
   */
  async read(): Promise<void> {
    this.#self = await thisProcess()
    const names = await readdir(this.#root).catch((error: unknown) => {
      this.findings.add('unreadable', this.#root, reasonOf(error))
      return undefined
    })
    if (names === undefined) return
    for (const path of this.#homesIn(this.#root, names)) {
      await this.#home(path, await this.#isAlive(path))
    }
    await this.#attempt(this.#root, () => this.#files(this.#root))
  }

  #homesIn(path: string, names: readonly string[]): string[] {
    return names.filter(name => HOME_NAME.test(name)).map(name => join(path, name))
  }

  /** Reads the replay files of a directory, then those that gateways have taken into their own. */
  async #files(path: string): Promise<void> {
    for (const name of await readdir(path)) {
      const file = join(path, name)
      if (name.endsWith('.ndjson')) await this.#file(file)
      else if (name.endsWith('.corrupt')) {
        this.findings.add('set_aside', this.#name(file), 'holds lines that were torn or garbled')
      }
    }
    for (const home of this.#homesIn(path, await readdir(path))) {
      await this.#attempt(home, () => this.#files(home))
    }
  }

  async #file(path: string): Promise<void> {
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
      // Taken over from a process that had ended, and not sent yet.
      for (const home of this.#homesIn(path, names)) await this.#home(home, false)
      // What was removed while it was read has told half a story.
      await readdir(path)
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
        const before = outcomes.get(id)
        if (line.kind === 'outcome') {
          if (before !== undefined && before.data !== data) {
            this.#proof.event({ id, data: before.data }, SEEN.waiting, where, this.findings)
          }
          intents.delete(id)
          const at = typeof event === 'string' ? Number.NaN : Date.parse(event.occurred_at)
          outcomes.set(id, { data, at })
        } else if (typeof event === 'string') {
          this.findings.add('malformed', where, `the event ${event}`, id)
        } else if (before === undefined) {
          intents.set(id, event.request_id)
        }
        return true
      })
    }
    for (const [id, { data }] of outcomes) {
      this.#proof.event({ id, data }, SEEN.waiting, where, this.findings)
    }
    for (const [id, requestId] of intents) this.intents.push({ id, requestId, where, alive })
  }

  /**
   * Reads a file's lines; one that has gone was not needed, or is found where it is now.
   *
   * @param growing whether the last may be half written
   * @param take says whether it is a line of such a file
   */
  async #lines(path: string, growing: boolean, take: (text: string) => boolean): Promise<void> {
    try {
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
    } catch (error) {
      if (!isMissing(error)) this.findings.add('unreadable', this.#name(path), reasonOf(error))
    }
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

  /** A directory that goes while it is looked at is looked for again; whatever else fails is told. */
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
