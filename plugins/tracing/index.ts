/**
 * Guarantees that tracing costs nothing while it is not asked for: OpenTelemetry is not even loaded then.
 */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Sampling } from '../../config.ts'
import type { TraceContext } from '../../lib/trace.ts'
import type { Stage } from '../metrics.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Undefined without a collector. */
    readonly tracing: Tracing | undefined
  }
}

/** Traces requests. */
export interface Tracing {
  /** Gives every request of a scope its spans. Belongs right behind what opens the request's passage. */
  attend(scope: FastifyInstance): Promise<void>
}

/** One request's spans: one of its own, and one under it for each stage. */
export interface RequestSpans {
  /** The context of the request's own span. */
  readonly trace: TraceContext
  /** The trace's id, 32 hex digits, when the trace is recorded: what points to it from the metrics. */
  readonly exemplar: string | undefined
  begin(stage: Stage): StageSpan
  /** Ends the request's own span. */
  end(end: RequestEnd): void
}

/** The span of a stage. */
export interface StageSpan {
  /** The span's context. */
  readonly trace: TraceContext
  /** Ends the span, with the HTTP status that answered it, if one did. */
  end(status: number | undefined): void
  /** Ends the span by what went wrong. */
  fail(error: unknown): void
}

/** How a request ended. */
export interface RequestEnd {
  /** HTTP status; undefined when the caller was gone before it had one. */
  readonly status: number | undefined
  /** The check that refused, or the `error_kind` of its evidence (contract section 8). */
  readonly error: string | undefined
  /** `performance.now()` at that time, in milliseconds. */
  readonly at: number
}

/** Options of the tracing plugin. */
export interface TracingOptions {
  /** Base URL of an OTLP collector, without a slash at its end; undefined: nothing is traced. */
  readonly endpoint: string | undefined
  /** What goes to the collector beside the spans; never logged. */
  readonly headers: Readonly<Record<string, string>>
  /** What every span tells of the process, `service.name` included. */
  readonly resource: Readonly<Record<string, string>>
  readonly sampling: Sampling
  /** 0 to 1, for the samplings that take a share. */
  readonly share: number
  /** Where exchanges go. */
  readonly stsUrl: string
  /** Longest time for the last spans to leave when the gateway closes, in milliseconds. */
  readonly flushTimeout: number
}

async function tracing(app: FastifyInstance, options: TracingOptions): Promise<void> {
  const { endpoint } = options
  if (endpoint === undefined) return void app.decorate('tracing', undefined)
  const { openTracing } = await import('./otel.ts')
  app.decorate('tracing', openTracing(app, endpoint, options))
}

export default fp(tracing, { name: 'tracing', fastify: '5.x', dependencies: ['metrics'] })
