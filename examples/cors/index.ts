// Lets browsers of chosen origins call: answers their preflights, and lets them read answers and refusals.
import cors from '@fastify/cors'
import type { FastifyInstance } from 'fastify'

/** Origins: `CORS_ORIGINS`, separated by commas. */
const origins = (process.env['CORS_ORIGINS'] ?? '').split(',').filter(origin => origin !== '')

/** Headers of the gateway that a script may read. */
const EXPOSED = 'X-Request-Id, X-Caracal-Dispatched, X-Caracal-Token-Expires-In, Retry-After'

export default async function browserCors(app: FastifyInstance): Promise<void> {
  if (origins.length === 0) throw new Error('CORS_ORIGINS must name an origin')
  // A preflight carries no mandate. It is answered by routes of this plugin's own, which pass no check and reach nothing;
  // what follows it passes every one.
  await app.register(async scope => {
    await scope.register(cors, {
      origin: origins,
      methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
      allowedHeaders: ['Authorization', 'Content-Type', 'X-Caracal-Resource', 'X-Request-Id'],
      maxAge: 600,
    })
  })
  // In `onSend`, so that a script can read why it was refused, too.
  app.addHook('onSend', async (request, reply) => {
    const { origin } = request.headers
    void reply.header('vary', 'Origin')
    if (origin === undefined || !origins.includes(origin)) return
    void reply.header('access-control-allow-origin', origin)
    void reply.header('access-control-expose-headers', EXPOSED)
  })
}
