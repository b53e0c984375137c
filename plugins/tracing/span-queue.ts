/**
 * Guarantees that a collector that is slow, away or hanging costs no request anything, and no more memory than a bound:
 * spans that find no place are counted and dropped.
 */
import { Agent as HttpAgent } from 'node:http'
import { Agent as HttpsAgent } from 'node:https'
import { setTimeout as wait } from 'node:timers/promises'
import { TraceFlags } from '@opentelemetry/api'
import { createOtlpHttpExportDelegate } from '@opentelemetry/otlp-exporter-base/node-http'
import {
  ProtobufTraceSerializer,
  TraceExporterMetricsHelper,
} from '@opentelemetry/otlp-transformer'
import { BatchSpanProcessor, type ReadableSpan, type SpanProcessor } from '@opentelemetry/sdk-trace'
import type { FastifyBaseLogger } from 'fastify'
import { loggedReason } from '../../lib/log-error.ts'
import type { Meters } from '../metrics.ts'

/** Spans that may wait for the collector, those on the way to it included. */
const MAX_WAITING = 4096

/** Spans of one export, which the event loop waits for while they are written; and milliseconds until fewer are sent. */
const BATCH = { maxExportBatchSize: 256, scheduledDelayMillis: 2_000 }

/** Milliseconds for an export, repetitions included. */
const EXPORT_TIMEOUT = 10_000

/** Sends ended spans to a collector, in batches, by OTLP over HTTP. */
export class SpanQueue implements SpanProcessor {
  readonly #meters: Pick<Meters, 'count'>
  readonly #log: Pick<FastifyBaseLogger, 'info' | 'warn'>
  readonly #batches: BatchSpanProcessor
  readonly #agent: HttpAgent
  #waiting = 0
  #failing = false
  #closed = false

  /**
   * @param endpoint base URL of the collector
   * @param headers what goes there beside the spans; never logged
   */
  constructor(
    meters: Pick<Meters, 'count'>,
    log: Pick<FastifyBaseLogger, 'info' | 'warn'>,
    endpoint: string,
    headers: Readonly<Record<string, string>>,
  ) {
    this.#meters = meters
    this.#log = log
    // The time also bounds the connecting, which the exporter's own does not.
    const connection = { keepAlive: true, timeout: EXPORT_TIMEOUT }
    this.#agent = endpoint.startsWith('https:')
      ? new HttpsAgent({ ...connection, rejectUnauthorized: true })
      : new HttpAgent(connection)
    // The exporter of the SDK would add to these options what the environment of the process says.
    const exporter = createOtlpHttpExportDelegate(
      {
        url: `${endpoint}/v1/traces`,
        headers: async () => {
          // Asked before each attempt: there is to be no further one.
          if (this.#closed) throw new Error('the gateway has closed')
          return { ...headers, 'Content-Type': 'application/x-protobuf' }
        },
        agentFactory: () => this.#agent,
        compression: 'none',
        timeoutMillis: EXPORT_TIMEOUT,
        // What waits is bounded as a whole.
        concurrencyLimit: MAX_WAITING,
      },
      ProtobufTraceSerializer,
      'otlp_http_span_exporter',
      TraceExporterMetricsHelper,
      undefined,
    )
    this.#batches = new BatchSpanProcessor({
      ...BATCH,
      maxQueueSize: MAX_WAITING,
      exportTimeoutMillis: EXPORT_TIMEOUT + 1_000,
      exporter: {
        export: (spans, callback) =>
          exporter.export(spans, result => {
            this.#left(spans.length, result.error)
            callback(result)
          }),
        shutdown: () => exporter.shutdown(),
      },
    })
  }

  onStart(): void {}

  onEnd(span: ReadableSpan): void {
    if ((span.spanContext().traceFlags & TraceFlags.SAMPLED) === 0) return
    if (this.#waiting >= MAX_WAITING) return this.#meters.count('trace_spans_dropped')
    this.#waiting += 1
    this.#batches.onEnd(span)
  }

  forceFlush(): Promise<void> {
    return this.#batches.forceFlush()
  }

  shutdown(): Promise<void> {
    return this.#batches.shutdown()
  }

  /** Sends what waits, and gives it up after so many milliseconds. */
  async close(timeout: number): Promise<void> {
    const bound = new AbortController()
    const late = wait(timeout, undefined, { signal: bound.signal }).catch(() => {})
    // What cannot be sent is told by its counter.
    await Promise.race([this.shutdown().catch(() => {}), late])
    bound.abort()
    this.#closed = true
    this.#agent.destroy()
    if (this.#waiting > 0) this.#log.warn({ spans: this.#waiting }, 'traces are given up')
  }

  #left(count: number, error: Error | undefined): void {
    this.#waiting -= count
    if (error === undefined) {
      this.#meters.count('trace_spans_sent', count)
      if (this.#failing) this.#log.info('traces are sent again')
    } else {
      this.#meters.count('trace_spans_dropped', count)
      if (!this.#failing) this.#log.warn({ reason: loggedReason(error) }, 'traces cannot be sent')
    }
    this.#failing = error !== undefined
  }
}
