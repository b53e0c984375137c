/**
 * The one scope that holds every proxied route: whatever is registered here has passed all checks, in order.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type CheckOptions, exchangeChecks, intend, requestChecks, spend } from '../hooks/index.ts'
import { CallerGone } from '../lib/upstream-call.ts'
import type { NamedPlugin } from '../loader.ts'
import { awaitBody } from '../plugins/extension.ts'
import { type Check, hook, Passage } from '../plugins/passage.ts'
import { extend, heldPayload, Routes, sendRewritten, stillWanted } from './extended.ts'
import { type ProxyOptions, proxy } from './proxy.ts'

/** Options of the scope. */
export interface GuardedOptions extends CheckOptions, ProxyOptions {
  /** Plugins of teams, in order. */
  readonly plugins: readonly NamedPlugin[]
}

/** Registers the checks and, behind them, plugins and the proxied routes. */
export async function guarded(app: FastifyInstance, options: GuardedOptions): Promise<void> {
  const { plugins } = options
  const routes = new Routes()
  const extended = plugins.length > 0
  const { settle } = app.evidence
  const handle = (check: Check) => hook(check, settle, routes.isOpen)

  app.addHook('onRequest', (request, reply, done) => {
    if (!routes.isOpen(request)) begin(app, routes, request, reply)
    done()
  })
  await app.tracing?.attend(app)
  for (const { run } of requestChecks(app, options)) app.addHook('onRequest', handle(run))

  // Bodies are the upstream's: they stay on the raw request, unread. Fastify refuses by itself a Content-Type that it
  // cannot read (415). It does not get to see any, and what comes after its parsing sees the caller's again.
  app.addContentTypeParser('*', (_request, _payload, done) => done(null))
  const contentTypes = new WeakMap<FastifyRequest, string>()
  app.addHook('preParsing', (request, _reply, _payload, done) => {
    const { passage, raw } = request
    const contentType = raw.headers['content-type']
    if (passage === null || passage.own) heldPayload(request, done)
    else {
      if (contentType !== undefined) {
        contentTypes.set(request, contentType)
        delete raw.headers['content-type']
      }
      done()
    }
  })
  app.addHook('preValidation', (request, _reply, done) => {
    const contentType = contentTypes.get(request)
    if (contentType !== undefined) request.raw.headers['content-type'] = contentType
    done()
  })

  // An answer that waits behind others of its connection must not keep a place from other callers.
  app.addHook('onSend', (request, _reply, _payload, done) => {
    if (request.passage !== null) app.overload.release(request.passage)
    done()
  })

  if (extended) app.addHook('preHandler', stillWanted)
  app.addHook('preHandler', handle(spend(app, options)))
  for (const check of exchangeChecks(app)) {
    app.addHook('preHandler', handle(extended ? unlessOwn(check) : check))
  }
  if (extended) {
    await extend(app, plugins, routes)
    app.addHook('preHandler', handle(awaitBody))
    app.addHook('onSend', sendRewritten(app))
  }
  const last = intend(app)
  app.addHook('preHandler', handle(extended ? unlessOwn(last) : last))
  await app.register(proxy, options)
}

/** A check that concerns proxied requests alone. */
function unlessOwn(check: Check): Check {
  return (request, passage, reply) => (passage.own ? undefined : check(request, passage, reply))
}

/** Opens a request's passage, and sees to it that it is settled whatever becomes of the request. */
function begin(
  app: FastifyInstance,
  routes: Routes,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  const passage = new Passage()
  passage.own = routes.passedBy(request) !== undefined
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
