/**
 * Tells of a request in spans, by OpenTelemetry's semantic conventions for HTTP where they fit: no token, credential,
 * path, query, header or body.
 */
import {
  type Attributes,
  type Context,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  type SpanOptions,
  SpanStatusCode,
  type Tracer,
  TraceFlags,
  trace,
} from '@opentelemetry/api'
import type { FastifyRequest } from 'fastify'
import { Denial } from '../../denial.ts'
import { joinedLines } from '../../lib/headers.ts'
import { type TraceContext, traceContext } from '../../lib/trace.ts'
import type { Stage } from '../metrics.ts'
import { type Passage, passageOf } from '../passage.ts'
import type { RequestEnd, RequestSpans, StageSpan } from './index.ts'

/** What the conventions call an error that has no name. */
const UNNAMED = '_OTHER'

/** What a request's own span is opened with: what is known of any request, whoever sends it. */
function openingAttributes({ method, raw, id }: FastifyRequest): Attributes {
  return {
    'http.request.method': method,
    'url.scheme': 'encrypted' in raw.socket && raw.socket.encrypted === true ? 'https' : 'http',
    'network.protocol.version': raw.httpVersion,
    'caracal.request_id': id,
  }
}

/** A context whose span is the caller's. */
function callersContext({ traceparent, traceId }: TraceContext): Context {
  return trace.setSpanContext(ROOT_CONTEXT, {
    traceId,
    spanId: traceparent.slice(36, 52),
    traceFlags: Number.parseInt(traceparent.slice(53, 55), 16) & TraceFlags.SAMPLED,
    isRemote: true,
  })
}

/** The spans of one request. */
export class Spans implements RequestSpans {
  readonly trace: TraceContext
  readonly exemplar: string | undefined
  /** The request's own span. */
  readonly own: Span
  readonly #request: FastifyRequest
  readonly #passage: Passage
  readonly #end: Span['end']
  readonly #tracer: Tracer
  readonly #sts: URL
  /** Of `performance.now()`, in milliseconds since 1970: one for all, so that no span ends after its parent. */
  readonly #epoch = Date.now() - performance.now()

  /** @param sts where exchanges go */
  constructor(request: FastifyRequest, tracer: Tracer, sts: URL) {
    const passage = passageOf(request)
    const caller = traceContext(joinedLines(request.raw.headers['traceparent']))
    const options: SpanOptions = {
      kind: SpanKind.SERVER,
      startTime: this.#epoch + passage.arrivedAt,
      attributes: openingAttributes(request),
    }
    const parent = caller.inherited ? callersContext(caller) : ROOT_CONTEXT
    const span = tracer.startSpan(request.method, options, parent)
    this.#request = request
    this.#passage = passage
    this.#tracer = tracer
    this.#sts = sts
    this.own = span
    this.trace = contextOf(span, caller.inherited)
    this.exemplar = isSampled(span) ? this.trace.traceId : undefined
    // @fastify/otel ends it as soon as the response is out; how the request ended is known a little later.
    this.#end = span.end.bind(span)
    span.end = () => {}
  }

  begin(stage: Stage): StageSpan {
    const now = () => this.#epoch + performance.now()
    const options = { ...this.#optionsOf(stage), startTime: now() }
    const parent = trace.setSpan(ROOT_CONTEXT, this.own)
    const span = this.#tracer.startSpan(stage, options, parent)
    return {
      trace: contextOf(span, this.trace.inherited),
      end(status) {
        if (status !== undefined) span.setAttribute('http.response.status_code', status)
        // To the conventions, a client has failed when it was refused.
        if (status !== undefined && status >= 400) setError(span, String(status))
        span.end(now())
      },
      fail(error) {
        if (error instanceof Denial && error.check === 'sts_refused') {
          span.setAttribute('http.response.status_code', error.statusCode)
        }
        setError(span, error instanceof Denial ? error.check : UNNAMED)
        span.end(now())
      },
    }
  }

  end({ status, error, at }: RequestEnd): void {
    const span = this.own
    if (span.isRecording()) {
      const { denial, mandate, operation, resource, wouldDeny } = this.#passage
      if (status !== undefined) span.setAttribute('http.response.status_code', status)
      if (denial !== undefined) span.setAttribute('caracal.check', denial.check)
      // What a stranger claims is not told.
      if (mandate !== undefined) {
        span.setAttributes({ 'caracal.zone': mandate.zoneId, 'caracal.client': mandate.clientId })
        if (resource !== undefined) span.setAttribute('caracal.resource', resource)
      }
      if (wouldDeny !== undefined) span.setAttribute('caracal.would_deny', wouldDeny)
      if (operation !== undefined) {
        span.updateName(`${this.#request.method} ${operation.path}`)
        span.setAttribute('http.route', operation.path)
      }
      // A server has not failed when it refuses.
      const failed = denial === undefined ? error !== undefined : denial.statusCode >= 500
      if (failed || (status !== undefined && status >= 500)) setError(span, error ?? String(status))
      else if (error !== undefined) span.setAttribute('error.type', error)
    }
    this.#end(this.#epoch + at)
  }

  #optionsOf(stage: Stage): SpanOptions {
    switch (stage) {
      case 'verify':
        return { kind: SpanKind.INTERNAL }
      case 'replay':
        return {
          kind: SpanKind.CLIENT,
          attributes: { 'db.system.name': 'redis', 'db.operation.name': 'SET' },
        }
      case 'exchange':
        return {
          kind: SpanKind.CLIENT,
          attributes: { 'http.request.method': 'POST', ...serverAttributes(this.#sts) },
        }
      case 'upstream': {
        const upstream = this.#passage.directive?.upstream
        return {
          kind: SpanKind.CLIENT,
          attributes: {
            'http.request.method': this.#request.method,
            ...(upstream !== undefined && serverAttributes(upstream)),
          },
        }
      }
    }
  }
}

function serverAttributes({
  protocol,
  hostname,
  port,
}: Pick<URL, 'protocol' | 'hostname'> & { port: string | number }): Attributes {
  return {
    'url.scheme': protocol.replace(':', ''),
    'server.address': hostname,
    'server.port': Number(port) || (protocol === 'https:' ? 443 : 80),
  }
}

function setError(span: Span, type: string): void {
  span.setAttribute('error.type', type).setStatus({ code: SpanStatusCode.ERROR })
}

function isSampled(span: Span): boolean {
  return (span.spanContext().traceFlags & TraceFlags.SAMPLED) !== 0
}

/** A span's context as it goes on (W3C Trace Context section 3.2). */
function contextOf(span: Span, inherited: boolean): TraceContext {
  const { traceId, spanId } = span.spanContext()
  const traceparent = `00-${traceId}-${spanId}-${isSampled(span) ? '01' : '00'}`
  return { traceparent, traceId, inherited }
}
