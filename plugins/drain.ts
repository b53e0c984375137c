/**
 * Guarantees that a gateway that stops loses no request: what has reached it is answered, and a connection is ended by its
 * last answer, or when nobody seems to be about to use it.
 */
import { Server as TcpServer, type Socket } from 'node:net'
import { Server as TlsServer } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { Denial } from '../denial.ts'

declare module 'fastify' {
  interface FastifyInstance {
    drain: Drain
  }
}

/** The end of the gateway's service; closing the instance does the first step by itself, and never the second. */
export interface Drain {
  /** From now on `/ready` is `draining`, and each connection's next answer is its last. New ones are still taken. */
  begin(): void
  /**
   * Ends what is still under way: who has no answer yet gets one, and streams break off.
   *
   * @param patience for how long the answers may be on their way, in milliseconds
   */
  cut(patience: number): void
}

/** When a connection was last seen to be in use. */
interface Use {
  /** `Socket.bytesRead` then. */
  bytes: number
  /** `performance.now()`, in milliseconds. */
  at: number
}

/**
 * Milliseconds of silence after which a connection is ended although its caller does not know that it is to be. One that
 * is in use at all has had its last answer by then; a request that crosses the end on its way is lost to its caller.
 */
const QUIET = 1_000
const LOOK_INTERVAL = 100

async function drain(app: FastifyInstance): Promise<void> {
  const { server, connections, readiness, log } = app
  /** Those that TLS is not agreed on yet included. */
  const sockets = new Set<Socket>()
  const uses = new Map<Socket, Use>()
  let looks: NodeJS.Timeout | undefined
  let draining = false

  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  const event = server instanceof TlsServer ? 'secureConnection' : 'connection'
  server.on(event, (socket: Socket) => {
    uses.set(socket, { bytes: socket.bytesRead, at: performance.now() })
    socket.once('close', () => uses.delete(socket))
  })

  function begin(): void {
    if (draining) return
    draining = true
    readiness.drain()
    connections.retire(uses.keys())
    const now = performance.now()
    for (const use of uses.values()) use.at = now
    looks = setInterval(look, LOOK_INTERVAL)
  }

  function look(): void {
    const now = performance.now()
    for (const [socket, use] of uses) {
      if (connections.turns(socket).length > 0 || socket.bytesRead !== use.bytes) {
        Object.assign(use, { bytes: socket.bytesRead, at: now } satisfies Use)
      } else if (!server.listening && now - use.at >= QUIET) connections.end(socket)
    }
  }

  app.decorate('drain', {
    begin,
    cut(patience) {
      let streams = 0
      let answers = 0
      for (const socket of uses.keys()) {
        const turns = connections.turns(socket)
        for (const { response, proxied } of turns) {
          const call = proxied?.passage?.call
          if (call !== undefined && !response.headersSent) {
            answers += 1
            // Else the caller would not know that its request may have been executed, and ask again.
            call.abort(new Denial('upstream_timeout'))
          } else {
            streams += 1
            socket.destroy()
          }
        }
        if (turns.length === 0) socket.destroy()
      }
      if (streams + answers > 0) log.warn({ streams, answers }, 'what was under way is ended')
      setTimeout(() => {
        for (const socket of sockets) socket.destroy()
      }, patience).unref()
    },
  } satisfies Drain)

  app.addHook('preClose', async () => {
    begin()
    if (!server.listening) return
    const closed = new Promise(resolve => server.once('close', resolve))
    // The server's own way breaks off idle connections, with the requests that are on their way.
    TcpServer.prototype.close.call(server)
    await closed
  })
  app.addHook('onClose', async () => clearInterval(looks))
}

export default fp(drain, {
  name: 'drain',
  fastify: '5.x',
  dependencies: ['connections', 'readiness'],
})
