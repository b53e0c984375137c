// CPU time and memory of a process from the kernel's own books (Linux).
import { existsSync, readdirSync, readFileSync } from 'node:fs'

/** Whether this system keeps such books. */
export const KEEPS_BOOKS = existsSync('/proc/self/schedstat')

/** Microseconds that a process's threads have run so far, in user and system mode. */
export function cpuOf(pid: number): number {
  // Read at once: between two turns of a busy loop more would be spent.
  const threads = `/proc/${pid}/task`
  let sum = 0
  for (const thread of readdirSync(threads)) {
    const [ran] = readFileSync(`${threads}/${thread}/schedstat`, 'utf8').split(' ')
    sum += Number(ran) / 1_000
  }
  return sum
}

/** Resident memory in bytes: now, and at its highest since the process started. */
export interface Memory {
  readonly resident: number
  readonly highWater: number
}

/** A process's {@link Memory}. */
export function memoryOf(pid: number): Memory {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const figure = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1])
  return { resident: figure('VmRSS') * 1024, highWater: figure('VmHWM') * 1024 }
}

/** Files that a process of this user may have open. */
export function openFiles(): number {
  return Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1])
}
