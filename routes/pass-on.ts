/**
 * Passes an upstream's answer on as it comes, unless the mandate was revoked meanwhile (contract section 5).
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { responseHeaders } from '../lib/headers.ts'
import { isOpenEventStream } from '../lib/revoked-response.ts'
import type { UpstreamResponse } from '../lib/upstream-call.ts'
import type { Respond } from '../plugins/egress.ts'
import { passageOf } from '../plugins/passage.ts'

/** Gives an upstream's answer to reply-from, unless the mandate was revoked meanwhile. */
export function passOn(
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
  const stream = Buffer.isBuffer(body) ? NOTHING : body
  if (passage.interruption !== undefined) {
    stream.destroy()
    void reply.send(passage.interruption)
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
    body: stream,
  })
}

/** What reply-from may destroy instead of an answer that has come already; `sendBody` sends that. */
const NOTHING = { destroy() {} }

/** Sends what reply-from has prepared: the answer's real status, its headers at once, its body as it comes. */
export function sendBody(app: FastifyInstance, request: FastifyRequest, reply: FastifyReply): void {
  const { raw } = reply
  const passage = passageOf(request)
  const { answer } = passage
  if (answer === undefined) throw new Error('there is no answer to send')
  raw.statusCode = answer.statusCode
  // reply-from closes the connection when the request's body is still coming, which would reset it under the
  // answer; what is left of the body is read for a moment instead (plugins/connections.ts).
  if (!request.raw.complete) void reply.removeHeader('connection')
  // Written together with its headers, at once: there is nothing to cut or to wait for.
  if (Buffer.isBuffer(answer.body)) return void reply.send(answer.body)
  attendBody(app, request, reply)
  void reply.send(answer.body)
}

/**
 * Sees to a body that will be piped to the caller: it counts as an open stream, and its headers go out at once, unless the
 * whole of it is there already.
 */
export function attendBody(
  app: FastifyInstance,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  const { raw } = reply
  const passage = passageOf(request)
  raw.once('pipe', source => {
    app.liveRequests.open(reply)
    // What a cut stream ends with depends on whether a line is under way.
    if (isOpenEventStream(raw)) {
      source.on('data', (chunk: Buffer) => {
        passage.lastByte = chunk.at(-1) ?? passage.lastByte
      })
    }
    if (Buffer.isBuffer(passage.answer?.body)) return
    // Headers go out although no byte of a body may come for minutes; with one at hand they go out together.
    setImmediate(() => {
      // Not `flushHeaders`, which writes them as UTF-8: their bytes go on as they came.
      if (!raw.headersSent && !raw.destroyed) raw.write('', 'latin1')
    })
  })
}
