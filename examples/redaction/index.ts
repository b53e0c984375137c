// Takes members out of JSON answers, whatever their depth.
import { Transform } from 'node:stream'
import { Denial } from 'caracal-gateway'
import type { FastifyInstance } from 'fastify'

/** Names of the members: `REDACT` (`iban,email`). */
const names = new Set((process.env['REDACT'] ?? 'iban,email').split(','))

/** Longest answer in bytes: JSON has to be there whole before it can be read. */
const LIMIT = 1024 * 1024

export default async function redaction(app: FastifyInstance): Promise<void> {
  app.addHook('preHandler', async request => {
    request.upstreamHeaders.set('Accept-Encoding', 'identity')
  })
  app.addHook('onSend', async (_request, reply) => {
    if (!/\bjson\b/i.test(String(reply.getHeader('content-type')))) return
    // The gateway's own refusals.
    if (reply.hasHeader('x-caracal-dispatched')) return
    const encoding = reply.getHeader('content-encoding') ?? 'identity'
    if (encoding !== 'identity') throw unreadable('the upstream has encoded its answer')
    reply.rewriteBody(redacting())
  })
}

function redacting(): Transform {
  const chunks: Buffer[] = []
  let length = 0
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      chunks.push(chunk)
      length += chunk.length
      if (length > LIMIT) done(unreadable('the answer is too long to be redacted'))
      else done()
    },
    flush(done) {
      try {
        done(null, JSON.stringify(JSON.parse(Buffer.concat(chunks).toString()), withoutMembers))
      } catch (cause) {
        done(unreadable('the answer is no JSON', cause))
      }
    },
  })
}

function withoutMembers(name: string, value: unknown): unknown {
  return names.has(name) ? '[redacted]' : value
}

function unreadable(description: string, cause?: unknown): Denial {
  return new Denial({
    check: 'redaction',
    status: 502,
    error: 'internal_error',
    description,
    cause,
  })
}
