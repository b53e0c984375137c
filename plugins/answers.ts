/**
 * Guarantees that whatever goes wrong is answered in the gateway's own words: no stack, no message of a library, no
 * token (contract section 2).
 */
import { STATUS_CODES } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { Denial } from '../denial.ts'
import { loggedReason } from '../lib/log-error.ts'
import { TransformFailed } from '../lib/rewritten-body.ts'

/** The body of a refusal, and the headers that go with it. */
export interface RefusalAnswer {
  readonly body: string
  readonly headers: Record<string, string>
}

/** What an answer must tell beside the denial itself. */
export interface RefusalContext {
  readonly requestId: string
  /** Whether a byte of the request can have reached the upstream. */
  readonly dispatched: boolean
  /** Whether the mandate was used up. */
  readonly spent: boolean
}

/** The answer to a denial (contract section 2; RFC 6750 section 3 for the challenge). */
export function refusalAnswer(denial: Denial, context: RefusalContext): RefusalAnswer {
  const dispatched = context.dispatched ? 'unknown' : 'no'
  const headers: Record<string, string> = {}
  if (denial.statusCode === 401 || denial.statusCode === 403) {
    headers['www-authenticate'] = challenge(denial)
  }
  if (denial.statusCode === 503) headers['retry-after'] = '1'
  for (const [name, value] of Object.entries(denial.headers ?? {})) {
    headers[name.toLowerCase()] = value
  }
  // A refusal brings headers of its own, but these are the gateway's to say.
  headers['content-type'] = 'application/json'
  headers['cache-control'] = 'no-store'
  headers['x-request-id'] = context.requestId
  headers['x-caracal-dispatched'] = dispatched
  if (context.dispatched) headers['x-should-retry'] = 'false'
  else if (denial.statusCode === 503 && !context.spent) headers['x-should-retry'] = 'true'
  const body = JSON.stringify({
    ...denial.members,
    error: denial.error,
    error_description: denial.description,
    requestId: context.requestId,
    dispatched,
  })
  return { body, headers }
}

/** Characters of a description in a challenge. It may name a path of 16 KiB, and proxies refuse headers of 4 KiB. */
const MAX_CHALLENGE_DESCRIPTION = 512

function challenge(denial: Denial): string {
  // RFC 6750 section 3.1: a request without credentials is told the scheme alone.
  if (denial.check === 'missing_bearer') return 'Bearer realm="caracal"'
  const code = denial.statusCode === 403 ? 'insufficient_scope' : 'invalid_token'
  // The description goes into a quoted-string, whose alphabet RFC 6750 section 3 narrows.
  const description = denial.description
    .slice(0, MAX_CHALLENGE_DESCRIPTION)
    .replace(/[^\x20\x21\x23-\x5b\x5d-\x7e]/g, '?')
  return `Bearer realm="caracal", error="${code}", error_description="${description}"`
}

/** The bytes of a refusal where there is no reply to send it with: what the HTTP parser refuses, and `CONNECT`. */
export function rawRefusal(denial: Denial, requestId: string): string {
  const { body, headers } = refusalAnswer(denial, { requestId, dispatched: false, spent: false })
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  return (
    `HTTP/1.1 ${denial.statusCode} ${STATUS_CODES[denial.statusCode] ?? ''}\r\n${lines.join('')}` +
    `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`
  )
}

/** The denial that an error amounts to: itself, or the gateway's own words for a framework's or our fault. */
export function asDenial(error: unknown): Denial {
  if (error instanceof Denial) return error
  const status =
    error instanceof Error && 'statusCode' in error && typeof error.statusCode === 'number'
      ? error.statusCode
      : 500
  if (status < 400 || status > 499) return new Denial('internal_error', { cause: error })
  const description = (STATUS_CODES[status] ?? 'malformed request').toLowerCase()
  return new Denial('malformed_request', { status, description, cause: error })
}

async function answers(app: FastifyInstance): Promise<void> {
  app.setErrorHandler((error, request, reply) => refuse(app, error, request, reply))
  app.setNotFoundHandler((request, reply) =>
    refuse(app, new Error('no route matches'), request, reply),
  )
}

/** Answers, counts and logs whatever ended a request before its response. */
export function refuse(
  app: FastifyInstance,
  error: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
): FastifyReply {
  // What the framework refuses before routing has no passage, not even an empty one.
  const passage = request.passage ?? null
  const denial = passage?.answer === undefined ? asDenial(error) : brokenAnswer(error)
  if (passage !== null) passage.denial = denial
  if (denial.check === 'revoked') passage?.revocation?.stamp(Date.now())
  const dispatched = passage?.dispatched === true
  const { body, headers } = refusalAnswer(denial, {
    requestId: request.id,
    dispatched,
    spent: passage?.spent === true,
  })
  app.meters.count('requests_denied')
  app.meters.denied(denial.check)
  request.log[logLevel(denial)](
    {
      check: denial.check,
      status: denial.statusCode,
      // What an STS refuses with, it says in its own code.
      error: denial.error,
      dispatched: dispatched ? 'unknown' : 'no',
      zone: passage?.mandate?.zoneId,
      client: passage?.mandate?.clientId,
      resource: passage?.resource,
      trace_id: passage?.spans?.exemplar,
      method: request.method,
      ms: passage === null ? undefined : Math.round(performance.now() - passage.arrivedAt),
      stages: passage?.durations,
      ...(denial.check === 'internal_error'
        ? { err: denial.cause }
        : { reason: loggedReason(denial.cause) }),
    },
    'request denied',
  )
  if (passage?.answer !== undefined) {
    // Headers of an answer that broke before its first byte must not colour this one.
    for (const name of passage.answer.headers.filter((_, index) => index % 2 === 0)) {
      void reply.removeHeader(name)
    }
    void reply.removeHeader('x-caracal-token-expires-in')
    for (const name of reply.raw.getHeaderNames()) reply.raw.removeHeader(name)
  }
  // A caller that waits for `100 Continue` may send its body or not: nobody can tell where the next request begins.
  if (request.raw.headers.expect !== undefined && !request.raw.complete) {
    void reply.header('connection', 'close')
  }
  // Text goes out in one piece with the headers, as UTF-8: those of another party must not be written so. A serializer keeps
  // Fastify from adding a charset to the text's Content-Type.
  const payload = denial.headers === undefined ? body : Buffer.from(body)
  return reply.code(denial.statusCode).headers(headers).serializer(asItIs).send(payload)
}

function asItIs(body: unknown): string {
  return String(body)
}

function logLevel({ check, statusCode }: Denial): 'debug' | 'info' | 'warn' | 'error' {
  // A flood is told of once a second, by whoever denies it.
  if (check === 'overloaded') return 'debug'
  if (check === 'internal_error') return 'error'
  return statusCode >= 500 ? 'warn' : 'info'
}

/** The upstream had answered, and the answer could not be passed on. */
function brokenAnswer(error: unknown): Denial {
  if (error instanceof Denial) return error
  if (!(error instanceof TransformFailed))
    return new Denial('upstream_unreachable', { cause: error })
  return error.cause instanceof Denial
    ? error.cause
    : new Denial('internal_error', { cause: error })
}

export default fp(answers, {
  name: 'answers',
  fastify: '5.x',
  dependencies: ['metrics', 'passage'],
})
