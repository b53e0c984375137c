/**
 * The one scope that holds every proxied route: whatever is registered here has passed all checks, in order.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type CheckOptions, dispatchChecks, requestChecks } from '../hooks/index.ts'
import { CallerGone } from '../lib/upstream-call.ts'
import { hook, Passage, passageOf } from '../plugins/passage.ts'
import { type ProxyOptions, proxy } from './proxy.ts'

/** Registers the checks and, behind them, the proxied routes. */
export async function guarded(
  app: FastifyInstance,
  options: CheckOptions & ProxyOptions,
): Promise<void> {
  // Bodies are the upstream's: they stay on the raw request, unread.
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, _payload, done) => done(null))

  app.addHook('onRequest', (request, reply, done) => {
    begin(app, request, reply)
    done()
  })
  await app.tracing?.attend(app)
  const { settle } = app.evidence
  for (const { run } of requestChecks(app, options)) app.addHook('onRequest', hook(run, settle))

  // Fastify refuses by itself a Content-Type that it cannot read (415). It does not get to see any, and what comes
  // after its parsing sees the caller's again.
  const contentTypes = new WeakMap<FastifyRequest, string>()
  app.addHook('onRequest', (request, _reply, done) => {
    const { headers } = request.raw
    if (headers['content-type'] !== undefined) {
      contentTypes.set(request, headers['content-type'])
      delete headers['content-type']
    }
    done()
  })
  app.addHook('preValidation', (request, _reply, done) => {
    const contentType = contentTypes.get(request)
    if (contentType !== undefined) request.raw.headers['content-type'] = contentType
    done()
  })

  // An answer that waits behind others of its connection must not keep a place from other callers.
  app.addHook('onSend', (request, _reply, _payload, done) => {
    app.overload.release(passageOf(request))
    done()
  })

  for (const check of dispatchChecks(app, options)) app.addHook('preHandler', hook(check, settle))
  await app.register(proxy, options)
}

/** Opens a request's passage, and sees to it that it is settled whatever becomes of the request. */
function begin(app: FastifyInstance, request: FastifyRequest, reply: FastifyReply): void {
  const passage = new Passage()
  request.passage = passage
  app.meters.count('requests')
  app.connections.watch(request)
  reply.raw.once('close', () => {
    passage.closedAt = performance.now()
    app.overload.release(passage)
    if (!reply.raw.writableFinished) passage.call?.abort(new CallerGone())
    const settle = () => app.evidence.settle(request, passage, reply)
    if (passage.revocation === undefined) settle()
    else app.liveRequests.afterwards(settle)
  })
}
