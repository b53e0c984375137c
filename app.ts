/**
 * The map of the house: plugins that hold what the gateway needs, then the checks, then the routes.
 */
import type { FastifyInstance } from 'fastify'
import { type Config, configWarnings, pem, SHUTDOWN_SHARES } from './config.ts'
import { proxyTrust } from './lib/forwarded.ts'
import { parseKeyValues } from './lib/key-values.ts'
import { LogOutput } from './lib/log-output.ts'
import { PROXIED_METHODS } from './lib/methods.ts'
import { listener } from './listener.ts'
import { type GatewayPlugin, loadPlugins, type NamedPlugin } from './loader.ts'
import { databaseOptions, storeOptions, stsConnection } from './options.ts'
import answers from './plugins/answers.ts'
import audit from './plugins/audit/index.ts'
import bindings from './plugins/bindings.ts'
import bindingsFile from './plugins/bindings-file.ts'
import bindingsTable from './plugins/bindings-table.ts'
import certificate from './plugins/certificate.ts'
import connections from './plugins/connections.ts'
import database from './plugins/database.ts'
import drain from './plugins/drain.ts'
import egress from './plugins/egress.ts'
import evidence from './plugins/evidence.ts'
import extension from './plugins/extension.ts'
import gauges from './plugins/gauges.ts'
import liveRequests from './plugins/live-requests.ts'
import jwks from './plugins/jwks.ts'
import metrics from './plugins/metrics.ts'
import overload from './plugins/overload.ts'
import passage from './plugins/passage.ts'
import readiness from './plugins/readiness.ts'
import replay from './plugins/replay.ts'
import revocations from './plugins/revocations/index.ts'
import service from './plugins/service.ts'
import stages from './plugins/stages.ts'
import store, { type Store } from './plugins/store.ts'
import sts from './plugins/sts.ts'
import tracing from './plugins/tracing/index.ts'
import { guarded } from './routes/guarded.ts'
import { operator } from './routes/operator.ts'

export { type Config, ConfigError, loadConfig, type Sampling } from './config.ts'
export {
  type Check,
  type CustomDenial,
  DENIALS,
  Denial,
  type DenialOptions,
  type DenialRow,
  type LegacyCounter,
} from './denial.ts'
export {
  type Binding,
  type BindingDefinition,
  type BindingSet,
  bindingSet,
  type BindingSource,
  type Enforcement,
  type Operation,
} from './lib/bindings.ts'
export { type BindingsFile, readBindingsFile } from './lib/bindings-file.ts'
export type { AuthMode } from './lib/directive.ts'
export type { Anchors, Mandate } from './lib/mandate.ts'
export type * from './lib/mandate-claims.ts'
export type { Secret } from './lib/secret.ts'
export type { GatewayPlugin } from './loader.ts'
export type { GrantedExchange, UpstreamHeaders } from './plugins/extension.ts'
// What these add to Fastify's types, whoever imports the package is to see.
import './plugins/bindings.ts'
import './plugins/extension.ts'
import './plugins/metrics.ts'
import './plugins/passage.ts'

/** What is not configuration. */
export interface GatewayOptions {
  /** Plugins of your own, loaded in order after those of `GATEWAY_PLUGINS` (contract section 12). */
  readonly plugins?: readonly GatewayPlugin[]
  /**
   * In place of what `REDIS_URL` names; closed with the gateway.
   *
   * @internal
   */
  readonly store?: Store
}

/** The methods whose handling by Fastify is the gateway's as well. */
const FASTIFY_METHODS = ['GET', 'HEAD', 'TRACE', 'DELETE', 'OPTIONS', 'PATCH', 'PUT', 'POST']

/**
 * A gateway, ready to `listen` or `inject`.
 *
 * @throws Error when it cannot start: Redis or the revocation history is not to be had, the bindings are broken, or a
 * plugin cannot be loaded or registered
 */
export async function createGateway(
  config: Config,
  options: GatewayOptions = {},
): Promise<FastifyInstance> {
  const embedded = (options.plugins ?? []).map(named)
  const plugins = [...(await loadPlugins(config.gatewayPlugins)), ...embedded]
  const output = new LogOutput()
  const app: FastifyInstance = listener(config, output, () => app)
  try {
    await furnish(app, config, plugins, options.store)
    output.onDrop = () => app.meters.count('log_lines_dropped')
    return app
  } catch (error) {
    // What has started already, a file watcher or a connection, must not outlive the attempt.
    await app.close()
    throw error
  }
}

function named(plugin: GatewayPlugin, index: number): NamedPlugin {
  return { name: plugin.name || `number ${index + 1}`, plugin }
}

