// Bounds how often each client may call, whatever mandates it brings.
import rateLimit from '@fastify/rate-limit'
import { Denial } from 'caracal-gateway'
import type { FastifyInstance } from 'fastify'

/** Calls that a client may make in a minute: `RATE_LIMIT` (100). */
const max = Number(process.env['RATE_LIMIT'] ?? 100)

export default async function clientRateLimit(app: FastifyInstance): Promise<void> {
  await app.register(rateLimit, {
    // Not by route: the hook below runs behind the checks, where the client is known.
    global: false,
  })
  app.addHook(
    'onRequest',
    app.rateLimit({
      max,
      timeWindow: '1 minute',
      keyGenerator: ({ mandate }) => JSON.stringify([mandate.zoneId, mandate.clientId]),
      errorResponseBuilder: (_request, { after }) =>
        new Denial({
          check: 'client_rate',
          status: 429,
          error: 'rate_limited',
          description: `too many calls of this client, try again in ${after}`,
        }),
    }),
  )
}
