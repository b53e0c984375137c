/**
 * The server that callers reach, before any plugin: its times, its TLS, its logger, and Fastify on top of it.
 */
import { createServer as createHttpServer, type RequestListener, type Server } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import Fastify, { type FastifyHttpOptions, type FastifyInstance, LogController } from 'fastify'
import type { Logger } from 'pino'
import type { Config } from './config.ts'
import type { LogOutput } from './lib/log-output.ts'
import { createLogger } from './lib/logger.ts'
import { requestIdOf, routedUrl } from './lib/request-line.ts'
import { refuse } from './plugins/answers.ts'

/**
 * Fastify on plain HTTP, or on TLS when a certificate is configured, which `plugins/certificate.ts` then gives the server.
 *
 * @param output takes the log
 * @param app gives the instance that this returns, once there is one
 */
export function listener(
  config: Config,
  output: LogOutput,
  app: () => FastifyInstance,
): FastifyInstance {
  const secure = config.tlsCertFile !== undefined
  return Fastify({
    loggerInstance: logger(config.logLevel, output),
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: requestIdOf,
    rewriteUrl: request => routedUrl(request.url ?? '/'),
    frameworkErrors: (error, request, reply) => void refuse(app(), error, request, reply),
    clientErrorHandler: (error, socket) => app().connections.failed(error, socket),
    exposeHeadRoutes: false,
    // What a plugin waits for at the start it bounds itself, and names.
    pluginTimeout: 0,
    // A request that comes while the gateway drains is served, and its connection closed.
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    // A server of the gateway's own sees a request before any framework does; Fastify listens on no other beside it.
    serverFactory: serve =>
      createListener(config, secure, (request, response) =>
        app().connections.take(request, response, serve),
      ),
    ...(secure && { https: {} }),
  } as FastifyHttpOptions<Server>)
}

function logger(level: string, output: LogOutput): Logger {
  const log = createLogger(level, output)
  output.onRoom = lines => log.warn({ lines }, 'log lines were dropped: their reader is slow')
  return log
}

function createListener(config: Config, secure: boolean, onRequest: RequestListener): Server {
  const options = {
    // Node looks for late requests this often.
    connectionsCheckingInterval: Math.min(1_000, Math.ceil(config.readHeaderTimeout / 4)),
    // The gateway refuses a missing Host itself, in its own words.
    requireHostHeader: false,
    // Of an answer that its caller does not take, one chunk waits here. Node does not hand this on to a TLS connection.
    highWaterMark: 16 * 1024,
    keepAliveTimeout: config.idleTimeout,
  }
  const server = secure
    ? createHttpsServer(
        {
          ...options,
          handshakeTimeout: config.readHeaderTimeout,
          // No HTTP/2, and docs/tls.md says why: a caller that speaks nothing else is refused in the handshake.
          ALPNProtocols: ['http/1.1'],
        },
        onRequest,
      )
    : createHttpServer(options, onRequest)
  server.headersTimeout = config.readHeaderTimeout
  server.requestTimeout = config.readTimeout
  return server
}
