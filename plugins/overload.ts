/**
 * Denies what the process could not serve in time, before any work is done for it.
 */
import { getHeapStatistics } from 'node:v8'
import underPressure from '@fastify/under-pressure'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { Denial } from '../denial.ts'
import type { Check, Passage } from './passage.ts'

/** Options of the overload plugin. */
export interface OverloadOptions {
  /** Requests without response headers. */
  readonly maxInFlight: number
  /** Milliseconds. */
  readonly maxEventLoopDelay: number
  /** Bytes of V8's heap in use; nine tenths of what V8 allows itself unless told. */
  readonly maxHeapBytes?: number | undefined
  /**
   * Bytes of resident memory; nine tenths of this process's part of the container's limit unless told, and without a
   * limit no bound.
   */
  readonly maxResidentBytes?: number | undefined
  /** Processes like this one in the container; 1 unless told. */
  readonly workers?: number | undefined
}

declare module 'fastify' {
  interface FastifyInstance {
    overload: Overload
  }
}

/** How much the gateway has taken on. */
export interface Overload {
  /** Whether the next request is denied. */
  readonly full: boolean
  /** Takes note of a request that was denied: floods are told of once a second, and why. */
  denied(): void
  /** Denies a request beyond what the gateway can carry, and counts the one that it takes. */
  admit: Check
  /** The gateway's own part of a request's way is done: what it waits for now is the upstream. */
  dispatched(passage: Passage): void
  /** Gives a request's place free; a second call does nothing. */
  release(passage: Passage): void
  /** Requests without response headers. */
  readonly inFlight: number
}

/** Of a limit of memory: what is left is for the requests that were admitted already. */
const MEMORY_SHARE = 0.9
/** Resident memory of the supervisor of several workers. */
const SUPERVISOR_BYTES = 80 * 1024 * 1024
/** Share of its time that the event loop is busy, from which on it has none to spare. */
const BUSY = 0.98
/** Of the requests in flight: how many may wait for the gateway itself while its event loop has no time to spare. */
const BUSY_SHARE = 0.5
/** However few may be in flight: what even a busy loop gets through at once. */
const BUSY_LEAST = 16
/** Looks in a row, and milliseconds between them: a burst is no overload, and neither is the start. */
const BUSY_LOOKS = 8
const BUSY_INTERVAL = 250
/** Milliseconds between two lines of the log. */
const LOG_INTERVAL = 1_000

/** Why requests are denied. */
type Cause = 'requests in flight' | 'busy event loop' | 'late event loop, or memory'

async function overload(app: FastifyInstance, options: OverloadOptions): Promise<void> {
  const { maxInFlight, maxEventLoopDelay } = options
  const maxPreparing = Math.max(BUSY_LEAST, Math.ceil(maxInFlight * BUSY_SHARE))
  let inFlight = 0
  let preparing = 0

  // It measures; what follows from that is decided here, where health and metrics are not asked.
  await app.register(underPressure, {
    maxEventLoopDelay,
    maxHeapUsedBytes: options.maxHeapBytes ?? getHeapStatistics().heap_size_limit * MEMORY_SHARE,
    maxRssBytes: options.maxResidentBytes ?? memoryLimit(options.workers) * MEMORY_SHARE,
    // A sample with fewer than two ticks of the loop counts as an endless delay. In one of this length that takes a
    // delay over the threshold; in a shorter one it would take less.
    sampleInterval: Math.max(500, 2 * maxEventLoopDelay),
    pressureHandler: () => {},
  })

  // Looked at more often than under-pressure's samples allow: a queue grows by the capacity of as much time.
  let busy = 0
  let last = performance.eventLoopUtilization()
  const look = setInterval(() => {
    const now = performance.eventLoopUtilization()
    busy = performance.eventLoopUtilization(now, last).utilization >= BUSY ? busy + 1 : 0
    last = now
  }, BUSY_INTERVAL).unref()

  function cause(): Cause | undefined {
    if (inFlight >= maxInFlight) return 'requests in flight'
    // A busy loop is no reason to deny as long as nobody has to wait long for it.
    if (busy >= BUSY_LOOKS && preparing >= maxPreparing) return 'busy event loop'
    return app.isUnderPressure() ? 'late event loop, or memory' : undefined
  }

  let denials = 0
  let log: NodeJS.Timeout | undefined
  function tell(): void {
    if (denials === 0) {
      clearInterval(log)
      log = undefined
      return
    }
    app.log.warn(
      { check: 'overloaded', count: denials, cause: cause(), inFlight },
      'requests denied',
    )
    denials = 0
  }
  function denied(): void {
    denials += 1
    if (log !== undefined) return
    log = setInterval(tell, LOG_INTERVAL).unref()
    tell()
  }

  app.addHook('onClose', async () => {
    clearInterval(look)
    tell()
    clearInterval(log)
  })

  app.decorate('overload', {
    get full() {
      return cause() !== undefined
    },
    get inFlight() {
      return inFlight
    },
    denied,
    admit(_request, passage) {
      if (cause() !== undefined) {
        denied()
        throw new Denial('overloaded')
      }
      passage.place = 'preparing'
      inFlight += 1
      preparing += 1
    },
    dispatched(passage) {
      if (passage.place !== 'preparing') return
      passage.place = 'dispatched'
      preparing -= 1
    },
    release(passage) {
      if (passage.place === undefined) return
      if (passage.place === 'preparing') preparing -= 1
      passage.place = undefined
      inFlight -= 1
    },
  } satisfies Overload)
}

/** Bytes of memory that the process may take; 0 when nothing but the machine bounds it. */
function memoryLimit(workers = 1): number {
  const limit = process.constrainedMemory()
  // Without a limit Linux says a number that no machine has.
  if (limit >= Number.MAX_SAFE_INTEGER) return 0
  return workers === 1 ? limit : Math.max(1, (limit - SUPERVISOR_BYTES) / workers)
}

export default fp(overload, { name: 'overload', fastify: '5.x' })
