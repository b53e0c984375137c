// Lets a test move a gateway's steady clock, so that nobody waits for what takes minutes.
import { rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Cleanup } from '../redis.ts'
import { temporaryDirectory } from './support.ts'

/** The steady clock (`performance.now`) of every gateway that is started with {@link MovableClock.env}. */
export interface MovableClock {
  readonly env: Readonly<Record<string, string>>
  /** Moves the clock ahead, in milliseconds; whoever looks at it afterwards sees it. */
  advance(milliseconds: number): Promise<void>
}

/** Makes a clock that stands right until it is moved. */
export async function movableClock(t: Cleanup): Promise<MovableClock> {
  const file = join(await temporaryDirectory(t), 'ahead')
  let ahead = 0
  async function advance(milliseconds: number): Promise<void> {
    ahead += milliseconds
    // A file that is written in place is empty for a moment.
    await writeFile(`${file}.new`, String(ahead))
    await rename(`${file}.new`, file)
  }
  await advance(0)
  const preload = new URL('./moved-clock.ts', import.meta.url).href
  return { env: { MOVED_CLOCK: file, NODE_OPTIONS: `--import=${preload}` }, advance }
}
