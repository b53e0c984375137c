/**
 * Guarantees that what a process left behind is taken over once, by one, and not while the process lives.
 */
import { access, readdir, readFile, rename, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import type { WrittenEvent } from '../../lib/audit-event.ts'
import { JournalReader, readJournalLine } from '../../lib/journal.ts'
import type { Line } from '../../lib/lines.ts'
import { loggedReason } from '../../lib/log-error.ts'
import { HOME_NAME, OWNER_FILE, RELEASED_FILE, type ReplayDirectory } from './directory.ts'
import { readLines } from './files.ts'
import { SEGMENT } from './journal.ts'
import { lives, readOwner } from './owner.ts'

/** Milliseconds without a heartbeat after which a process that cannot be seen from here counts as dead. */
export const SILENCE = 30_000
/** Milliseconds of silence that one look can tell of: whoever was stopped meanwhile, the others may have been too. */
const LONGEST_LOOK = 10_000

interface Heartbeat {
  readonly time: number
  /** When that was looked at last. */
  readonly lookedAt: number
  readonly silence: number
}

/** The directories of other processes. */
export class Homes {
  readonly #directory: Pick<ReplayDirectory, 'root' | 'home' | 'self'>
  readonly #now: () => number
  readonly #log: FastifyBaseLogger
  #heartbeats = new Map<string, Heartbeat>()
  readonly #complaints = new Set<string>()

  /** @param now monotonic milliseconds */
  constructor(
    directory: Pick<ReplayDirectory, 'root' | 'home' | 'self'>,
    log: FastifyBaseLogger,
    now: () => number = () => performance.now(),
  ) {
    this.#directory = directory
    this.#log = log
    this.#now = now
  }

  /** Takes over those of `names` whose process is dead. @returns where they are now */
  async claim(names: readonly string[]): Promise<string[]> {
    const { root, home } = this.#directory
    const before = this.#heartbeats
    this.#heartbeats = new Map()
    const claimed: string[] = []
    for (const name of names) {
      if (join(root, name) === home) continue
      try {
        if (!(await this.#isDead(name, before.get(name)))) continue
        await rename(join(root, name), join(home, name))
        claimed.push(join(home, name))
      } catch (error) {
        // Somebody else was faster, or it went by itself.
        if (isMissing(error) || this.#complaints.has(name)) continue
        this.#complaints.add(name)
        const line = { name, reason: loggedReason(error) }
        this.#log.error(line, 'audit evidence of a process that has ended cannot be taken over')
      }
    }
    return claimed
  }

  async #isDead(name: string, before: Heartbeat | undefined): Promise<boolean> {
    const path = join(this.#directory.root, name)
    if (await exists(join(path, RELEASED_FILE))) return true
    const file = join(path, OWNER_FILE)
    const owner = readOwner(await readFile(file, 'utf8').catch(() => ''))
    const alive = owner && (await lives(owner, this.#directory.self))
    if (alive !== undefined) return !alive
    const { mtimeMs: time } = await stat(file).catch(() => stat(path))
    const lookedAt = this.#now()
    const silence =
      before?.time === time
        ? before.silence + Math.min(LONGEST_LOOK, lookedAt - before.lookedAt)
        : 0
    this.#heartbeats.set(name, { time, lookedAt, silence })
    return silence >= SILENCE
  }
}

/** What a directory that was taken over holds. */
export interface Estate {
  /** The events that are due. */
  readonly due: WrittenEvent[]
  /** How many of these are requests that the gateway died over. */
  readonly interrupted: number
  /** Directories that its process had taken over itself. */
  readonly homes: readonly string[]
  /** Replay files that its process was about to send. */
  readonly files: readonly string[]
}

/**
 * Reads what a process left.
 *
 * @param setAside takes lines that are torn or garbled, and the name of what they were in
 */
export async function readHome(
  path: string,
  setAside: (lines: readonly Line[], name: string) => Promise<void>,
): Promise<Estate> {
  const names = await readdir(path)
  const segments = names.flatMap(name => {
    const number = SEGMENT.exec(name)?.[1]
    return number === undefined ? [] : [{ name, number: Number(number) }]
  })
  const journal = new JournalReader()
  for (const { name } of segments.sort((a, b) => a.number - b.number)) {
    for await (const lines of readLines(join(path, name))) {
      const corrupt: Line[] = []
      for (const line of lines) {
        const read = line.text === undefined ? undefined : readJournalLine(line.text)
        if (read !== undefined) journal.read(read)
        else corrupt.push(line)
      }
      await setAside(corrupt, `${basename(path)}-${name}`)
    }
  }
  return {
    due: journal.due,
    interrupted: journal.interrupted,
    homes: names.filter(name => HOME_NAME.test(name)),
    files: names.filter(name => name.endsWith('.ndjson')),
  }
}

/** Whether an error says that there is no such file. */
export function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}
