/**
 * Guarantees that evidence that lies on disk reaches Redis, whoever left it: this process, one that was killed, or
 * another gateway. What is sent was taken by an atomic rename, so that two processes never send the same, and is removed
 * only when all of it is safe.
 */
import { readdir, rm, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import { readEvent, type WrittenEvent } from '../../lib/audit-event.ts'
import type { Line } from '../../lib/lines.ts'
import { loggedReason } from '../../lib/log-error.ts'
import { HOME_NAME, type KeptFile, REMOVED_NAME, type ReplayDirectory } from './directory.ts'
import { appendLines, readLines } from './files.ts'
import { isMissing } from './homes.ts'
import { within } from './queue.ts'
import { Recovery } from './recovery.ts'
import { type BacklogFigures, ReplayFiles } from './replay-files.ts'
import { BATCH, type Sink } from './sink.ts'
import { Troubles } from './troubles.ts'

const LOOK_INTERVAL = 5_000
const IDLE_INTERVAL = 500

/** What {@link Backlog} tells. */
export interface BacklogOptions {
  /** Events were sent from disk. */
  readonly onDrained: (count: number) => void
  /** Events of a journal are in a replay file. */
  readonly onKept: (count: number, file: KeptFile) => void
  /** Lines were torn or garbled, and are set aside. */
  readonly onCorrupt: (count: number) => void
  /** There is nothing to send, and so nothing to find out with whether Redis is back. */
  readonly onIdle: () => void
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

/** What lies on disk and waits for Redis. */
export class Backlog {
  readonly #sink: Sink
  readonly #directory: ReplayDirectory
  readonly #log: FastifyBaseLogger
  readonly #options: BacklogOptions
  readonly #files: ReplayFiles
  readonly #recovery: Recovery
  readonly #troubles: Troubles
  #draining: Draining | undefined
  /** Files that could not be read to their end, and of which Redis has accepted some. */
  #parked: Draining[] = []
  #lookAt = 0
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
    this.#files = new ReplayFiles(directory)
    this.#troubles = new Troubles(log)
    this.#recovery = new Recovery(sink, directory, this.#troubles, log, {
      ...options,
      onFiles: () => {
        this.#lookAt = 0
      },
      setAside: (lines, name) => this.#setAside(lines, name),
    })
  }

  /** Replay files that are there. */
  get size(): number {
    return this.#files.size
  }

  /** For gauges. */
  get figures(): BacklogFigures {
    return this.#files.figures
  }

  /** Begins to send; returns at once. */
  start(): void {
    this.#running = this.#run()
  }

  /** This process has written a replay file. */
  kept(file: KeptFile): void {
    this.#files.add(file)
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
      await this.#recovery.close()
    } catch (error) {
      this.#log.error({ reason: loggedReason(error) }, 'audit evidence waits for the next start')
    }
  }

  /** @returns whether there may be more to do at once */
  async #step(): Promise<boolean> {
    if (performance.now() >= this.#lookAt) await this.#look()
    if (await this.#recovery.step()) return true
    this.#draining ??=
      this.#parked.find(({ name }) => !this.#troubles.has(name)) ?? (await this.#take())
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
    await this.#recovery.claim(directories.filter(name => HOME_NAME.test(name)))
    const files = entries.filter(entry => entry.isFile() && entry.name.endsWith('.ndjson'))
    const taken = [this.#draining, ...this.#parked].flatMap(file => file?.name ?? [])
    await this.#files.found(
      files.map(({ name }) => name),
      startedAt,
      new Set(taken),
    )
    this.#lookAt = performance.now() + LOOK_INTERVAL
  }

  async #take(): Promise<Draining | undefined> {
    const file = await this.#files.take(
      name => this.#troubles.has(name),
      (name, error) => this.#troubles.add(name, error),
    )
    return file && { ...file, lines: undefined, read: 0, rest: [], accepted: 0 }
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
    await closeLines(file)
    this.#files.delete(file.name)
    this.#draining = undefined
    this.#parked = this.#parked.filter(other => other !== file)
    return true
  }

  /** Leaves a file that cannot be read, so that the others do not wait for it. */
  async #setBack(file: Draining, error: unknown): Promise<boolean> {
    this.#troubles.add(file.name, error)
    await closeLines(file)
    if (file.accepted === 0) await this.#giveBack().catch(() => undefined)
    if (this.#draining === undefined) return true
    this.#draining = undefined
    if (!this.#parked.includes(file)) this.#parked.push(file)
    return true
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
    file.lines ??= skip(readLines(file.path), file.read)
    const { value: lines, done } = await file.lines.next()
    if (done === true) return false
    const events: WrittenEvent[] = []
    const corrupt: Line[] = []
    for (const line of lines) {
      const event = line.text === undefined ? undefined : readEvent(line.text)
      if (event !== undefined) events.push(event)
      else corrupt.push(line)
    }
    await this.#setAside(corrupt, file.name)
    file.rest = events
    file.read += lines.length
    return true
  }

  /** Many at a time: each time costs a sync and a line of the log, and a file may hold nothing else. */
  async #setAside(corrupt: readonly Line[], name: string): Promise<void> {
    const lines = corrupt.filter(({ bytes }) => bytes.length > 0)
    if (lines.length === 0) return
    const file = `${name}.corrupt`
    await appendLines(join(this.#directory.root, file), lines)
    this.#options.onCorrupt(lines.length)
    const message = 'audit evidence is torn or garbled, and set aside'
    this.#log.error({ file, lines: lines.length }, message)
  }

  /** Gives back the file that is being sent, less what Redis has accepted of it. */
  async #giveBack(): Promise<void> {
    const file = this.#draining
    if (file === undefined) return
    if (file.accepted === 0) {
      await this.#directory.giveBack(file.path, file.name)
    } else {
      const lines = (file.lines ??= skip(readLines(file.path), file.read))
      await this.#directory.publish(remaining(file.rest, lines))
      await unlink(file.path)
    }
    await closeLines(file)
    this.#draining = undefined
  }

  /** Waits for something to do. */
  async #idle(): Promise<void> {
    await wait(IDLE_INTERVAL, end => {
      this.#wake = end
    })
    this.#wake = undefined
  }

  async #pause(milliseconds: number): Promise<void> {
    if (this.#closing) return
    await wait(milliseconds, end => {
      this.#endPause = end
    })
    this.#endPause = undefined
  }
}

/** Waits so long, or until what `take` is given is called. */
function wait(milliseconds: number, take: (end: () => void) => void): Promise<void> {
  return new Promise(resolve => {
    const timer = setTimeout(resolve, milliseconds).unref()
    take(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}

/** Reading begins anew after that: a generator that failed would say that it is at its end. */
async function closeLines(file: Draining): Promise<void> {
  await file.lines?.return(undefined)
  file.lines = undefined
}

/** Passes over lines that were read before. */
async function* skip(lines: AsyncGenerator<Line[]>, count: number): AsyncGenerator<Line[]> {
  let left = count
  for await (const some of lines) {
    const more = some.slice(left)
    left = Math.max(0, left - some.length)
    if (more.length > 0) yield more
  }
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
