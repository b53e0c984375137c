/**
 * Counts what the gateway does, under the names that Caracal's alert rules and dashboards use (contract section 11).
 *
 * Each gateway has a registry of its own, and no label holds anything that a caller chooses.
 */
import client, { type Histogram, type Metric, type Registry } from '@prometheus-io/client'
import type { FastifyInstance } from 'fastify'
import fastifyMetrics, { type IFastifyMetrics } from 'fastify-metrics'
import fp from 'fastify-plugin'
import { DENIALS, isCheck } from '../denial.ts'
import type { Aggregator, Family } from '../lib/metric-families.ts'

declare module 'fastify' {
  interface FastifyInstance {
    meters: Meters
  }
}

// fastify-metrics says what `app.metrics` is. Here it is this gateway's registry as well (contract section 12).
declare module 'fastify-metrics' {
  interface IFastifyMetrics extends Registry {}
}

/** Where fastify-metrics puts its own object. */
const FASTIFY_METRICS = 'fastifyMetrics'

const PREFIX = 'caracal_gateway_'

/** Counters without labels: name without prefix and `_total`, and help. */
const COUNTERS = {
  requests: 'Requests for protected resources',
  requests_allowed: 'Requests that passed every check and the exchange',
  requests_denied: 'Requests that the gateway refused',
  denials_missing_auth: 'Denials: no bearer token',
  denials_bad_bearer: 'Denials: bearer token malformed, too large, or without what it must claim',
  denials_expiring: 'Denials: mandate expired, or about to',
  denials_bad_routing: 'Denials: routing headers, target or binding',
  denials_path_traversal: 'Denials: path traversal',
  denials_signature: 'Denials: signature',
  denials_jti_replay: 'Denials: mandate used before',
  denials_revoked: 'Denials: session, agent or delegation revoked',
  denials_revocation_stale: 'Denials: revocation state not fresh',
  sts_exchange_errors: 'Exchanges that the STS refused or could not answer',
  sts_exchange_refused: 'Exchanges that the STS refused',
  sts_exchange_unavailable: 'Exchanges that the STS could not answer',
  sts_circuit_opened: 'Times the STS circuit opened',
  sts_circuit_fast_fail: 'Requests refused because the STS circuit was open',
  upstream_errors: 'Requests that the upstream did not answer, or not to the end',
  audit_dropped: 'Audit events lost for good',
  audit_sink_errors: 'Attempts to send audit events that Redis did not take, or not all',
  audit_persisted: 'Audit events kept on disk because Redis did not take them',
  audit_drained: 'Audit events sent to Redis from disk',
  audit_corrupt_lines: 'Lines of audit evidence on disk that were torn or garbled, and set aside',
  revocation_messages: 'Revocation messages read',
  // Every gateway reads the whole stream by itself: nothing is ever left pending in a consumer group.
  revocation_pending_replayed: 'Revocation messages taken over from a reader that left them',
  revocation_dead_letters: 'Revocation messages that name nothing to revoke',
  revocation_invalid_signatures: 'Revocation messages dropped for their signature',
  revocation_reloads: 'Rereads of the revocations that somebody asked for',
  revocation_reload_errors: 'Rereads of the revocations that somebody asked for and that failed',
  streams_revoked: 'Responses cut short by a revocation',
  worker_restarts: 'Workers started again',
  log_lines_dropped: 'Lines of the log that found no place to wait for its reader',
  trace_spans_sent: 'Spans that the collector has taken',
  trace_spans_dropped:
    'Spans that the collector did not take, or that found no place to wait for it',
} as const satisfies Record<string, string>

/** A counter without labels, by its name without prefix and `_total`. */
export type CounterName = keyof typeof COUNTERS

/** A part of a request's way whose time is measured. */
export type Stage = 'verify' | 'replay' | 'exchange' | 'upstream'

