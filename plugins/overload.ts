/**
 * Denies what the process could not serve in time, before any work is done for it.
 */
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
}

declare module 'fastify' {
  interface FastifyInstance {
    overload: Overload
  }
}

/** How much the gateway has taken on. */
export interface Overload {
  /** Denies a request beyond what the gateway can carry, and counts the one that it takes. */
  admit: Check
  /** Gives a request's place free; a second call does nothing. */
  release(passage: Passage): void
  /** Requests without response headers. */
  readonly inFlight: number
}

async function overload(app: FastifyInstance, options: OverloadOptions): Promise<void> {
  const admitted = new WeakSet<Passage>()
  let inFlight = 0

  // Without a threshold of its own the plugin only measures; whether that denies is decided in `admit`.
  await app.register(underPressure, {
    maxEventLoopDelay: options.maxEventLoopDelay,
    // A sample with fewer than two ticks of the loop counts as an endless delay. In one of this length that takes a
    // delay over the threshold; in a shorter one it would take less.
    sampleInterval: Math.max(500, 2 * options.maxEventLoopDelay),
    pressureHandler: () => {},
  })

  app.decorate('overload', {
    get inFlight() {
      return inFlight
    },
    admit(_request, passage) {
      if (inFlight >= options.maxInFlight || app.isUnderPressure()) throw new Denial('overloaded')
      inFlight += 1
      admitted.add(passage)
    },
    release(passage) {
      if (admitted.delete(passage)) inFlight -= 1
    },
  } satisfies Overload)
}

export default fp(overload, { name: 'overload', fastify: '5.x' })
