/**
 * Reads evidence line by line, and writes it so that a file is there whole or not at all.
 */
import { constants } from 'node:fs'
import { type FileHandle, open, rename, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { type Line, LineCutter } from '../../lib/lines.ts'

/** Some of a file. */
export type Part = string | Uint8Array

const CHUNK_BYTES = 256 * 1024
const NEWLINE = Buffer.from('\n')

const { O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants
// What somebody else put into the directory neither leads out of it nor keeps its reader waiting, as a FIFO would.
const READ = O_RDONLY | O_NOFOLLOW | O_NONBLOCK
const APPEND = O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK

/** Makes the names in a directory survive the machine. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

/** Writes a new file, mode 0600, and makes its content survive the machine. */
export async function writeSynced(path: string, lines: Iterable<Part> | AsyncIterable<Part>) {
  const file = await open(path, 'wx', 0o600)
  try {
    for await (const line of lines) await file.writeFile(line)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** Adds lines to a file, which is made, mode 0600, if it is not there. */
export async function appendLines(path: string, lines: readonly Line[]): Promise<void> {
  const file = await open(path, APPEND, 0o600)
  try {
    await file.writeFile(Buffer.concat(lines.flatMap(({ bytes }) => [bytes, NEWLINE])))
    await file.sync()
  } finally {
    await file.close()
  }
}

/**
 * Gives a file a name that nobody else has, in one step for whoever looks.
 *
 * @returns the name that `names` came up with
 */
export async function publish(
  path: string,
  directory: string,
  names: Iterator<string>,
): Promise<string> {
  for (let next = names.next(); !next.done; next = names.next()) {
    const target = join(directory, next.value)
    const reserved = await reserve(target)
    if (!reserved) continue
    try {
      await rename(path, target)
    } catch (error) {
      await unlink(target).catch(() => undefined)
      throw error
    }
    await syncDirectory(directory)
    return next.value
  }
  throw new Error('there is no name left for the file')
}

/** Takes a name by an empty file, unless somebody has it. */
async function reserve(path: string): Promise<boolean> {
  try {
    await (await open(path, 'wx', 0o600)).close()
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  }
}

/** The lines of a file, many at a time; one that has no newline comes last. */
export async function* readLines(path: string): AsyncGenerator<Line[]> {
  const file = await open(path, READ)
  try {
    yield* linesOf(file)
  } finally {
    await file.close()
  }
}

async function* linesOf(file: FileHandle): AsyncGenerator<Line[]> {
  const cutter = new LineCutter()
  for (;;) {
    // A chunk of its own each time: what is handed out stays.
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(CHUNK_BYTES), 0, CHUNK_BYTES)
    if (bytesRead === 0) break
    const lines = cutter.push(buffer.subarray(0, bytesRead))
    if (lines.length > 0) yield lines
  }
  const last = cutter.end()
  if (last !== undefined) yield [last]
}
