// Lists what waits in AUDIT_REPLAY_DIR, or sends it as a gateway would: taken by a rename, removed once Redis has all of it.

import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { loadEvidenceConfig, loadReplayDirectory } from '../config.ts'
import { readEvent } from '../lib/audit-event.ts'
import { formatDuration, parseDuration } from '../lib/duration.ts'
import { hmacKey } from '../lib/stream-signature.ts'
import { Backlog } from '../plugins/audit/backlog.ts'
import {
  HOME_NAME,
  OWNER_FILE,
  RELEASED_FILE,
  ReplayDirectory,
} from '../plugins/audit/directory.ts'
import { readLines } from '../plugins/audit/files.ts'
import { isMissing, SILENCE } from '../plugins/audit/homes.ts'
import { lives, readOwner, thisProcess } from '../plugins/audit/owner.ts'
import { Sink } from '../plugins/audit/sink.ts'
import { type Run, UsageError } from './command.ts'
import { columns, printable, printJson, printLine, toned } from './output.ts'
import { connect, silent } from './store.ts'

interface Options {
  readonly dir?: string | undefined
  readonly timeout?: string | undefined
  readonly json?: boolean | undefined
}

/** What lies in the directory. */
export interface ReplayListing {
  readonly directory: string
  readonly files: readonly ReplayFile[]
  readonly processes: readonly ReplayProcess[]
}

/** A replay file, or one of lines that were set aside. */
export interface ReplayFile {
  readonly name: string
  readonly kind: 'events' | 'corrupt'
  /** Lines that hold an event. */
  readonly events: number
  readonly bytes: number
  /** Since it was last written to. */
  readonly age_seconds: number
}

/** The directory of a process. */
export interface ReplayProcess {
  readonly name: string
  readonly state: 'alive' | 'ended'
}

/** What is under way at the end of a drain waits this long for what may follow. */
const LOOK = 100

/** `caracal-gateway replay`. */
export const replay: Run<Options> = async (values, env, operand) => {
  if (operand === 'ls') {
    if (values.timeout !== undefined) throw new UsageError('--timeout is for drain')
    return list(values, env)
  }
  return drain(values, env)
}

async function list(values: Options, env: NodeJS.ProcessEnv): Promise<number> {
  const directory = needed(values.dir ?? loadReplayDirectory(env))
  const listing = await read(directory)
  if (values.json) printJson(listing)
  else for (const line of report(listing)) printLine(line)
  return 0
}

function needed(directory: string | undefined): string {
  if (directory !== undefined) return directory
  throw new Error('there is no replay directory: set AUDIT_REPLAY_DIR, or name one with --dir')
}

async function read(directory: string): Promise<ReplayListing> {
  const files: ReplayFile[] = []
  const processes: ReplayProcess[] = []
  const self = await thisProcess()
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const { name } = entry
    const path = join(directory, name)
    try {
      if (entry.isDirectory() && HOME_NAME.test(name)) {
        processes.push({ name, state: (await isAlive(path, self)) ? 'alive' : 'ended' })
      } else if (entry.isFile() && /\.(?:ndjson|corrupt)$/.test(name)) {
        files.push(await fileOf(path, name))
      }
    } catch (error) {
      // Sent or taken in the meantime.
      if (!isMissing(error)) throw error
    }
  }
  files.sort(
    (one, other) => other.age_seconds - one.age_seconds || (one.name < other.name ? -1 : 1),
  )
  return { directory, files, processes }
}

async function fileOf(path: string, name: string): Promise<ReplayFile> {
  const { size, mtimeMs } = await stat(path)
  let events = 0
  for await (const lines of readLines(path)) {
    for (const { text } of lines) if (text !== undefined && readEvent(text)) events += 1
  }
  return {
    name,
    kind: name.endsWith('.ndjson') ? 'events' : 'corrupt',
    events,
    bytes: size,
    age_seconds: Math.max(0, Math.round((Date.now() - mtimeMs) / 1_000)),
  }
}

async function isAlive(path: string, self: Awaited<ReturnType<typeof thisProcess>>) {
  const released = await stat(join(path, RELEASED_FILE)).catch(() => undefined)
  if (released !== undefined) return false
  const file = join(path, OWNER_FILE)
  const owner = readOwner(await readFile(file, 'utf8').catch(() => ''))
  const seen = owner && (await lives(owner, self))
  if (seen !== undefined) return seen
  const { mtimeMs } = await stat(file).catch(() => stat(path))
  return Date.now() - mtimeMs < SILENCE
}

function report({ directory, files, processes }: ReplayListing): string[] {
  const rows = files.map(({ name, kind, events, bytes, age_seconds: age }) => [
    printable(name),
    kind,
    `${events} events`,
    `${bytes} bytes`,
    formatDuration(age * 1_000),
  ])
  const events = files.reduce((sum, file) => sum + (file.kind === 'events' ? file.events : 0), 0)
  return [
    ...columns(rows),
    ...columns(processes.map(({ name, state }) => [printable(name), `process ${state}`])),
    toned('quiet', `${events} events wait in ${printable(directory)}`),
  ]
}

async function drain(values: Options, env: NodeJS.ProcessEnv): Promise<number> {
  const timeout = parseDuration(values.timeout ?? '1m')
  if (timeout === undefined || timeout <= 0) {
    throw new UsageError('--timeout must be a duration such as 30s or 5m')
  }
  const config = loadEvidenceConfig(env)
  const path = needed(values.dir ?? config.auditReplayDir)
  // A directory that is not there holds nothing, and is not to be made.
  await readdir(path)
  const deadline = performance.now() + timeout
  const log = silent()
  const store = await connect(config, log)
  const key = config.auditHmacKey
  const sink = new Sink(store, key && hmacKey('AUDIT_HMAC_KEY', key.reveal()), log, () => undefined)
  const directory = new ReplayDirectory(path, 'relaxed', log)
  let sent = 0
  let corrupt = 0
  const progress = { idle: false }
  const backlog = new Backlog(sink, directory, log, {
    onKept: (_count, file) => backlog.kept(file),
    onDrained: count => {
      sent += count
    },
    onCorrupt: count => {
      corrupt += count
    },
    onIdle: () => {
      progress.idle = true
    },
  })
  try {
    await directory.open()
    if (!directory.usable)
      throw new Error('the replay directory cannot be used: may it be written?')
    backlog.start()
    // Idle while files are left: they were written a moment ago, maybe not to their end, or cannot be read.
    while (performance.now() < deadline && !(progress.idle && backlog.size === 0)) await pause(LOOK)
  } finally {
    await backlog.close(performance.now() + 5_000)
    await directory.close()
    store.close()
  }
  const { files, processes } = await read(path)
  const left = files.filter(({ kind }) => kind === 'events').length
  const ended = processes.filter(({ state }) => state === 'ended').length
  if (values.json) printJson({ directory: path, sent, corrupt, left, ended })
  else {
    const torn = corrupt === 0 ? '' : `, ${corrupt} lines torn or garbled and set aside`
    printLine(`${sent} events sent${torn}; ${left} files and ${ended} ended processes are left`)
  }
  return left === 0 && ended === 0 ? 0 : 1
}