/** What the gateway measures. */
export interface Meters {
  readonly registry: Registry
  /** Adds to a counter. */
  count(name: CounterName, by?: number): void
  /** Counts a denial: by its check, and by the counter of the Go gateway where there is one. */
  denied(check: string): void
  /** Counts what an observed resource would have refused. */
  wouldDeny(check: string): void
  /** Counts a fetch of a zone's keys. */
  keysFetched(reason: string): void
  /** Takes a stage's duration, in seconds, and the id of the trace that shows it, if one does. */
  stage(stage: Stage, seconds: number, traceId?: string): void
  /** Takes a request's duration, in seconds, and the id of the trace that shows it, if one does. */
  request(seconds: number, traceId?: string): void
  /** Takes the time from a revocation to the end of a request in flight, in seconds. */
  revocationCut(seconds: number): void
  /**
   * Registers a gauge that is read when somebody asks.
   *
   * @param name without prefix, or whole and beginning with `caracal_`
   * @param aggregator what becomes of the values of several workers
   */
  gauge(name: string, help: string, read: () => number, aggregator: Aggregator): void
  /**
   * All of them as text, in a form that a scraper takes: OpenMetrics where traces are pointed to, which the older form
   * cannot, else Prometheus text.
   *
   * @param accept the scraper's `Accept`
   * @param families the metrics of all workers; default: this gateway's
   */
  text(accept: string | undefined, families?: readonly Family[]): Promise<MetricsText>
  /**
   * The series without labels, names without prefix and `_total` (contract section 1, `/metrics.json`).
   *
   * @param families as for {@link Meters.text}
   */
  flat(families?: readonly Family[]): Promise<Record<string, number>>
}

/** Metrics as a scraper gets them. */
export interface MetricsText {
  readonly type: string
  readonly body: string
}

/** Options of the metrics plugin. */
export interface MetricsOptions {
  /** Whether durations point to the traces that show them. Default: no. */
  readonly exemplars?: boolean
}

/** A registry as `app.metrics`. It outlives its gateway, of which it must hold nothing by then. */
function offered(registry: Registry, held: { readonly own: IFastifyMetrics | undefined }) {
  return Object.assign(registry, {
    client,
    initMetricsInRegistry: () => held.own?.initMetricsInRegistry(),
  })
}

/** What was counted since a counter was last read: the library looks labels up each time that it adds. */
class Tally {
  #count = 0

  add(by: number): void {
    this.#count += by
  }

  take(): number {
    const count = this.#count
    this.#count = 0
    return count
  }
}

