// CPU time from the kernel's own books.
import { readdir, readFile } from 'node:fs/promises'

/** Microseconds that a process's threads have run so far, in user and system mode. */
export async function cpuOf(pid: number): Promise<number> {
  const threads = `/proc/${pid}/task`
  let sum = 0
  for (const thread of await readdir(threads)) {
    const [ran] = (await readFile(`${threads}/${thread}/schedstat`, 'utf8')).split(' ')
    sum += Number(ran) / 1_000
  }
  return sum
}