async function furnish(
  app: FastifyInstance,
  config: Config,
  plugins: readonly NamedPlugin[],
  ownStore: Store | undefined,
): Promise<void> {
  for (const warning of configWarnings(config)) app.log.warn(warning)
  // Known to the router, their bodies left alone: what Fastify does with a `QUERY` is not the gateway's to decide.
  for (const method of PROXIED_METHODS) {
    if (!FASTIFY_METHODS.includes(method)) {
      app.addHttpMethod(method, { hasBody: false, overrideExisting: true })
    }
  }
  app.addHook('onRequest', (request, reply, done) => {
    void reply.header('x-request-id', request.id)
    done()
  })

  await app.register(metrics, { exemplars: config.otelExporterOtlpEndpoint !== undefined })
  await app.register(service)
  await app.register(tracing, tracingOptions(config))
  await app.register(stages)
  await app.register(passage)
  await app.register(answers)
  await app.register(overload, {
    maxInFlight: config.maxInFlight,
    maxEventLoopDelay: config.maxEventLoopDelay,
    workers: config.workers,
  })
  await app.register(connections, { writeTimeout: config.writeTimeout })
  await app.register(extension, { maxRequestBytes: config.maxRequestBytes })
  if (config.tlsCertFile !== undefined && config.tlsKeyFile !== undefined) {
    await app.register(certificate, { cert: config.tlsCertFile, key: config.tlsKeyFile })
  }

  const { meters } = app
  const lastSeen = { exchangeLatency: 0, revocationPropagation: 0 }
  await app.register(database, databaseOptions(config))
  await app.register(bindings)
  if (config.bindingsFile !== undefined) {
    await app.register(bindingsFile, { file: config.bindingsFile })
  } else if (config.databaseUrl !== undefined) {
    await app.register(bindingsTable)
  }
  await app.register(store, ownStore === undefined ? storeOptions(config) : { store: ownStore })
  await app.register(replay)
  await app.register(revocations, {
    hmacKey: config.streamsHmacKey?.reveal(),
    previousHmacKey: config.streamsHmacKeyPrevious?.reveal(),
    onMessage: () => meters.count('revocation_messages'),
    onInvalidSignature: () => meters.count('revocation_invalid_signatures'),
    onDeadLetter: () => meters.count('revocation_dead_letters'),
    onReload: () => meters.count('revocation_reloads'),
    onReloadError: () => meters.count('revocation_reload_errors'),
    onPropagation: seconds => {
      lastSeen.revocationPropagation = seconds
    },
  })
  await app.register(audit, {
    hmacKey: config.auditHmacKey?.reveal(),
    directory: config.auditReplayDir,
    durability: config.auditDurability,
    closeTimeout: config.shutdownTimeout * SHUTDOWN_SHARES.evidence,
    onPersisted: count => meters.count('audit_persisted', count),
    onDrained: count => meters.count('audit_drained', count),
    onCorruptLines: count => meters.count('audit_corrupt_lines', count),
    onDropped: count => meters.count('audit_dropped', count),
    onSinkError: () => meters.count('audit_sink_errors'),
  })
  await app.register(evidence)
  await app.register(liveRequests)
  const stsTls = stsConnection(config)
  await app.register(jwks, {
    stsUrl: config.stsUrl,
    timeout: config.stsTimeout,
    issuer: config.stsIssuer,
    ...stsTls,
    onFetch: reason => meters.keysFetched(reason),
  })
  await app.register(sts, {
    url: config.stsUrl,
    timeout: config.stsTimeout,
    hmacKey: config.gatewayStsHmacKey?.reveal(),
    ...stsTls,
    onCircuitOpen: () => meters.count('sts_circuit_opened'),
    onExchange: (milliseconds, result) => {
      lastSeen.exchangeLatency = milliseconds
      if (result === 'success') return
      meters.count('sts_exchange_errors')
      meters.count(result === 'refused' ? 'sts_exchange_refused' : 'sts_exchange_unavailable')
    },
  })
  await app.register(egress, {
    policy: {
      hostAllowlist: config.upstreamHostAllowlist,
      privateNetworks: config.upstreamPrivateNetworks,
      cidrAllowlist: config.upstreamCidrAllowlist,
    },
    ca: pem(config.upstreamCaFile),
    connectTimeout: config.upstreamTimeout,
  })
  await app.register(readiness)
  await app.register(drain)
  await app.register(gauges, { lastSeen })

  await app.register(operator, {
    metricsBearer: config.metricsBearer?.reveal(),
    metricsOpen: config.mode === 'dev',
    adminToken: config.caracalAdminToken?.reveal(),
  })
  await app.register(guarded, {
    mandateUses: config.mandateUses,
    jtiFailOpen: config.jtiFailOpen,
    maxRequestBytes: config.maxRequestBytes,
    upstreamTimeout: config.upstreamTimeout,
    streamIdleTimeout: config.streamIdleTimeout,
    trust: proxyTrust(config.trustProxy),
    now: Date.now,
    plugins,
  })
}

function tracingOptions(config: Config) {
  return {
    endpoint: config.otelExporterOtlpEndpoint,
    headers: parseKeyValues(config.otelExporterOtlpHeaders?.reveal() ?? '') ?? {},
    resource: { ...config.otelResourceAttributes, 'service.name': config.otelServiceName },
    sampling: config.otelTracesSampler,
    share: config.otelTracesSamplerArg,
    stsUrl: config.stsUrl,
    // Evidence has had its time by then, and the process is to end in time.
    flushTimeout: config.shutdownTimeout * SHUTDOWN_SHARES.traces,
  }
}
