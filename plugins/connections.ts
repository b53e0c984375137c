/**
 * Guarantees that whatever happens on a connection beside a request's own way ends in an answer or a closed
 * connection: broken framing, late bytes, `CONNECT`, `Expect`, and bodies that nobody reads.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { Denial } from '../denial.ts'
import { rawRefusal } from './answers.ts'

declare module 'fastify' {
  interface FastifyInstance {
    connections: Connections
  }
}

/** The gateway's view of its callers' connections. */
export interface Connections {
  /** Takes a request into care: its body's lateness and broken framing find it. */
  watch(request: FastifyRequest, reply: FastifyReply): void
  /** Handles what Node's HTTP parser gave up on (`clientError`). */
  failed(error: NodeJS.ErrnoException, socket: Duplex): void
}

/** How long a refused request's body is still read, so that its sender sees the answer instead of a reset. */
const LINGER = 1_000

async function connections(app: FastifyInstance): Promise<void> {
  const underWay = new WeakMap<Duplex, { request: FastifyRequest; reply: FastifyReply }>()

  function refuseRaw(socket: Duplex, denial: Denial): void {
    app.meters.count('requests_denied')
    app.meters.denied(denial.check)
    app.log.info({ check: denial.check, status: denial.statusCode }, 'request denied')
    if (socket.writable) socket.end(rawRefusal(denial, randomUUID()))
    setTimeout(() => socket.destroy(), LINGER).unref()
  }

  app.decorate('connections', {
    watch(request, reply) {
      underWay.set(request.raw.socket, { request, reply })
      reply.raw.once('finish', () => lingerFor(request.raw))
    },
    failed(error, socket) {
      if (error.code === 'ECONNRESET' || socket.destroyed) {
        socket.destroy()
        return
      }
      const current = underWay.get(socket)
      if (current === undefined || current.reply.raw.writableFinished) {
        refuseRaw(socket, parserDenial(error))
        return
      }
      const { request, reply } = current
      if (request.raw.complete) {
        // What follows a whole request is broken: that request is answered, and then the connection ends.
        reply.raw.once('finish', () => socket.end())
      } else if (reply.raw.headersSent) socket.destroy()
      else interrupt(request, reply, bodyDenial(error))
    },
  } satisfies Connections)

  app.server.on('connect', (request: IncomingMessage, socket: Duplex) => {
    socket.on('error', () => socket.destroy())
    request.resume()
    refuseRaw(socket, new Denial('method_not_allowed', { headers: { allow: 'GET, HEAD' } }))
  })
  // `100 Continue` is sent after the exchange (contract section 5), any other expectation is the upstream's to meet.
  const proceed = (request: IncomingMessage, response: ServerResponse) =>
    app.server.emit('request', request, response)
  app.server.on('checkContinue', proceed)
  app.server.on('checkExpectation', proceed)
}

function interrupt(request: FastifyRequest, reply: FastifyReply, denial: Denial): void {
  const { passage } = request
  reply.raw.shouldKeepAlive = false
  if (passage?.call !== undefined) passage.call.abort(denial)
  else if (passage !== null) passage.interruption ??= denial
}

function bodyDenial(error: NodeJS.ErrnoException): Denial {
  return error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
    ? new Denial('request_timeout')
    : new Denial('malformed_request', { description: 'malformed request body' })
}

function parserDenial(error: NodeJS.ErrnoException): Denial {
  switch (error.code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return malformed(408, 'request headers timed out')
    case 'HPE_HEADER_OVERFLOW':
      return isTargetOverflow(error)
        ? malformed(414, 'request target too long')
        : malformed(431, 'request header fields too large')
    default:
      return malformed(400, 'malformed HTTP request')
  }
}

function malformed(status: number, description: string): Denial {
  return new Denial('malformed_request', { status, description })
}

/** Whether the bytes that overflowed are still the request line's. */
function isTargetOverflow(error: Error): boolean {
  const packet = 'rawPacket' in error ? error.rawPacket : undefined
  if (!Buffer.isBuffer(packet)) return false
  return /^[A-Z-]+ [^\r\n]+$/.test(packet.subarray(0, 16 * 1024).toString('latin1'))
}

function lingerFor(request: IncomingMessage): void {
  if (request.complete) return
  const socket: Socket = request.socket
  setTimeout(() => {
    if (!request.complete) socket.destroy()
  }, LINGER).unref()
}

export default fp(connections, { name: 'connections', fastify: '5.x', dependencies: ['metrics'] })
