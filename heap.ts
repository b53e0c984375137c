/**
 * Keeps the process's memory near what it uses, without collecting for it all the time: the pod asks for 256 MiB and
 * scales out at 205 (contract section 15), and V8 takes from a large machine what it finds there.
 *
 * The flags are V8's, and of the whole process: only `server.ts`, which owns it, calls this.
 */
import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/**
 * Bytes of the young generation. A quarter of it makes a scavenge of every few requests, and each of them copies what is
 * under way: half as much CPU again for a request. Four times as much saves nothing and takes 100 MiB.
 */
const YOUNG_BYTES = 16 * 1024 * 1024
const LOOK_INTERVAL = 250
/** Milliseconds after the start: a collection takes a tenth of a second, which would be one more to the start. */
const SETTLE_DELAY = 1_000

/**
 * Before anything else is loaded. By default V8 lets a process on a large machine triple its heap before it collects.
 *
 * The last two are read at each allocation and each sweep of buffers: bodies that were passed on are collected by a
 * scavenge when there are a few MiB of them, and freed at once. V8 would wait for 64 MiB, mark and sweep the whole heap,
 * and free them when another thread finds the time. `test/gateway/streaming.test.ts` holds the gateway to its bound.
 */
export function boundHeap(): void {
  setFlagsFromString('--heap-growing-percent=60')
  setFlagsFromString('--scavenger-max-new-space-capacity-mb=2')
  setFlagsFromString('--no-concurrent-array-buffer-sweeping')
}

/**
 * Once the gateway listens: gives back what the start took, 30 MiB of 120, which a plain collection keeps, and from then on
 * holds the young generation to its size. V8 reads the flag that would bound it at the start of the process alone, and
 * shrinks it when there is little to do.
 */
export function settleHeap(): void {
  setTimeout(collect, SETTLE_DELAY).unref()
  setInterval(() => {
    const young = getHeapSpaceStatistics().find(space => space.space_name === 'new_space')
    const factor = (young?.space_size ?? 0) < YOUNG_BYTES ? 2 : 1
    setFlagsFromString(`--semi-space-growth-factor=${factor}`)
  }, LOOK_INTERVAL).unref()
}

function collect(): void {
  setFlagsFromString('--expose-gc')
  const gc: unknown = runInNewContext('gc')
  if (typeof gc === 'function') gc({ execution: 'sync', flavor: 'last-resort' })
}
