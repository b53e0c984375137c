/**
 * Forwards what passed every check, and holds no policy of its own (contract section 5).
 */
import type { IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { Denial } from '../denial.ts'
import type { ProxyTrust } from '../lib/forwarded.ts'
import { responseHeaders } from '../lib/headers.ts'
import { PROXIED_METHODS } from '../lib/methods.ts'
import { BodyTooLarge, hasBody, RequestBody } from '../lib/request-body.ts'
import {
  HeadersTimeout,
  UpstreamCall,
  type UpstreamRequest,
  type UpstreamResponse,
} from '../lib/upstream-call.ts'
import { upstreamRequestHeaders, upstreamTarget } from '../lib/upstream-request.ts'
import { type Respond, UnsafeAddress } from '../plugins/egress.ts'
import { type Passage, passageOf } from '../plugins/passage.ts'

/** Options of the proxied routes; times in milliseconds, sizes in bytes. */
export interface ProxyOptions {
  readonly upstreamTimeout: number
  readonly streamIdleTimeout: number
  readonly maxRequestBytes: number
  readonly trust: ProxyTrust
}

/** reply-from wants a source to build a URL from; the call brings its own. */
const NO_SOURCE = '/'

/** The catch-all route; registered in the scope that holds the checks. */
export async function proxy(app: FastifyInstance, options: ProxyOptions): Promise<void> {
  app.route({
    method: [...PROXIED_METHODS],
    url: '/*',
    handler(request, reply) {
      const passage = passageOf(request)
      const upstream = buildRequest(request, passage, options)
      if (awaitsContinue(request.raw)) reply.raw.writeContinue()
      app.meters.count('requests_allowed')
      const dispatchedAt = performance.now()
      void reply.from(NO_SOURCE, {
        getUpstream: () => upstream.origin,
        rewriteRequestHeaders: () =>
          app.egress.carry((dispatcher, respond) => {
            passage.call = new UpstreamCall(
              upstream,
              response => {
                app.meters.stage('upstream', (performance.now() - dispatchedAt) / 1000)
                passOn(app, request, reply, response, respond)
              },
              error => {
                if (!passage.closed) void reply.send(upstreamDenial(error, passage))
              },
            )
            passage.call.start(dispatcher)
          }),
        onResponse: () => sendBody(request, reply, passage),
      })
      return reply
    },
  })
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
  }
  try {
    return {
      origin: directive.upstream.origin,
      path: upstreamTarget(input),
      method: request.method,
      headers: upstreamRequestHeaders(input),
      body: hasBody(raw) ? new RequestBody(raw, options.maxRequestBytes) : null,
      headersTimeout: options.upstreamTimeout,
      idleTimeout: binding?.streamIdleTimeout ?? options.streamIdleTimeout,
    }
  } catch (cause) {
    throw new Denial('request_build_failed', { cause })
  }
}

/** Gives an upstream's answer to reply-from, unless the mandate was revoked meanwhile. */
function passOn(
  app: FastifyInstance,
  request: FastifyRequest,
  reply: FastifyReply,
  answer: UpstreamResponse,
  respond: Respond,
): void {
  const { statusCode, headers, body } = answer
  const passage = passageOf(request)
  passage.answer = answer
  app.overload.release(passage)
  if (app.revocations.isRevoked(request.mandate.anchors)) {
    body.destroy()
    void reply.send(new Denial('revoked'))
    return
  }
  const { exp } = request.mandate
  const secondsLeft = Math.max(0, Math.floor(exp - Date.now() / 1000))
  respond(null, {
    // Fastify refuses a status over 599, Node does not: `sendBody` sets the real one.
    statusCode: Math.min(statusCode, 599),
    headers: {
      ...responseHeaders(headers, passage.directive?.authMode === 'none'),
      'x-request-id': request.id,
      'x-caracal-token-expires-in': String(secondsLeft),
    },
    body,
  })
}

/** Sends what reply-from has prepared: the answer's real status, its headers at once, its body as it comes. */
function sendBody(request: FastifyRequest, reply: FastifyReply, { answer }: Passage): void {
  if (answer === undefined) throw new Error('there is no answer to send')
  reply.raw.statusCode = answer.statusCode
  // reply-from closes the connection when the request's body is still coming, which would reset it under the
  // answer; what is left of the body is read for a moment instead (plugins/connections.ts).
  if (!request.raw.complete) void reply.removeHeader('connection')
  // Headers go out although no byte of a body may come for minutes; with one at hand they go out together.
  reply.raw.once('pipe', () => {
    setImmediate(() => {
      // Not `flushHeaders`, which writes them as UTF-8: their bytes go on as they came.
      if (!reply.raw.headersSent && !reply.raw.destroyed) reply.raw.write('', 'latin1')
    })
  })
  void reply.send(answer.body)
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

/** Whether the caller waits before it sends its body. HTTP/1.0 knows no interim answers (RFC 9110 section 10.1.1). */
function awaitsContinue({ headers, httpVersion }: IncomingMessage): boolean {
  return httpVersion !== '1.0' && /(?:^|\W)100-continue(?:$|\W)/i.test(headers.expect ?? '')
}
