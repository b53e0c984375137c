// Denies the second use of a token: of all requests with one jti, in the whole fleet, one claims it.
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'

/** Spends token ids. */
export interface ReplayGuard {
  /**
   * True for the first to claim this `jti`, false for everyone after.
   *
   * Rejects when the store cannot answer: the caller can then not know and must not admit.
   *
   * @param requestId kept as the key's value, to find the request that spent the token
   * @param millisecondsLeft until the token's `exp`; the claim is kept that long, at least 1 ms
   */
  claim(jti: string, requestId: string, millisecondsLeft: number): Promise<boolean>
  /** The request that claimed this `jti`; undefined when none has. Claims nothing; rejects as `claim` does. */
  claimedBy(jti: string): Promise<string | undefined>
}

declare module 'fastify' {
  interface FastifyInstance {
    readonly replay: ReplayGuard
  }
}

/** The Redis key of a spent token; the same in every gateway of a mixed fleet (contract section 3). */
function replayKey(jti: string): string {
  return `seen:jti:${jti}`
}

async function replayPlugin(app: FastifyInstance): Promise<void> {
  const guard: ReplayGuard = {
    async claim(jti, requestId, millisecondsLeft) {
      if (jti === '') throw new TypeError('jti must not be empty')
      // Rounded up: a claim must not end before its token does.
      const milliseconds = Math.max(1, Math.ceil(millisecondsLeft))
      if (!Number.isSafeInteger(milliseconds)) {
        throw new TypeError('millisecondsLeft must be a finite number')
      }
      return app.store.claim(replayKey(jti), requestId, milliseconds)
    },
    claimedBy: jti => app.store.claimed(replayKey(jti)),
  }
  app.decorate('replay', guard)
}

export default fp(replayPlugin, { name: 'replay', fastify: '5.x', dependencies: ['store'] })
