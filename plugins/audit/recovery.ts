/**
 * Guarantees that what a dead process left in its directory is sent or in replay files before the directory goes.
 */
import { rename } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import type { WrittenEvent } from '../../lib/audit-event.ts'
import type { Line } from '../../lib/lines.ts'
import { type KeptFile, type ReplayDirectory, removeDirectory } from './directory.ts'
import { Homes, isMissing, readHome } from './homes.ts'
import { BATCH, type Sink } from './sink.ts'
import type { Troubles } from './troubles.ts'

/** What {@link Recovery} tells, and what it needs. */
export interface RecoveryOptions {
  readonly onDrained: (count: number) => void
  readonly onKept: (count: number, file: KeptFile) => void
  /** There are replay files that nobody has listed yet. */
  readonly onFiles: () => void
  readonly setAside: (lines: readonly Line[], name: string) => Promise<void>
}

/** A directory of a dead process; `due` once it was read. */
interface Claim {
  readonly name: string
  readonly path: string
  due: WrittenEvent[] | undefined
}

/** The directories that this process has taken over. */
export class Recovery {
  readonly #sink: Sink
  readonly #directory: ReplayDirectory
  readonly #homes: Homes
  readonly #troubles: Troubles
  readonly #log: FastifyBaseLogger
  readonly #options: RecoveryOptions
  #claims: Claim[] = []

  constructor(
    sink: Sink,
    directory: ReplayDirectory,
    troubles: Troubles,
    log: FastifyBaseLogger,
    options: RecoveryOptions,
  ) {
    this.#sink = sink
    this.#directory = directory
    this.#troubles = troubles
    this.#log = log
    this.#options = options
    this.#homes = new Homes(directory, log)
  }

  /** Takes over those of `names` whose process is dead. */
  async claim(names: readonly string[]): Promise<void> {
    for (const path of await this.#homes.claim(names)) this.#add(path)
  }

  /** Does some of the work. @returns whether there was any that could be done */
  async step(): Promise<boolean> {
    const claim = this.#claims.find(({ name }) => !this.#troubles.has(name))
    if (claim === undefined) return false
    try {
      claim.due ??= await this.#inherit(claim.path)
      if (claim.due.length > 0) {
        if (!this.#sink.taking && !this.#directory.usable) return false
        claim.due = await this.#settle(claim.due)
        return true
      }
      await removeDirectory(claim.path, this.#directory.home)
    } catch (error) {
      // Gone with the directory of this process: whoever has that has this.
      if (!isMissing(error)) {
        this.#troubles.add(claim.name, error)
        return true
      }
    }
    this.#claims = this.#claims.filter(other => other !== claim)
    return true
  }

  /** Ends: what Redis has accepted of a journal is not to be sent by the next start. */
  async close(): Promise<void> {
    for (const { due, path } of this.#claims) {
      if (due === undefined) continue
      const left = await this.#keep(due)
      if (left.length === 0) await removeDirectory(path, this.#directory.home)
    }
  }

  #add(path: string): void {
    this.#claims.push({ name: basename(path), path, due: undefined })
  }

  async #inherit(path: string): Promise<WrittenEvent[]> {
    const { due, interrupted, homes, files } = await readHome(path, this.#options.setAside)
    for (const name of homes) {
      await rename(join(path, name), join(this.#directory.home, name))
      this.#add(join(this.#directory.home, name))
    }
    for (const name of files) await this.#directory.giveBack(join(path, name), name)
    if (files.length > 0) this.#options.onFiles()
    if (due.length > 0) {
      const line = { events: due.length, interrupted }
      this.#log.info(line, 'audit evidence of a process that has ended is sent')
    }
    return due
  }

  /** Sends some of the events or, while Redis takes none, puts them into replay files. @returns those that are left */
  async #settle(events: readonly WrittenEvent[]): Promise<WrittenEvent[]> {
    if (!this.#sink.taking) return this.#keep(events)
    const part = events.slice(0, BATCH)
    const failed = await this.#sink.send(part)
    this.#options.onDrained(part.length - failed.length)
    return [...failed, ...events.slice(BATCH)]
  }

  async #keep(events: readonly WrittenEvent[]): Promise<WrittenEvent[]> {
    let kept = 0
    await this.#directory.keep(events, (part, file) => {
      kept += part.length
      this.#options.onKept(part.length, file)
    })
    return events.slice(kept)
  }
}
