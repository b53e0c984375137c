/**
 * Guarantees that evidence that lies on disk reaches Redis, whoever left it: this process, one that was killed, or
 * another gateway. What is sent was taken by an atomic rename, so that two processes never send the same, and is removed
 * only when all of it is safe.
 */
import { readdir, rename, rm, stat, unlink } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import { readEvent, type WrittenEvent } from '../../lib/audit-event.ts'
import type { Line } from '../../lib/lines.ts'
import { loggedReason } from '../../lib/log-error.ts'
import {
  HOME_NAME,
  type KeptFile,
  REMOVED_NAME,
  type ReplayDirectory,
  removeDirectory,
} from './directory.ts'
import { appendLine, readLines } from './files.ts'
import { Homes, isMissing, readHome } from './homes.ts'
import { within } from './queue.ts'
import { BATCH, type Sink } from './sink.ts'

const LOOK_INTERVAL = 5_000
const IDLE_INTERVAL = 500
/** Milliseconds until what could not be read is tried again; the rest does not wait for it. */
const RETRY_INTERVAL = 10_000
/** Milliseconds for which a file of somebody else's has not changed before it counts as whole. */
const SETTLE_TIME = 2_000

/** What {@link Backlog} tells. */
export interface BacklogOptions {
  /** Events were sent from disk. */
  readonly onDrained: (count: number) => void
  /** Events of a journal are in a replay file. */
  readonly onKept: (count: number, file: KeptFile) => void
  /** A line was torn or garbled, and is set aside. */
  readonly onCorrupt: () => void
  /** There is nothing to send, and so nothing to find out with whether Redis is back. */
  readonly onIdle: () => void
}

/** The replay files, for gauges. */
export interface BacklogFigures {
  readonly files: number
  readonly bytes: number
  /** Of the oldest file. */
  readonly ageSeconds: number
}

interface ReplayFile {
  readonly bytes: number
  readonly modifiedAt: number
  /** Written by this process, so that it is whole. */
  readonly own: boolean
}

/** A replay file that is being sent. */
interface Draining {
  readonly name: string
  readonly path: string
  lines: AsyncGenerator<Line[]> | undefined
  /** Lines that were read. */
  read: number
  /** Events that were read and not accepted yet. */
  rest: WrittenEvent[]
  accepted: number
}

/** A directory of a dead process; `due` once it was read. */
interface Claim {
  readonly path: string
  due: WrittenEvent[] | undefined
  /** `performance.now()` from which on it is tried. */
  retryAt: number
}

/** What lies on disk and waits for Redis. */
export class Backlog {
  readonly #sink: Sink
  readonly #directory: ReplayDirectory
  readonly #log: FastifyBaseLogger
  readonly #options: BacklogOptions
  readonly #homes: Homes
  /** Oldest first. */
  #files = new Map<string, ReplayFile>()
  #claims: Claim[] = []
  #draining: Draining | undefined
  #lookAt = 0
  /** Files that could not be read, and when they are tried again. */
  readonly #troubles = new Map<string, number>()
  #complained = false
  #closing = false
  #running: Promise<void> | undefined
  #wake: (() => void) | undefined
  #endPause: (() => void) | undefined

  constructor(
    sink: Sink,
    directory: ReplayDirectory,
    log: FastifyBaseLogger,
    options: BacklogOptions,
  ) {
    this.#sink = sink
    this.#directory = directory
    this.#log = log
    this.#options = options
    this.#homes = new Homes(directory, log)
  }

