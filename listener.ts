/**
 * The server that callers reach, before any plugin: its times, its TLS, its logger, and Fastify on top of it.
 */
import { createServer as createHttpServer, type RequestListener, type Server } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { TlsOptions } from 'node:tls'
import Fastify, { type FastifyHttpOptions, type FastifyInstance, LogController } from 'fastify'
import type { Logger } from 'pino'
import { type Config, pem } from './config.ts'
import { LogOutput } from './lib/log-output.ts'
import { createLogger } from './lib/logger.ts'
import { requestIdOf, routedUrl } from './lib/request-line.ts'
import { refuse } from './plugins/answers.ts'

/**
 * Fastify on plain HTTP, or on TLS when a certificate is configured.
 *
 * @param app gives the instance that this returns, once there is one
 */
export function listener(config: Config, app: () => FastifyInstance): FastifyInstance {
  const { tlsCertFile, tlsKeyFile } = config
  const tls =
    tlsCertFile !== undefined && tlsKeyFile !== undefined
      ? { cert: pem(tlsCertFile), key: pem(tlsKeyFile), minVersion: 'TLSv1.2' as const }
      : undefined
  return Fastify({
    loggerInstance: logger(config.logLevel),
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
      createListener(config, tls, (request, response) =>
        app().connections.take(request, response, serve),
      ),
    ...(tls !== undefined && { https: tls }),
  } as FastifyHttpOptions<Server>)
}

function logger(level: string): Logger {
  const output = new LogOutput()
  const log = createLogger(level, output)
  output.onDropped = lines => log.warn({ lines }, 'log lines were dropped: their reader is slow')
  return log
}

function createListener(
  config: Config,
  tls: TlsOptions | undefined,
  onRequest: RequestListener,
): Server {
  const options = {
    // Node looks for late requests this often.
    connectionsCheckingInterval: Math.min(1_000, Math.ceil(config.readHeaderTimeout / 4)),
    // The gateway refuses a missing Host itself, in its own words.
    requireHostHeader: false,
    keepAliveTimeout: config.idleTimeout,
  }
  const server =
    tls === undefined
      ? createHttpServer(options, onRequest)
      : createHttpsServer(
          { ...options, ...tls, handshakeTimeout: config.readHeaderTimeout },
          onRequest,
        )
  server.headersTimeout = config.readHeaderTimeout
  server.requestTimeout = config.readTimeout
  return server
}
