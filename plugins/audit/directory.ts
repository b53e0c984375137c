/**
 * Guarantees that evidence on disk has one owner, and that a directory that cannot be used is known before anybody
 * relies on it: what failed is tried again here, once a second, and by no request.
 */
import { randomBytes } from 'node:crypto'
import { readdirSync, rmSync, statSync } from 'node:fs'
import { mkdir, readdir, rename, rm, stat, unlink, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import type { WrittenEvent } from '../../lib/audit-event.ts'
import { loggedReason } from '../../lib/log-error.ts'
import { MAX_LINE_BYTES } from '../../lib/lines.ts'
import { type Part, publish, syncDirectory, writeSynced } from './files.ts'
import { Journal, SEGMENT } from './journal.ts'
import { type Owner, thisProcess } from './owner.ts'

/** How the directories of processes are called. */
export const HOME_NAME = /^gateway-\d+-[0-9a-f]{16}$/
/** How directories are called whose content is needed no more: removing one takes several steps. */
export const REMOVED_NAME = /^removed-\d+-[0-9a-f]{16}$/
/** The file in a process's directory that says who it is; its time is the heartbeat. */
export const OWNER_FILE = 'owner'
/** What {@link OWNER_FILE} is called once its process has nothing to do with the directory any more. */
export const RELEASED_FILE = 'released'

const PROBE_FILE = 'probe'
/** Given up when something cannot be written: whoever starts on a full disk needs room for a directory of its own. */
const RESERVE_FILE = 'reserve'
const RESERVE_BYTES = 64 * 1024
const LOOK_INTERVAL = 1_000
const LOOKS_PER_HEARTBEAT = 5
/** Milliseconds without a look after which others may soon take this process for dead: it was stopped meanwhile. */
const BLIND = 20_000

/** What `AUDIT_DURABILITY` promises (contract section 8). */
export type Durability = 'relaxed' | 'strict' | 'synced'

interface Home {
  readonly path: string
  readonly inode: number
  readonly journal: Journal | undefined
}

/** A replay file that this process has written. */
export interface KeptFile {
  readonly name: string
  readonly bytes: number
}

/** `AUDIT_REPLAY_DIR` as one process sees it. */
export class ReplayDirectory {
  readonly root: string
  readonly durability: Durability
  /** The directory can be used again. */
  onUsable: () => void = () => undefined
  readonly #log: FastifyBaseLogger
  readonly #now: () => number
  #lookedAt = -Infinity
  #self: Owner | undefined
  #home: Home | undefined
  #usable = false
  #complained = false
  #closed = false
  #looks = 0
  #timer: NodeJS.Timeout | undefined
  #looking: Promise<void> | undefined
  readonly #names: Iterator<string>

  /** @param now monotonic milliseconds */
  constructor(
    root: string,
    durability: Durability,
    log: FastifyBaseLogger,
    now: () => number = () => performance.now(),
  ) {
    this.root = root
    this.durability = durability
    this.#log = log
    this.#now = now
    this.#names = pendingNames()
  }

  /** Whether evidence can be kept in it, as far as is known. */
  get usable(): boolean {
    if (this.#usable && this.#now() - this.#lookedAt >= BLIND) this.#lookAtOnce()
    return this.#usable
  }

  /** This process's own directory. @throws Error while there is none */
  get home(): string {
    if (this.#home === undefined) throw new Error('there is no directory of this process')
    return this.#home.path
  }

  /** Whether there is one. */
  get hasHome(): boolean {
    return this.#home !== undefined
  }

  /** The journal of this process; undefined when there is none to be kept, and before there was a directory. */
  get journal(): Journal | undefined {
    return this.#home?.journal
  }

  /** Who this process is. */
  get self(): Owner {
    if (this.#self === undefined) throw new Error('the directory was not opened')
    return this.#self
  }

  /** Begins to use it; when that fails it is tried again, and {@link ReplayDirectory.usable} says so. */
  async open(): Promise<void> {
    this.#self = await thisProcess()
    this.#looking = this.#look()
    await this.#looking
  }

  /** Something could not be written: the directory is not used before it was looked at. */
  fail(error: unknown): void {
    this.#usable = false
    if (this.#complained || this.#closed) return
    this.#complained = true
    const line = { directory: this.root, reason: loggedReason(error) }
    this.#log.error(line, 'audit replay directory cannot be used')
    this.#giveUpReserve()
  }

  /**
   * Keeps events for later, in files that are there whole or not at all and survive the machine.
   *
   * @param onKept called for each file, with the events that it holds
   */
  async keep<Event extends WrittenEvent>(
    events: readonly Event[],
    onKept: (events: readonly Event[], file: KeptFile) => void,
  ): Promise<void> {
    for (const part of parts(events)) {
      try {
        const lines = part.map(({ data }) => `${data}\n`)
        const bytes = Buffer.byteLength(lines.join(''))
        onKept(part, { name: await this.publish(lines), bytes })
      } catch (error) {
        this.fail(error)
        return
      }
    }
  }

  /** Writes a replay file. @returns its name */
  async publish(lines: Iterable<Part> | AsyncIterable<Part>): Promise<string> {
    const path = join(this.home, `${randomBytes(8).toString('hex')}.tmp`)
    try {
      await writeSynced(path, lines)
      return await publish(path, this.root, this.#names)
    } catch (error) {
      await unlink(path).catch(() => undefined)
      throw error
    }
  }

  /** Gives a file back to whoever drains the directory, under its own name if that is free. */
  async giveBack(path: string, name: string): Promise<void> {
    await publish(path, this.root, [name, ...[1, 2, 3].map(() => nextName(this.#names))].values())
  }

  /** Lets go of it. What is left in this process's own directory is recovered by the next that looks. */
  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    await this.#looking
    const home = this.#home
    if (home === undefined) return
    const open = home.journal?.size ?? 0
    home.journal?.close()
    try {
      const needed = open > 0 || (await readdir(home.path)).some(isEvidence)
      if (needed) await rename(join(home.path, OWNER_FILE), join(home.path, RELEASED_FILE))
      else await removeDirectory(home.path, this.root)
    } catch (error) {
      // The next start finds it as it is.
      this.#log.warn({ reason: loggedReason(error) }, 'cannot let go of the audit replay directory')
    }
  }

  async #look(): Promise<void> {
    const lookedAt = this.#now()
    try {
      if (!(await this.#isHome())) this.#leaveHome()
      this.#lookedAt = lookedAt
      // Also while it cannot be used: nobody is to take over what belongs to a process that lives.
      if (this.#home !== undefined) await this.#beat(this.#home)
      if (!this.#usable) await this.#begin()
    } catch (error) {
      this.fail(error)
    }
    if (this.#closed) return
    this.#timer = setTimeout(() => {
      this.#looking = this.#look()
    }, LOOK_INTERVAL).unref()
  }

  /** Whoever was stopped has no time to wait for an answer: it could come when the next line is written. */
  #lookAtOnce(): void {
    // Who keeps no journal can tell no other story than whoever has the directory.
    if (this.#home?.journal === undefined) return
    const lookedAt = this.#now()
    try {
      const found = statSync(this.#home.path, { throwIfNoEntry: false })
      if (found?.ino === this.#home.inode) this.#lookedAt = lookedAt
      else this.#usable = false
    } catch (error) {
      this.fail(error)
    }
  }

  /** Whether the directory of this process is still there, and the same. @throws Error when that cannot be told */
  async #isHome(): Promise<boolean> {
    if (this.#home === undefined) return true
    try {
      const { ino } = await stat(this.#home.path)
      return ino === this.#home.inode
    } catch (error) {
      if (
        error instanceof Error &&
        'code' in error &&
        /^(?:ENOENT|ENOTDIR)$/.test(String(error.code))
      ) {
        return false
      }
      throw error
    }
  }

  #leaveHome(): void {
    this.#usable = false
    this.#log.error(
      { directory: this.root },
      'audit journal has gone: it was removed or taken over',
    )
    this.#home?.journal?.close()
    this.#home = undefined
  }

  async #begin(): Promise<void> {
    await mkdir(this.root, { recursive: true, mode: 0o700 })
    const home = (this.#home ??= await this.#makeHome())
    if (this.#complained) await this.#probe(home.path)
    await this.#reserve(home.path)
    if (this.#closed) return
    this.#usable = true
    if (this.#complained) {
      this.#complained = false
      this.#log.info({ directory: this.root }, 'audit replay directory can be used again')
    }
    this.onUsable()
  }

  /** Whether there is room again. A disk with less than a replay file may have fails again at once. */
  async #probe(home: string): Promise<void> {
    const path = join(home, PROBE_FILE)
    try {
      await rm(path, { force: true })
      await writeSynced(path, [' '.repeat(MAX_LINE_BYTES)])
    } finally {
      await rm(path, { force: true })
    }
  }

  /** On a disk that has no room for it there is none. */
  async #reserve(home: string): Promise<void> {
    const path = join(home, RESERVE_FILE)
    try {
      // Nothing that a file system could make smaller.
      await writeFile(path, randomBytes(RESERVE_BYTES), { mode: 0o600 })
    } catch {
      await rm(path, { force: true }).catch(() => undefined)
    }
  }

  #giveUpReserve(): void {
    try {
      // At once: who fills a disk may be killed next.
      for (const home of this.#spareHomes()) {
        rmSync(join(home, RESERVE_FILE), { force: true })
        if (home !== this.#home?.path) rmSync(join(home, PROBE_FILE), { force: true })
      }
    } catch {
      // A directory that cannot be changed is not full.
    }
  }

  /** Whoever has no directory yet takes its room from others: one of these may be dead, and only who has one can tell. */
  #spareHomes(): string[] {
    if (this.#home !== undefined) return [this.#home.path]
    return readdirSync(this.root, { withFileTypes: true })
      .filter(entry => entry.isDirectory() && HOME_NAME.test(entry.name))
      .map(({ name }) => join(this.root, name))
  }

  async #makeHome(): Promise<Home> {
    const path = join(this.root, uniqueName('gateway'))
    await mkdir(path, { mode: 0o700 })
    try {
      await this.#sign(path)
      if (this.durability === 'synced') await syncDirectory(this.root)
      const { ino } = await stat(path)
      const journal =
        this.durability === 'relaxed' ? undefined : new Journal(path, this.durability === 'synced')
      return { path, inode: ino, journal }
    } catch (error) {
      await rm(path, { recursive: true, force: true }).catch(() => undefined)
      throw error
    }
  }

  async #sign(home: string): Promise<void> {
    await writeFile(join(home, OWNER_FILE), JSON.stringify(this.self), { mode: 0o600 })
  }

  async #beat({ path }: Home): Promise<void> {
    this.#looks += 1
    if (this.#looks % LOOKS_PER_HEARTBEAT !== 0) return
    const now = new Date()
    await utimes(join(path, OWNER_FILE), now, now).catch(() => this.#sign(path))
  }
}

/** Removes a directory so that nobody ever finds a part of it, which could tell another story than the whole. */
export async function removeDirectory(path: string, within: string): Promise<void> {
  const doomed = join(within, uniqueName('removed'))
  await rename(path, doomed)
  await rm(doomed, { recursive: true, force: true })
}

/** Whether a file in a process's directory is more than what every process has, and what it had begun to write. */
function isEvidence(name: string): boolean {
  const usual = [OWNER_FILE, PROBE_FILE, RESERVE_FILE].includes(name)
  return !usual && !name.endsWith('.tmp') && !SEGMENT.test(name)
}

function uniqueName(kind: string): string {
  return `${kind}-${process.pid}-${randomBytes(8).toString('hex')}`
}

/** Names of replay files; the number is as good as never taken, by whichever process of this number. */
function* pendingNames(): Generator<string> {
  for (let number = Date.now() * 1_000; ; number += 1)
    yield `pending-${process.pid}-${number}.ndjson`
}

function nextName(names: Iterator<string>): string {
  const { value } = names.next()
  return String(value)
}

/** Events of a file: as many as fit into a mebibyte, one at least. */
function* parts<Event extends WrittenEvent>(events: readonly Event[]): Generator<Event[]> {
  let part: Event[] = []
  let bytes = 0
  for (const event of events) {
    const length = Buffer.byteLength(event.data) + 1
    if (part.length > 0 && bytes + length > MAX_LINE_BYTES) {
      yield part
      part = []
      bytes = 0
    }
    part.push(event)
    bytes += length
  }
  if (part.length > 0) yield part
}