async function metrics(app: FastifyInstance, options: MetricsOptions): Promise<void> {
  const { exemplars = false } = options
  const registry = new client.Registry()
  await app.register(fastifyMetrics.default, {
    endpoint: null,
    promClient: client,
    name: FASTIFY_METRICS,
    defaultMetrics: { enabled: true, register: registry },
    routeMetrics: { enabled: false },
  })
  const held = { own: app.getDecorator<IFastifyMetrics | undefined>(FASTIFY_METRICS) }
  app.decorate('metrics', offered(registry, held))
  // Node.js keeps what observes its collections for as long as it runs, and with it the registry.
  app.addHook('onClose', async () => {
    held.own = undefined
    registry.clear()
  })
  const registers = [registry]
  const counted = new Map<CounterName, Tally>()
  for (const [name, help] of Object.entries(COUNTERS)) {
    const tally = new Tally()
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- `Object.entries` widens the keys of a closed table
    counted.set(name as CounterName, tally)
    const counter = new client.Counter({
      name: `${PREFIX}${name}_total`,
      help,
      registers: [],
      collect() {
        this.inc(tally.take())
      },
    })
    registry.registerMetric(counter)
  }
  const labelled = (name: string, help: string, labelNames: string[]) =>
    new client.Counter({ name: `${PREFIX}${name}_total`, help, labelNames, registers })
  const deniedBy = new Map<string, Tally>()
  const denials = new client.Counter({
    name: `${PREFIX}denials_total`,
    help: 'Denials by check',
    labelNames: ['check'],
    registers: [],
    collect() {
      for (const [check, tally] of deniedBy) this.inc({ check }, tally.take())
    },
  })
  registry.registerMetric(denials)
  const wouldDeny = labelled('would_deny', 'Requests an observed resource would refuse', ['check'])
  const keyFetches = labelled('jwks_refetch', 'Fetches of key sets by reason', ['reason'])
  for (const check of Object.keys(DENIALS)) deniedBy.set(check, new Tally())

  const stages = new client.Histogram({
    name: `${PREFIX}stage_duration_seconds`,
    help: 'Time that a stage of a request took',
    labelNames: ['stage'],
    enableExemplars: exemplars,
    buckets: [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30],
    registers: [],
  })
  const requests = new client.Histogram<string>({
    name: `${PREFIX}request_duration_seconds`,
    help: 'Time from arrival to the end of the response',
    enableExemplars: exemplars,
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    registers: [],
  })
  // Not by `registers`, which takes no exemplars: only `text` writes them.
  for (const histogram of [stages, requests]) registry.registerMetric(histogram)

  const cuts = new client.Histogram({
    name: `${PREFIX}revocation_cut_seconds`,
    help: 'Time from a revocation to the end of a request in flight that it concerns',
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    registers,
  })

  function observe(
    histogram: Histogram<string>,
    value: number,
    traceId: string | undefined,
    labels: Record<string, string> = {},
  ): void {
    if (!exemplars) histogram.observe(labels, value)
    else if (traceId === undefined) histogram.observe({ labels, value })
    else histogram.observe({ labels, value, exemplarLabels: { trace_id: traceId } })
  }

  app.decorate('meters', {
    registry,
    count: (name, by = 1) => counted.get(name)?.add(by),
    denied(check: string) {
      let tally = deniedBy.get(check)
      if (tally === undefined) {
        tally = new Tally()
        deniedBy.set(check, tally)
      }
      tally.add(1)
      const row = isCheck(check) ? DENIALS[check] : undefined
      if (row !== undefined && 'counter' in row) counted.get(row.counter)?.add(1)
    },
    wouldDeny: check => wouldDeny.inc({ check }),
    keysFetched: reason => keyFetches.inc({ reason }),
    stage: (stage, seconds, traceId) => observe(stages, seconds, traceId, { stage }),
    request: (seconds, traceId) => observe(requests, seconds, traceId),
    revocationCut: seconds => cuts.observe(seconds),
    gauge(name, help, read, aggregator) {
      const gauge = new client.Gauge({
        name: name.startsWith('caracal_') ? name : PREFIX + name,
        help,
        collect() {
          this.set(read())
        },
        aggregator,
        registers: [],
      })
      registry.registerMetric(gauge)
    },
    async text(accept, families) {
      if (exemplars && accept?.includes('application/openmetrics-text')) {
        const all = families ?? (await registry.getMetricsAsJSON())
        return { type: client.openMetricsContentType, body: await openMetrics(all) }
      }
      const body = families === undefined ? registry.metrics() : prometheusText(families)
      return { type: registry.contentType, body: await body }
    },
    async flat(families) {
      const figures: Record<string, number> = {}
      for (const { name, values } of families ?? (await registry.getMetricsAsJSON())) {
        const [only] = values
        if (values.length !== 1 || only === undefined || Object.keys(only.labels ?? {}).length > 0)
          continue
        if (!name.startsWith('caracal_') || typeof only.value !== 'number') continue
        const short = name.replace(PREFIX, '').replace(/_total$/, '')
        figures[short === 'audit_queue_capacity' ? 'audit_queue_cap' : short] = only.value
      }
      return figures
    },
  } satisfies Meters)
}

/**
 * Metrics as OpenMetrics.
 *
 * A registry, told to write that form, takes the `_total` of a counter's name away for good.
 */
async function openMetrics(families: readonly Family[]): Promise<string> {
  const named = families.map(family =>
    family.type === 'counter' ? { ...family, name: family.name.replace(/_total$/, '') } : family,
  )
  return `${(await texts(named, new client.Registry(client.openMetricsContentType))).join('\n')}\n# EOF\n`
}

async function prometheusText(families: readonly Family[]): Promise<string> {
  return `${(await texts(families, new client.Registry())).join('\n\n')}\n`
}

async function texts(
  families: readonly Family[],
  writer: Pick<Registry, 'getMetricsAsString'>,
): Promise<string[]> {
  return Promise.all(
    families.map(family => {
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- of a metric it calls `get` alone
      const metric = { get: async () => family } as unknown as Metric
      return writer.getMetricsAsString(metric)
    }),
  )
}

export default fp(metrics, { name: 'metrics', fastify: '5.x' })
