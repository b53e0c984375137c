/**
 * Guarantees that one source of bindings decides, the one that was chosen at the start; without one the STS alone does
 * (contract section 10).
 */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Bindings, BindingSource } from '../lib/bindings.ts'

export type { Binding, Bindings, BindingSource, Enforcement, Operation } from '../lib/bindings.ts'

/** The bindings, and how they get their source. */
export interface BindingsHolder extends Bindings {
  /**
   * Makes this the source of all bindings (contract section 12).
   *
   * @throws Error when there is one already
   */
  use(source: BindingSource): void
}

declare module 'fastify' {
  interface FastifyInstance {
    readonly bindings: BindingsHolder
  }
}

async function bindings(app: FastifyInstance): Promise<void> {
  let source: BindingSource | undefined

  app.decorate('bindings', {
    get configured() {
      return source !== undefined
    },
    use(chosen) {
      if (source !== undefined) {
        throw new Error(
          'there is a source of bindings already: leave out BINDINGS_FILE or DATABASE_URL, or the second source',
        )
      }
      source = chosen
    },
    hasZone: zone => source?.hasZone(zone) === true,
    find: (zone, resource) => source?.find(zone, resource),
    reread: (zone, resource) => source?.reread?.(zone, resource),
    healthy: () => source === undefined || source.healthy(),
    get stale() {
      return source?.stale === true
    },
    get size() {
      return source?.size ?? 0
    },
  } satisfies BindingsHolder)
}

export default fp(bindings, { name: 'bindings', fastify: '5.x' })
