/**
 * The gateway's own endpoints: `/health`, `/ready`, `/metrics`, `/metrics.json` and the revocation reload
 * (contract section 1). They pass none of the checks and touch no dependency but what they report on.
 */
import type {
  FastifyInstance,
  FastifyReply,
  FastifyRequest,
  onRequestAsyncHookHandler,
  RouteHandlerMethod,
} from 'fastify'
import { Denial } from '../denial.ts'
import { bearerToken } from '../lib/bearer.ts'
import { PROXIED_METHODS } from '../lib/methods.ts'
import { secretsEqual } from '../lib/secret-compare.ts'

/** Options of the operator endpoints. */
export interface OperatorOptions {
  /** Guards the metrics; without it they are open only when `metricsOpen`. */
  readonly metricsBearer?: string | undefined
  readonly metricsOpen: boolean
  /** Guards the revocation reload; without it nobody may. */
  readonly adminToken?: string | undefined
}

const READ_METHODS = ['GET', 'HEAD']

/** Registers the operator endpoints. */
export async function operator(app: FastifyInstance, options: OperatorOptions): Promise<void> {
  // No body says anything here, whatever it is.
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, _payload, done) => done(null))

  own('/health', async () => ({ ok: true }))

  own('/ready', async (_request, reply) => {
    const reason = app.service.reason()
    if (reason === undefined) return { ok: true, ready: true }
    return unready(reply, reason)
  })

  own(
    '/metrics',
    async (request, reply) => {
      const { type, body } = await app.meters.text(
        request.headers.accept,
        await app.service.figures(),
      )
      void reply.type(type)
      return body
    },
    [guardMetrics],
  )

  own('/metrics.json', async () => app.meters.flat(await app.service.figures()), [guardMetrics])

  app.post('/internal/revocations/reload', {
    // Before the body is looked at: nothing may tell this endpoint from one that does not exist.
    onRequest: async (request, reply) => {
      const { adminToken } = options
      if (adminToken !== undefined && holds(request, adminToken)) {
        // Fastify refuses by itself one that it cannot read.
        delete request.raw.headers['content-type']
        return
      }
      return reply.code(404).send({ error: 'not_found' })
    },
    handler: async (request, reply) => {
      try {
        return { ok: true, revocations: await app.service.reload() }
      } catch (error) {
        request.log.warn({ err: error }, 'revocation reload failed')
        return unready(reply, 'revocation_reload_failed')
      }
    },
  })

  /** An endpoint that answers `GET` and `HEAD`, and 405 to every other method. */
  function own(
    url: string,
    handler: RouteHandlerMethod,
    onRequest: onRequestAsyncHookHandler[] = [],
  ): void {
    app.route({ method: READ_METHODS, url, onRequest, handler })
    app.route({
      method: PROXIED_METHODS.filter(method => !READ_METHODS.includes(method)),
      url,
      onRequest() {
        throw new Denial('method_not_allowed', { headers: { allow: READ_METHODS.join(', ') } })
      },
      handler,
    })
  }

  async function guardMetrics(request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
    const { metricsBearer, metricsOpen } = options
    if (metricsBearer === undefined ? metricsOpen : holds(request, metricsBearer)) return
    return reply
      .code(401)
      .header('www-authenticate', 'Bearer realm="caracal"')
      .send({ error: 'invalid_token', error_description: 'metrics bearer needed' })
  }
}

function holds(request: FastifyRequest, secret: string): boolean {
  const given = bearerToken(request.headers.authorization)
  return given !== undefined && secretsEqual(given, secret)
}

function unready(reply: FastifyReply, reason: string): FastifyReply {
  return reply.code(503).send({ ok: false, ready: false, reason })
}
