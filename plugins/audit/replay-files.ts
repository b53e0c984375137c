/**
 * Knows the replay files of the directory, oldest first, without asking the disk about one twice.
 */
import { rename, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { KeptFile, ReplayDirectory } from './directory.ts'
import { isMissing } from './homes.ts'

/** Milliseconds for which a file of somebody else's has not changed before it counts as whole. */
const SETTLE_TIME = 2_000

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

/** The files `*.ndjson` of the directory, and those of them that this process has taken. */
export class ReplayFiles {
  readonly #directory: ReplayDirectory
  #files = new Map<string, ReplayFile>()

  constructor(directory: ReplayDirectory) {
    this.#directory = directory
  }

  get size(): number {
    return this.#files.size
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

  /** This process has written one. */
  add({ name, bytes }: KeptFile): void {
    this.#files.set(name, { bytes, modifiedAt: Date.now(), own: true })
  }

  /** One is there no more. */
  delete(name: string): void {
    this.#files.delete(name)
  }

  /**
   * Takes note of what a look has found.
   *
   * @param startedAt Unix milliseconds: what this process wrote later may not be among `names`
   * @param taken names that are not in the directory because this process has taken them
   */
  async found(
    names: readonly string[],
    startedAt: number,
    taken: ReadonlySet<string>,
  ): Promise<void> {
    const files: [string, ReplayFile][] = []
    for (const name of names) {
      const file = this.#files.get(name) ?? (await this.#stat(name))
      if (file !== undefined) files.push([name, file])
    }
    const listed = new Set(names)
    for (const [name, file] of this.#files) {
      const isNew = file.own && file.modifiedAt >= startedAt
      if (!listed.has(name) && (isNew || taken.has(name))) files.push([name, file])
    }
    files.sort(([a, one], [b, other]) => one.modifiedAt - other.modifiedAt || (a < b ? -1 : 1))
    this.#files = new Map(files)
  }

  /**
   * Takes the oldest that is whole into this process's own directory, by a rename: nobody else has it then.
   *
   * @param passOver names that are left alone for now
   * @param onError a file could not be taken
   */
  async take(
    passOver: (name: string) => boolean,
    onError: (name: string, error: unknown) => void,
  ): Promise<{ name: string; path: string } | undefined> {
    const { root, home } = this.#directory
    for (const [name, { own }] of this.#files) {
      if (passOver(name)) continue
      try {
        if (!own && !(await this.#isWhole(name))) continue
        const path = join(home, name)
        await rename(join(root, name), path)
        return { name, path }
      } catch (error) {
        if (isMissing(error)) this.#files.delete(name)
        else onError(name, error)
      }
    }
    return undefined
  }

  async #isWhole(name: string): Promise<boolean> {
    const file = await this.#stat(name)
    if (file === undefined) {
      this.#files.delete(name)
      return false
    }
    this.#files.set(name, file)
    return Math.abs(Date.now() - file.modifiedAt) >= SETTLE_TIME
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
}
