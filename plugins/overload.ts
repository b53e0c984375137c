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
  /** Bytes of resident memory; nine tenths of the container's limit unless told, and without one no bound. */
  readonly maxResidentBytes?: number | undefined
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
/** Share of its time that the event loop is busy, from which on it has none to spare. */
const BUSY = 0.98
/** Of the requests in flight: how many may wait for the gateway itself while its event loop has no time to spare. */
const BUSY_SHARE = 0.25

async function overload(app: FastifyInstance, options: OverloadOptions): Promise<void> {
  const { maxInFlight, maxEventLoopDelay } = options
  const maxPreparing = Math.ceil(maxInFlight * BUSY_SHARE)
  let inFlight = 0
  let preparing = 0

  // It measures; what follows from that is decided here, where health and metrics are not asked.
  await app.register(underPressure, {
    maxEventLoopDelay,
    maxHeapUsedBytes: options.maxHeapBytes ?? getHeapStatistics().heap_size_limit * MEMORY_SHARE,
    maxRssBytes: options.maxResidentBytes ?? containerLimit() * MEMORY_SHARE,
    eventLoopUtilizationMode: 'interval',
    // A sample with fewer than two ticks of the loop counts as an endless delay. In one of this length that takes a
    // delay over the threshold; in a shorter one it would take less.
    sampleInterval: Math.max(500, 2 * maxEventLoopDelay),
    pressureHandler: () => {},
  })

  function full(): boolean {
    if (inFlight >= maxInFlight || app.isUnderPressure()) return true
    // A busy loop is no reason to deny as long as nobody has to wait for it.
    return preparing >= maxPreparing && app.memoryUsage().eventLoopUtilized >= BUSY
  }

  app.decorate('overload', {
    get full() {
      return full()
    },
    get inFlight() {
      return inFlight
    },
    admit(_request, passage) {
      if (full()) throw new Denial('overloaded')
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
function containerLimit(): number {
  const limit = process.constrainedMemory()
  // Without a limit Linux says a number that no machine has.
  return limit < Number.MAX_SAFE_INTEGER ? limit : 0
}

export default fp(overload, { name: 'overload', fastify: '5.x' })
