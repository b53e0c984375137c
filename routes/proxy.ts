/**
 * Forwards what passed every check, and holds no policy of its own (contract section 5).
 */
import type { IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { Denial } from '../denial.ts'
import type { ProxyTrust } from '../lib/forwarded.ts'
import { PROXIED_METHODS } from '../lib/methods.ts'
import { KnownBody } from '../lib/held-body.ts'
import {
  awaitsContinue,
  BodyTooLarge,
  type CallerBody,
  hasBody,
  RequestBody,
} from '../lib/request-body.ts'
import { HeadersTimeout, UpstreamCall, type UpstreamRequest } from '../lib/upstream-call.ts'
import { upstreamRequestHeaders, upstreamTarget } from '../lib/upstream-request.ts'
import { UnsafeAddress } from '../plugins/egress.ts'
import { type Passage, passageOf } from '../plugins/passage.ts'
import type { StageUnderWay } from '../plugins/stages.ts'
import { passOn, sendBody } from './pass-on.ts'

/** Options of the proxied routes; times in milliseconds, sizes in bytes. */
export interface ProxyOptions {
  readonly upstreamTimeout: number
  readonly streamIdleTimeout: number
  readonly maxRequestBytes: number
  readonly trust: ProxyTrust
}

/** reply-from wants a source to build a URL from; the call brings its own. */
const NO_SOURCE = '/'

const CATCH_ALL = '/*'

/** The catch-all route; registered in the scope that holds the checks. */
export async function proxy(app: FastifyInstance, options: ProxyOptions): Promise<void> {
  app.route({
    // What a plugin has taken for itself, `OPTIONS` say, is its own to answer.
    method: PROXIED_METHODS.filter(method => !app.hasRoute({ method, url: CATCH_ALL })),
    url: CATCH_ALL,
    handler(request, reply) {
      const passage = passageOf(request)
      // What a revocation or a broken body found between two steps.
      if (passage.interruption !== undefined) throw passage.interruption
      // Gone while a plugin's hook looked at the request.
      if (passage.closed) return reply
      // Begun before the request is built: its span is the parent that the request names.
      const stage = app.stages.begin(passage, 'upstream')
      passage.trace = stage.trace ?? passage.trace
      const upstream = measured(stage, () => buildRequest(request, passage, options))
      if (awaitsContinue(request.raw) && passage.extension?.continued !== true) {
        reply.raw.writeContinue()
      }
      app.meters.count('requests_allowed')
      app.overload.dispatched(passage)
      void reply.from(NO_SOURCE, {
        getUpstream: () => upstream.origin,
        rewriteRequestHeaders: () =>
          app.egress.carry((dispatcher, respond) => {
            passage.call = new UpstreamCall(
              upstream,
              response => {
                stage.end(response.statusCode)
                passOn(app, request, reply, response, respond)
              },
              error => {
                const denial = upstreamDenial(error, passage)
                stage.fail(passage.closed ? error : denial)
                if (!passage.closed) void reply.send(denial)
              },
            )
            passage.call.start(dispatcher)
          }),
        onResponse: () => sendBody(app, request, reply),
      })
      return reply
    },
  })
}

/** Does a part of a stage that ends it when it fails. */
function measured<T>(stage: StageUnderWay, work: () => T): T {
  try {
    return work()
  } catch (error) {
    stage.fail(error)
    throw error
  }
}

function buildRequest(
  request: FastifyRequest,
  passage: Passage,
  options: ProxyOptions,
): UpstreamRequest {
  const { raw, binding } = request
  const { directive, path, target, trace } = passage
  if (
    directive === undefined ||
    path === undefined ||
    target === undefined ||
    trace === undefined
  ) {
    throw new Error('a request reached the proxy without a directive or a trace')
  }
  const input = {
    raw,
    requestId: request.id,
    target,
    path,
    directive,
    preserveEncodedSlash: binding?.preserveEncodedSlash === true,
    trace,
    trust: options.trust,
    added: passage.extension?.headers,
  }
  try {
    return {
      origin: directive.upstream.origin,
      path: upstreamTarget(input),
      method: request.method,
      headers: upstreamRequestHeaders(input),
      body: hasBody(raw) ? bodyOf(raw, passage, options.maxRequestBytes) : null,
      headersTimeout: options.upstreamTimeout,
      idleTimeout: binding?.streamIdleTimeout ?? options.streamIdleTimeout,
    }
  } catch (cause) {
    throw new Denial('request_build_failed', { cause })
  }
}

/** The caller's body as it comes, or as a plugin has read it already. */
function bodyOf(raw: IncomingMessage, { extension }: Passage, limit: number): CallerBody {
  if (extension?.body === undefined) return new RequestBody(raw, limit)
  const { known } = extension.body
  if (known === undefined) throw new Error('a body that a plugin reads is not there yet')
  return new KnownBody(known)
}

/** Names what went wrong on the way to an upstream's response headers. */
function upstreamDenial(cause: Error, passage: Passage): Denial {
  if (cause instanceof Denial) return cause
  if (cause instanceof UnsafeAddress) return new Denial('unsafe_upstream', { cause })
  if (cause instanceof BodyTooLarge) return new Denial('request_too_large', { cause })
  const code = 'code' in cause ? cause.code : undefined
  if (cause instanceof HeadersTimeout || code === 'UND_ERR_CONNECT_TIMEOUT') {
    return new Denial('upstream_timeout', { cause })
  }
  if (!passage.dispatched && (code === 'UND_ERR_INVALID_ARG' || code === 'UND_ERR_NOT_SUPPORTED')) {
    return new Denial('request_build_failed', { cause })
  }
  return new Denial('upstream_unreachable', { cause })
}