  /** As of the last look, and what this process did since. */
  get figures(): BacklogFigures {
    let bytes = 0
    let oldest = Infinity
    for (const file of this.#files.values()) {
      bytes += file.bytes
      oldest = Math.min(oldest, file.modifiedAt)
    }
    const ageSeconds = Math.max(0, (Date.now() - oldest) / 1_000)
    return { files: this.#files.size, bytes, ageSeconds: this.#files.size === 0 ? 0 : ageSeconds }
  }

  /** Begins to send; returns at once. */
  start(): void {
    this.#running = this.#run()
  }

  /** This process has written a replay file. */
  kept({ name, bytes }: KeptFile): void {
    this.#files.set(name, { bytes, modifiedAt: Date.now(), own: true })
    this.#wake?.()
  }

  /**
   * Stops, and gives back what is not sent by the deadline.
   *
   * @param deadline `performance.now()`
   */
  async close(deadline: number): Promise<void> {
    this.#closing = true
    this.#wake?.()
    this.#endPause?.()
    await within(deadline - performance.now(), this.#running ?? Promise.resolve())
  }

  async #run(): Promise<void> {
    while (!this.#closing) {
      let busy = false
      try {
        // On a full disk too: it is what makes room.
        busy = this.#directory.hasHome && (await this.#step())
        this.#complained = false
      } catch (error) {
        if (!this.#complained && this.#directory.usable) {
          this.#log.error({ reason: loggedReason(error) }, 'audit evidence on disk cannot be sent')
        }
        this.#complained = true
      }
      if (busy || this.#closing) continue
      this.#options.onIdle()
      await this.#idle()
    }
    try {
      await this.#giveBack()
    } catch (error) {
      this.#log.error({ reason: loggedReason(error) }, 'a replay file waits for the next start')
    }
  }

  /** @returns whether there may be more to do at once */
  async #step(): Promise<boolean> {
    if (performance.now() >= this.#lookAt) await this.#look()
    const claim = this.#claims.find(({ retryAt }) => retryAt <= performance.now())
    if (claim !== undefined) return this.#recover(claim)
    this.#draining ??= await this.#take()
    if (this.#draining !== undefined) return this.#drain(this.#draining)
    return false
  }

  async #look(): Promise<void> {
    const { root } = this.#directory
    const startedAt = Date.now()
    const entries = await readdir(root, { withFileTypes: true })
    const directories = entries.filter(entry => entry.isDirectory()).map(({ name }) => name)
    for (const name of directories.filter(name => REMOVED_NAME.test(name))) {
      await rm(join(root, name), { recursive: true, force: true }).catch(() => undefined)
    }
    const homes = directories.filter(name => HOME_NAME.test(name))
    for (const path of await this.#homes.claim(homes)) this.#claim(path)
    const files = entries.filter(entry => entry.isFile() && entry.name.endsWith('.ndjson'))
    await this.#list(
      files.map(({ name }) => name),
      startedAt,
    )
    this.#lookAt = performance.now() + LOOK_INTERVAL
  }

  #claim(path: string): void {
    this.#claims.push({ path, due: undefined, retryAt: 0 })
  }

  async #list(names: readonly string[], startedAt: number): Promise<void> {
    const found: [string, ReplayFile][] = []
    for (const name of names) {
      const file = this.#files.get(name) ?? (await this.#stat(name))
      if (file !== undefined) found.push([name, file])
    }
    const listed = new Set(names)
    for (const [name, file] of this.#files) {
      const isNew = file.own && file.modifiedAt >= startedAt
      if (!listed.has(name) && (isNew || name === this.#draining?.name)) found.push([name, file])
    }
    found.sort(([a, one], [b, other]) => one.modifiedAt - other.modifiedAt || (a < b ? -1 : 1))
    this.#files = new Map(found)
  }

  async #stat(name: string): Promise<ReplayFile | undefined> {
    try {
      const { size, mtimeMs } = await stat(join(this.#directory.root, name))
      return { bytes: size, modifiedAt: mtimeMs, own: false }
    } catch (error) {
      if (isMissing(error)) return undefined
      throw error
    }
  }

  /** Takes the oldest replay file that is whole. */
  async #take(): Promise<Draining | undefined> {
    const { root, home } = this.#directory
    for (const [name, { own }] of this.#files) {
      if ((this.#troubles.get(name) ?? 0) > performance.now()) continue
      const now = own ? undefined : await this.#stat(name)
      if (now !== undefined) {
        this.#files.set(name, now)
        if (Math.abs(Date.now() - now.modifiedAt) < SETTLE_TIME) continue
      }
      const path = join(home, name)
      try {
        await rename(join(root, name), path)
        return { name, path, lines: undefined, read: 0, rest: [], accepted: 0 }
      } catch (error) {
        if (isMissing(error)) this.#files.delete(name)
        else this.#trouble(name, error)
      }
    }
    return undefined
  }

  async #drain(file: Draining): Promise<boolean> {
    try {
      for (;;) {
        if (!(await this.#sendRest(file))) return await this.#leave(file)
        if (!(await this.#readMore(file))) break
      }
      await unlink(file.path)
    } catch (error) {
      if (!isMissing(error)) return await this.#setBack(file, error)
    }
    this.#files.delete(file.name)
    this.#draining = undefined
    return true
  }

  /** Leaves a file that cannot be read, so that the others do not wait for it. */
  async #setBack(file: Draining, error: unknown): Promise<boolean> {
    this.#trouble(file.name, error)
    try {
      // Otherwise the next start sends it from its beginning, which does no harm.
      if (file.accepted === 0) await this.#giveBack()
    } finally {
      this.#draining = undefined
    }
    return true
  }

  #trouble(name: string, error: unknown): void {
    if (!this.#troubles.has(name)) {
      this.#log.error({ name, reason: loggedReason(error) }, 'audit evidence cannot be read')
    }
    this.#troubles.set(name, performance.now() + RETRY_INTERVAL)
  }

  /** While Redis takes nothing, a file of which it has taken nothing belongs where everybody finds it. */
  async #leave(file: Draining): Promise<boolean> {
    if (this.#closing) return false
    // On a full disk it cannot be given back, and is sent from where it is.
    if (file.accepted === 0) await this.#giveBack().catch(() => undefined)
    await this.#pause(this.#sink.backOff)
    return true
  }

  /** @returns whether Redis has taken all of it */
  async #sendRest(file: Draining): Promise<boolean> {
    while (file.rest.length > 0) {
      if (this.#closing) return false
      // One alone finds out whether Redis is back.
      const part = file.rest.slice(0, this.#sink.taking ? BATCH : 1)
      const failed = await this.#sink.send(part)
      file.accepted += part.length - failed.length
      file.rest = [...failed, ...file.rest.slice(part.length)]
      this.#options.onDrained(part.length - failed.length)
      if (failed.length > 0) return false
    }
    return true
  }

  async #readMore(file: Draining): Promise<boolean> {
    file.lines ??= await skip(readLines(file.path), file.read)
    const { value: lines, done } = await file.lines.next()
    if (done === true) return false
    const events: WrittenEvent[] = []
    for (const line of lines) {
      const event = line.text === undefined ? undefined : readEvent(line.text)
      if (event !== undefined) events.push(event)
      else await this.#setAside(line, file.name)
    }
    file.rest = events
    file.read += lines.length
    return true
  }

  async #recover(claim: Claim): Promise<boolean> {
    try {
      claim.due ??= await this.#inherit(claim.path)
      while (claim.due.length > 0) {
        if (this.#closing || !(this.#sink.taking || this.#directory.usable)) return false
        claim.due = await this.#settle(claim.due)
      }
      await removeDirectory(claim.path, this.#directory.home)
    } catch (error) {
      // Gone with the directory of this process: whoever has that has this.
      if (!isMissing(error)) {
        this.#trouble(basename(claim.path), error)
        claim.retryAt = performance.now() + RETRY_INTERVAL
        return true
      }
    }
    this.#claims = this.#claims.filter(other => other !== claim)
    return true
  }

  async #inherit(path: string): Promise<WrittenEvent[]> {
    const { due, interrupted, homes, files } = await readHome(path, (line, name) =>
      this.#setAside(line, name),
    )
    for (const name of homes) {
      await rename(join(path, name), join(this.#directory.home, name))
      this.#claim(join(this.#directory.home, name))
    }
    for (const name of files) await this.#directory.giveBack(join(path, name), name)
    if (files.length > 0) this.#lookAt = 0
    this.#log.info(
      { events: due.length, interrupted },
      'audit evidence of a process that has ended is sent',
    )
    return due
  }

  /** Sends some of the events or, while Redis takes none, puts them into replay files. @returns those that are left */
  async #settle(events: readonly WrittenEvent[]): Promise<WrittenEvent[]> {
    if (this.#sink.taking) {
      const part = events.slice(0, BATCH)
      const failed = await this.#sink.send(part)
      this.#options.onDrained(part.length - failed.length)
      return [...failed, ...events.slice(BATCH)]
    }
    let kept = 0
    await this.#directory.keep(events, (part, file) => {
      kept += part.length
      this.#options.onKept(part.length, file)
    })
    return events.slice(kept)
  }

  async #setAside(line: Line, name: string): Promise<void> {
    if (line.bytes.length === 0) return
    await appendLine(join(this.#directory.root, `${name}.corrupt`), line.bytes)
    this.#options.onCorrupt()
    this.#log.error({ file: `${name}.corrupt` }, 'audit evidence is torn or garbled, and set aside')
  }

  /** Gives back the file that is being sent, less what Redis has accepted of it. */
  async #giveBack(): Promise<void> {
    const file = this.#draining
    if (file === undefined) return
    if (file.accepted === 0) {
      await this.#directory.giveBack(file.path, file.name)
    } else {
      const lines = (file.lines ??= await skip(readLines(file.path), file.read))
      await this.#directory.publish(remaining(file.rest, lines))
      await unlink(file.path)
    }
    await file.lines?.return(undefined)
    this.#draining = undefined
  }

  /** Waits for something to do. */
  async #idle(): Promise<void> {
    await new Promise<void>(resolve => {
      const timer = setTimeout(resolve, IDLE_INTERVAL).unref()
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
    this.#wake = undefined
  }

  async #pause(milliseconds: number): Promise<void> {
    if (this.#closing) return
    await new Promise<void>(resolve => {
      const timer = setTimeout(resolve, milliseconds).unref()
      this.#endPause = () => {
        clearTimeout(timer)
        resolve()
      }
    })
    this.#endPause = undefined
  }
}

/** Passes over lines that were read before. */
async function skip(lines: AsyncGenerator<Line[]>, count: number): Promise<AsyncGenerator<Line[]>> {
  let left = count
  async function* rest(): AsyncGenerator<Line[]> {
    for await (const some of lines) {
      const more = some.slice(left)
      left = Math.max(0, left - some.length)
      if (more.length > 0) yield more
    }
  }
  return rest()
}

async function* remaining(
  rest: readonly WrittenEvent[],
  lines: AsyncGenerator<Line[]>,
): AsyncGenerator<string | Uint8Array> {
  for (const { data } of rest) yield `${data}\n`
  for await (const some of lines) {
    for (const { bytes } of some) yield Buffer.concat([bytes, Buffer.from('\n')])
  }
}
