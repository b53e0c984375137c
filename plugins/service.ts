/**
 * Answers for the service as a whole: for this gateway, which it is by itself, or for all the workers of which this is one.
 */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Family } from '../lib/metric-families.ts'
import type { UnreadyReason } from './readiness.ts'

declare module 'fastify' {
  interface FastifyInstance {
    service: Service
  }
}

/** All the workers of a service, as one of them sees them. */
export interface Workers {
  /** The first reason why the service is not ready; of this gateway alone, `own`, when nobody has told of late. */
  reason(own: UnreadyReason | undefined): UnreadyReason | undefined
  /** The metrics of all. @throws Error when the supervisor does not answer */
  figures(): Promise<readonly Family[]>
  /** Has all read the revocations again. @returns how many there are @throws Error when one cannot */
  reload(): Promise<number>
  /** Takes this gateway's metrics for good: it ends. */
  goodbye(figures: readonly Family[]): Promise<void>
}

/** The service that this gateway belongs to. */
export interface Service {
  /** The first reason not to be ready, or `undefined`. */
  reason(): UnreadyReason | undefined
  /** The metrics of all its workers; `undefined` when there is this gateway alone. @throws Error when they are not to be had */
  figures(): Promise<readonly Family[] | undefined>
  /** Reads the revocations again. @returns how many there are @throws Error when it fails */
  reload(): Promise<number>
  /** From now on this gateway is one of several. */
  join(workers: Workers): void
}

async function service(app: FastifyInstance): Promise<void> {
  let workers: Workers | undefined
  app.decorate('service', {
    reason() {
      const own = app.readiness.reason()
      return workers === undefined ? own : workers.reason(own)
    },
    figures: async () => workers?.figures(),
    reload: async () => (workers ?? app.revocations).reload(),
    join(others) {
      workers = others
    },
  } satisfies Service)
  // Behind all that still counts while it closes, and before the registry is cleared.
  app.addHook('onClose', async () => {
    await workers?.goodbye(await app.meters.registry.getMetricsAsJSON())
  })
}

export default fp(service, { name: 'service', fastify: '5.x', dependencies: ['metrics'] })
