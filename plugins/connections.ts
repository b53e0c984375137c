/**
 * Guarantees that whatever happens on a connection beside a request's own way ends in an answer or a closed
 * connection: foreign protocols, broken framing, late bytes, `CONNECT`, `Expect`, and bodies that nobody reads.
 */
import { randomUUID } from 'node:crypto'
import { type IncomingMessage, METHODS, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { Denial } from '../denial.ts'
import { breakOff, CallerConnection, type Turn } from '../lib/caller-connection.ts'
import { PROXIED_METHODS } from '../lib/methods.ts'
import { bodyDenial, headerDenial } from '../lib/parser-error.ts'
import { isProxiedUrl, requestIdOf } from '../lib/request-line.ts'
import { rawRefusal, refusalAnswer } from './answers.ts'

declare module 'fastify' {
  interface FastifyInstance {
    connections: Connections
  }
}

/** Options of the plugin. */
export interface ConnectionsOptions {
  /** The longest a caller may take no byte while some wait for it, in milliseconds. */
  readonly writeTimeout: number
}

/** The gateway's view of its callers' connections. */
export interface Connections {
  /** Whether paths that look like a proxied one can be a plugin's own, which passes no check. */
  sharesPaths: boolean
  /** Hands a request on to be served, unless it is none of HTTP/1 or comes after its connection's last answer. */
  take(request: IncomingMessage, response: ServerResponse, serve: Serve): void
  /** Takes a proxied request into care: its body's lateness and broken framing find it. */
  watch(request: FastifyRequest): void
  /** Handles what Node's HTTP parser gave up on (`clientError`). */
  failed(error: NodeJS.ErrnoException, socket: Socket): void
  /** The requests on a connection whose answers are not out yet. */
  turns(socket: Socket): readonly GatewayTurn[]
  /** From now on each connection's next answer is its last. @param sockets those that are open */
  retire(sockets: Iterable<Socket>): void
  /** Ends an idle connection; what comes on it after that is not executed. */
  end(socket: Socket): void
}

/** What Node calls with each request. */
export type Serve = (request: IncomingMessage, response: ServerResponse) => void

/** A request on its connection, as the checks see it. */
export interface GatewayTurn extends Turn {
  /** The request that the checks see, once they have begun. */
  proxied: FastifyRequest | undefined
}

// Node's parser reads RTSP as well, whose methods no route knows, and the versions 0.9 and 2.0.
const HTTP_METHODS = new Set(METHODS)
const HTTP_VERSIONS = new Set(['1.0', '1.1'])

async function connections(
  app: FastifyInstance,
  { writeTimeout }: ConnectionsOptions,
): Promise<void> {
  const overloaded = preparedRefusal(new Denial('overloaded'))
  const foreign = new Denial('malformed_request', {
    description: 'neither HTTP/1.1 nor HTTP/1.0',
    headers: { connection: 'close' },
  })
  const answerForeign = preparedRefusal(foreign)
  /** All that have sent something and are not closed. */
  const known = new Map<Socket, CallerConnection<GatewayTurn>>()
  let retiring = false

  function connectionOf(socket: Socket): CallerConnection<GatewayTurn> {
    let connection = known.get(socket)
    if (connection === undefined) {
      connection = new CallerConnection(socket)
      known.set(socket, connection)
      socket.once('close', () => known.delete(socket))
    }
    return connection
  }

  function idleTimeout(): number {
    return app.server.keepAliveTimeout + app.server.keepAliveTimeoutBuffer
  }

  function note({ check, statusCode }: Denial, reqId: string): void {
    app.meters.count('requests_denied')
    app.meters.denied(check)
    app.log.info({ reqId, check, status: statusCode }, 'request denied')
  }

  function refuseRaw(socket: Socket, denial: Denial, requestId: string = randomUUID()): void {
    note(denial, requestId)
    if (socket.writable) socket.write(rawRefusal(denial, requestId))
    connectionOf(socket).close()
  }

  function refuseForeign(request: IncomingMessage, response: ServerResponse): void {
    const requestId = requestIdOf(request)
    note(foreign, requestId)
    answerForeign(response, requestId)
  }

  /** Past the framework, whose way to the same answer is longer: whoever floods the gateway gets many of them. */
  function refuseOverloaded(request: IncomingMessage, response: ServerResponse): void {
    app.meters.count('requests')
    app.meters.count('requests_denied')
    app.meters.denied('overloaded')
    app.overload.denied()
    overloaded(response, requestIdOf(request))
  }

  app.decorate('connections', {
    sharesPaths: false,
    take(request, response, serve) {
      const connection = connectionOf(request.socket)
      // Nobody would get its answer: it must not be executed.
      if (connection.closing) return void request.socket.destroy()
      if (retiring) {
        // Pipelined behind what is the last answer: it would get none.
        if (connection.open.size > 0) return
        response.shouldKeepAlive = false
      }
      const { method = '', url = '', httpVersion } = request
      const served = HTTP_METHODS.has(method) && HTTP_VERSIONS.has(httpVersion)
      if (
        served &&
        app.overload.full &&
        !app.connections.sharesPaths &&
        stands(connection, request) &&
        isProxiedUrl(url)
      ) {
        return refuseOverloaded(request, response)
      }
      connection.take({ request, response, proxied: undefined }, idleTimeout)
      if (served) serve(request, response)
      else refuseForeign(request, response)
    },

    watch(request) {
      const turn = known.get(request.raw.socket)?.latest
      if (turn?.request === request.raw) turn.proxied = request
    },

    failed(error, socket) {
      // Where no TLS connection comes about there is none to answer on.
      if (error.code === 'ECONNRESET' || /^ERR_(SSL|TLS)_/.test(error.code ?? '')) socket.destroy()
      if (socket.destroyed) return
      const connection = connectionOf(socket)
      if (connection.closing) return
      const { latest } = connection
      if (latest === undefined || (latest.request.complete && latest.response.writableFinished)) {
        // Whoever sent nothing asked nothing.
        if (socket.bytesRead === 0 || !socket.writable) socket.destroy()
        else refuseRaw(socket, headerDenial(error))
        return
      }
      connection.closing = true
      const { request, response, proxied } = latest
      if (request.complete || response.writableEnded) {
        // The request has its answer or will have it, whatever follows. Then the connection ends.
        response.shouldKeepAlive = false
        if (response.writableFinished) connection.close()
        else response.once('finish', () => connection.close())
      } else if (response.headersSent || error.code === 'HPE_INVALID_EOF_STATE') {
        // Half an answer cannot be taken back, and nobody is there who could send the rest of the body.
        socket.destroy()
      } else if (proxied === undefined) refuseRaw(socket, bodyDenial(error))
      else interrupt(proxied, response, bodyDenial(error))
    },

    turns: socket => [...(known.get(socket)?.open ?? [])],

    retire(sockets) {
      retiring = true
      for (const socket of sockets) {
        const latest = known.get(socket)?.latest
        // One that is out already says nothing more.
        if (latest?.response.headersSent === false) latest.response.shouldKeepAlive = false
      }
    },

    end(socket) {
      const connection = connectionOf(socket)
      if (!connection.closing) connection.close()
    },
  } satisfies Connections)

  // One clock for all. The time is measured from the first look that finds bytes waiting.
  const looks = setInterval(
    () => {
      const now = performance.now()
      for (const connection of known.values()) {
        if (!connection.stalled(writeTimeout, now)) continue
        const [turn] = connection.open
        app.log.info(
          { reqId: turn?.proxied?.id, resource: turn?.proxied?.passage?.resource },
          'caller took no byte within WRITE_TIMEOUT',
        )
        breakOff(connection.socket)
      }
    },
    Math.min(1_000, Math.ceil(writeTimeout / 4)),
  ).unref()
  app.addHook('onClose', async () => clearInterval(looks))

  app.server.on('connect', (request: IncomingMessage, socket: Socket) => {
    socket.on('error', () => socket.destroy())
    const { open } = connectionOf(socket)
    if (open.size > 0) {
      // Node has let go of the connection: answers that wait for their turn on it would wait for ever.
      for (const { response } of open) response.destroy()
      socket.destroy()
      return
    }
    socket.resume()
    const allow = PROXIED_METHODS.join(', ')
    refuseRaw(
      socket,
      new Denial('method_not_allowed', { headers: { allow } }),
      requestIdOf(request),
    )
  })
  // `100 Continue` is sent after the exchange (contract section 5), any other expectation is the upstream's to meet.
  const proceed = (request: IncomingMessage, response: ServerResponse) =>
    app.server.emit('request', request, response)
  app.server.on('checkContinue', proceed)
  app.server.on('checkExpectation', proceed)
}

/** Answers a denial again and again, and does but once what is the same each time. */
function preparedRefusal(denial: Denial): (response: ServerResponse, requestId: string) => void {
  const mark = '-'
  const { body, headers } = refusalAnswer(denial, {
    requestId: mark,
    dispatched: false,
    spent: false,
  })
  const [before = '', after = ''] = body.split(JSON.stringify(mark))
  const fixed = Object.entries(headers)
    .filter(([name]) => name !== 'x-request-id')
    .flat()
  return (response, requestId) => {
    const text = before + JSON.stringify(requestId) + after
    // A request id is ASCII, and so is the rest.
    const own = ['x-request-id', requestId, 'content-length', String(text.length)]
    response.writeHead(denial.statusCode, fixed.concat(own)).end(text, 'latin1')
  }
}

/** Whether a request can be answered without a look at what comes before and after it on its connection. */
function stands({ open }: CallerConnection, { headers }: IncomingMessage): boolean {
  return (
    open.size === 0 &&
    headers['content-length'] === undefined &&
    headers['transfer-encoding'] === undefined &&
    headers.expect === undefined
  )
}

function interrupt(request: FastifyRequest, response: ServerResponse, denial: Denial): void {
  const { passage } = request
  response.shouldKeepAlive = false
  if (passage?.call !== undefined) passage.call.abort(denial)
  else if (passage !== null) {
    passage.interruption ??= denial
    passage.extension?.body?.cancel(denial)
  }
}

export default fp(connections, {
  name: 'connections',
  fastify: '5.x',
  dependencies: ['metrics', 'overload', 'passage'],
})
