/**
 * Guarantees that a change of files that are mounted into a running gateway is noticed, however it is made: written in
 * place, renamed over the old one, or swapped by symbolic link as Kubernetes does it.
 */
import { createHash } from 'node:crypto'
import { type FSWatcher, watch } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { dirname } from 'node:path'

// A file that is written in place is read only when it has not changed for so long (milliseconds).
const SETTLE = 100

/** What a file holds now: its text, or why there is none. */
export type FileContent = {
  /** Equal for equal content, and for the same reason why there is none. */
  readonly digest: string
} & (
  | { readonly bytes: Buffer }
  | {
      /** The rest of a sentence that begins with the file's name; no content, no path. */
      readonly unreadable: string
    }
)

/** Reads a whole file, whatever its name leads to. Never rejects. */
export async function contentOf(file: string, maxBytes: number): Promise<FileContent> {
  try {
    const status = await stat(file)
    // A named pipe would never end.
    if (!status.isFile()) return unreadable('is not a regular file')
    if (status.size > maxBytes) return unreadable(`is larger than ${maxBytes} bytes`)
    const bytes = await readFile(file)
    return { digest: createHash('sha256').update(bytes).digest('hex'), bytes }
  } catch (error) {
    return unreadable(`cannot be read (${errorCode(error)})`)
  }
}

function unreadable(reason: string): FileContent {
  return { digest: reason, unreadable: reason }
}

/** Changes whenever one of the files, or what its symbolic links lead to, changes. Never rejects. */
export async function fingerprint(files: readonly string[]): Promise<string> {
  const states = files.map(async file => {
    try {
      const { dev, ino, size, mtimeNs, ctimeNs } = await stat(file, { bigint: true })
      return [dev, ino, size, mtimeNs, ctimeNs].join(' ')
    } catch (error) {
      return errorCode(error)
    }
  })
  return (await Promise.all(states)).join(', ')
}

function errorCode(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : String(error)
}

/** What {@link watchFiles} watches, and whom it tells. */
export interface Watch {
  /** Files that belong together; one at least. */
  readonly files: readonly string[]
  /** Their {@link fingerprint} before they were last judged. */
  readonly judged: string
  /** Milliseconds between two looks beside the watcher's. */
  readonly pollInterval: number
  /** Called when they have changed and settled; resolves to whether they could be read, sound or not. */
  readonly judge: () => Promise<boolean>
  /** Told what keeps a change from being noticed at once. */
  readonly warn: (error: unknown, problem: string) => void
}

/**
 * Judges files when they have changed and settled: at once by their directories' watchers, which see a rename and
 * Kubernetes' exchange of the link `..data` too, and by a poll, which sees what watchers do not (network file systems,
 * links that lead elsewhere, no watches left).
 */
export function watchFiles(options: Watch): { close(): Promise<void> } {
  const { files, pollInterval, judge, warn } = options
  let { judged } = options
  let seen = judged
  let closed = false
  let settling: NodeJS.Timeout | undefined
  let looking: Promise<void> | undefined

  const look = async (): Promise<void> => {
    const now = await fingerprint(files)
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
      .catch((error: unknown) => warn(error, 'could not be looked at'))
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

  const poll = setInterval(() => {
    // A look now would cut short the time to settle.
    if (settling === undefined) lookNow()
  }, pollInterval).unref()
  const watchers = new Set<FSWatcher>()
  for (const directory of new Set(files.map(file => dirname(file)))) {
    try {
      const watcher = watch(directory, { persistent: false }, lookSoon)
      watchers.add(watcher)
      watcher.on('error', error => {
        watcher.close()
        watchers.delete(watcher)
        warn(error, 'cannot be watched, it is polled alone')
      })
    } catch (error) {
      warn(error, 'cannot be watched, it is polled alone')
    }
  }
  return {
    async close() {
      closed = true
      clearInterval(poll)
      clearTimeout(settling)
      for (const watcher of watchers) watcher.close()
      await looking
    },
  }
}
