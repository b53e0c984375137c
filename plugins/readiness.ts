/**
 * Answers whether the gateway can serve, at once, from state that is refreshed in the background (contract section 1).
 */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'

declare module 'fastify' {
  interface FastifyInstance {
    readiness: Readiness
  }
}

/** Reasons not to be ready, in the order in which they are told (contract section 1). */
export const UNREADY_REASONS = [
  'draining',
  'redis_unreachable',
  'revocation_snapshot_stale',
  'bindings_unavailable',
  'audit_evidence_lost',
  'audit_replay_unavailable',
  'sts_unreachable',
] as const

/** Why the gateway is not ready. */
export type UnreadyReason = (typeof UNREADY_REASONS)[number]

/** The gateway's readiness. */
export interface Readiness {
  /** The first reason not to be ready, or `undefined`. */
  reason(): UnreadyReason | undefined
  /** From now on the gateway is `draining`. */
  drain(): void
}

/**
 * Milliseconds between two looks, and for a look. A look waits for all answers, so that one dependency's state grows as
 * old as two looks and the time between them: below 5 s.
 */
const INTERVAL = 1_500
const LOOK_TIMEOUT = 1_500

async function readiness(app: FastifyInstance): Promise<void> {
  let draining = false
  let redis = false
  let sts = false
  let timer: NodeJS.Timeout | undefined
  let closed = false

  async function look(): Promise<void> {
    await Promise.all([
      answers(app.store.ping(), LOOK_TIMEOUT).then(ok => {
        redis = ok
      }),
      app.sts.healthy(LOOK_TIMEOUT).then(ok => {
        sts = ok
      }),
    ])
    if (!closed) timer = setTimeout(() => void look(), INTERVAL).unref()
  }

  app.decorate('readiness', {
    reason() {
      if (draining) return 'draining'
      if (!redis) return 'redis_unreachable'
      if (!app.revocations.isFresh()) return 'revocation_snapshot_stale'
      if (!app.bindings.healthy()) return 'bindings_unavailable'
      if (app.audit.lost) return 'audit_evidence_lost'
      if (app.audit.replayUnavailable) return 'audit_replay_unavailable'
      return sts ? undefined : 'sts_unreachable'
    },
    drain() {
      draining = true
    },
  } satisfies Readiness)

  app.addHook('onReady', async () => {
    // A probe right after the start is answered from the first look; one that hangs does not hold the start up.
    void look()
  })
  app.addHook('onClose', async () => {
    closed = true
    clearTimeout(timer)
  })
}

async function answers(question: Promise<unknown>, timeout: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<boolean>(resolve => {
    timer = setTimeout(() => resolve(false), timeout)
  })
  const answered = question.then(
    () => true,
    () => false,
  )
  return Promise.race([answered, late]).finally(() => clearTimeout(timer))
}

export default fp(readiness, {
  name: 'readiness',
  fastify: '5.x',
  dependencies: ['store', 'sts', 'revocations', 'bindings', 'audit'],
})
