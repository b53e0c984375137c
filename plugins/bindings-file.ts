/**
 * Holds the bindings of `BINDINGS_FILE`: one whole, valid set at any time. A file that turns
 * invalid, unreadable or absent leaves the last good set serving (contract section 10).
 */

import { createHash } from 'node:crypto'
import { watch } from 'node:fs'
import type { FSWatcher } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { readBindingsFile } from '../lib/bindings-file.ts'
import type { BindingSet } from '../lib/bindings.ts'

/** Options of the plugin. */
export interface BindingsFileOptions {
  /** Path of the YAML or JSON file. */
  readonly file: string
  /**
   * Called whenever the file came to say something else: `true` when the new set serves, `false`
   * when it is not valid and the old one goes on serving.
   */
  readonly onReload?: ((ok: boolean) => void) | undefined
  /** Milliseconds between two looks at the file beside the watcher's; default 2000. */
  readonly pollInterval?: number | undefined
}

/** A bindings file that cannot serve, with everything that is wrong with it. */
export class BindingsFileError extends Error {
  /** One line each. */
  readonly problems: readonly string[]

  constructor(file: string, problems: readonly string[]) {
    super(`bindings file ${file} is not valid:\n${problems.map(line => `- ${line}`).join('\n')}`)
    this.name = 'BindingsFileError'
    this.problems = problems
  }
}

const MAX_BYTES = 64 * 1024 * 1024
// A file that is written in place is read only when it has not changed for so long (milliseconds).
const SETTLE = 100

interface Content {
  /** Equal for equal content, and for the same reason why there is none. */
  readonly digest: string
  readonly readable: boolean
  readonly set?: BindingSet
  readonly problems: readonly string[]
}

function errorCode(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : String(error)
}

/** Changes whenever the file, or what its symbolic links lead to, changes. Never rejects. */
async function fingerprint(file: string): Promise<string> {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = await stat(file, { bigint: true })
    return [dev, ino, size, mtimeNs, ctimeNs].join(' ')
  } catch (error) {
    return errorCode(error)
  }
}

function unreadable(reason: string): Content {
  return { digest: reason, readable: false, problems: [`file: ${reason}`] }
}

/** What the file says now; `known` spares the reading of content that is known. Never rejects. */
async function contentOf(file: string, known: string | undefined): Promise<Content> {
  try {
    const status = await stat(file)
    // A named pipe would never end.
    if (!status.isFile()) return unreadable('is not a regular file')
    if (status.size > MAX_BYTES) return unreadable(`is larger than ${MAX_BYTES} bytes`)
    const bytes = await readFile(file)
    const digest = createHash('sha256').update(bytes).digest('hex')
    if (digest === known) return { digest, readable: true, problems: [] }
    let text: string
    try {
      text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    } catch {
      return { digest, readable: true, problems: ['file: is not valid UTF-8'] }
    }
    const parsed = readBindingsFile(text)
    return parsed.ok
      ? { digest, readable: true, set: parsed.set, problems: [] }
      : { digest, readable: true, problems: parsed.problems }
  } catch (error) {
    return unreadable(`cannot be read (${errorCode(error)})`)
  }
}

/**
 * Calls `judge` when the file has changed and settled: at once by the directory's watcher, which
 * sees a rename and Kubernetes' exchange of the link `..data` too, and by a poll, which sees what
 * watchers do not (network file systems, links that lead elsewhere, no watches left).
 */
function watchFile(
  file: string,
  judged: string,
  pollInterval: number,
  judge: () => Promise<boolean>,
  warn: (error: unknown, message: string) => void,
): { close(): Promise<void> } {
  let seen = judged
  let closed = false
  let settling: NodeJS.Timeout | undefined
  let looking: Promise<void> | undefined
  let watcher: FSWatcher | undefined

  const look = async (): Promise<void> => {
    const now = await fingerprint(file)
    if (now === judged || closed) return
    if (now !== seen) {
      seen = now
      lookSoon()
      return
    }
    // What could not be read is tried again, though nothing about it may change.
    judged = (await judge()) ? now : ''
  }
  const lookNow = (): void => {
    looking ??= look()
      .catch((error: unknown) => warn(error, 'bindings file could not be looked at'))
      .finally(() => {
        looking = undefined
      })
  }
  const lookSoon = (): void => {
    if (closed || settling !== undefined) return
    settling = setTimeout(() => {
      settling = undefined
      lookNow()
    }, SETTLE).unref()
  }
  const unwatched = (error: unknown): void => {
    watcher?.close()
    watcher = undefined
    warn(error, 'bindings file cannot be watched, it is polled alone')
  }

  const poll = setInterval(() => {
    // A look now would cut short the time to settle.
    if (settling === undefined) lookNow()
  }, pollInterval).unref()
  try {
    watcher = watch(dirname(file), { persistent: false }, lookSoon).on('error', unwatched)
  } catch (error) {
    unwatched(error)
  }
  return {
    async close() {
      closed = true
      clearInterval(poll)
      clearTimeout(settling)
      watcher?.close()
      await looking
    },
  }
}

async function bindingsFile(app: FastifyInstance, options: BindingsFileOptions): Promise<void> {
  const { file, onReload, pollInterval = 2000 } = options
  if (!Number.isFinite(pollInterval) || pollInterval <= 0) {
    throw new TypeError('pollInterval must be a positive number of milliseconds')
  }
  if (file === '') throw new TypeError('file must be a path')

  const judged = await fingerprint(file)
  const first = await contentOf(file, undefined)
  if (first.set === undefined) throw new BindingsFileError(file, first.problems)
  let set: BindingSet = first.set
  let good = first.digest
  let latest = first.digest

  app.bindings.use({
    hasZone: zone => set.hasZone(zone),
    find: (zone, resource) => set.find(zone, resource),
    // There is a set from the start on, and none is ever taken away.
    healthy: () => true,
    get stale() {
      return latest !== good
    },
    get size() {
      return set.size
    },
  })

  /** Resolves to whether the file could be read, valid or not. */
  const judge = async (): Promise<boolean> => {
    const { digest, readable, set: next, problems } = await contentOf(file, good)
    if (digest === latest) return readable
    latest = digest
    if (problems.length > 0) {
      app.log.error({ file, problems }, 'bindings file is not valid, the last good set serves')
      onReload?.(false)
      return readable
    }
    set = next ?? set
    good = digest
    app.log.info({ file, bindings: set.size }, 'bindings loaded')
    onReload?.(true)
    return readable
  }

  const watching = watchFile(file, judged, pollInterval, judge, (error, message) => {
    app.log.warn({ file, err: error }, message)
  })
  app.addHook('onClose', () => watching.close())
}

export default fp(bindingsFile, {
  name: 'bindings-file',
  fastify: '5.x',
  dependencies: ['bindings'],
})
