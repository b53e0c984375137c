/**
 * Guarantees that a request's spans reach a collector of this gateway's own choice: nothing of OpenTelemetry's global
 * state is set, and neither that nor the environment counts.
 */
import { FastifyOtelInstrumentation } from '@fastify/otel'
import type { Span, Tracer } from '@opentelemetry/api'
import { defaultResource, resourceFromAttributes } from '@opentelemetry/resources'
import { TracerProvider } from '@opentelemetry/sdk-trace'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { passageOf } from '../passage.ts'
import type { Tracing, TracingOptions } from './index.ts'
import { samplerOf } from './sampler.ts'
import { SpanQueue } from './span-queue.ts'
import { Spans } from './spans.ts'

/** Characters. A resource's name is as long as its caller makes it. */
const SPAN_LIMITS = { attributeValueLengthLimit: 1024 }

/** Opens the way to a collector; it closes with the gateway. */
export function openTracing(
  app: FastifyInstance,
  endpoint: string,
  options: TracingOptions,
): Tracing {
  const queue = new SpanQueue(app.meters, app.log, endpoint, options.headers)
  const provider = new TracerProvider({
    resource: defaultResource().merge(resourceFromAttributes(options.resource)),
    sampler: samplerOf(options.sampling, options.share),
    spanLimits: SPAN_LIMITS,
    spanProcessors: [queue],
  })
  app.addHook('onClose', () => queue.close(options.flushTimeout))
  const tracer = provider.getTracer('caracal-gateway')
  return { attend: scope => attend(scope, tracer, new URL(options.stsUrl)) }
}

/**
 * Has @fastify/otel open a span for every request of a scope, and hand it to the scope's hooks
 * (`request.opentelemetry()`).
 */
async function attend(scope: FastifyInstance, tracer: Tracer, sts: URL): Promise<void> {
  const requests = new RequestTracer(tracer, request => open(request, tracer, sts))
  const instrumentation = new FastifyOtelInstrumentation({
    instrumentHooks: false,
    instrumentHandler: false,
    recordExceptions: false,
    // Of routes it would wrap the hooks that end a span before the body, and put an error's message on it.
    ignorePaths: target => 'handler' in target,
  })
  instrumentation.setTracerProvider({ getTracer: () => requests })
  scope.addHook('onRequest', (request, _reply, done) => {
    // A plugin's own route that passes no check has a span of the usual kind.
    if (request.passage === null) done()
    else requests.await(request, done)
  })
  await scope.register(instrumentation.plugin())
}

/** Opens a request's own span. */
function open(request: FastifyRequest, tracer: Tracer, sts: URL): Span {
  const spans = new Spans(request, tracer, sts)
  passageOf(request).spans = spans
  return spans.own
}

/**
 * The tracer that @fastify/otel is given.
 *
 * It asks OpenTelemetry's global propagator for the parent of a request's span. Two gateways of one process share no
 * such thing: the parent comes from the request that is awaited.
 */
class RequestTracer implements Tracer {
  readonly #tracer: Tracer
  readonly #open: (request: FastifyRequest) => Span
  #awaited: FastifyRequest | undefined
  readonly startActiveSpan: Tracer['startActiveSpan']

  constructor(tracer: Tracer, open: (request: FastifyRequest) => Span) {
    this.#tracer = tracer
    this.#open = open
    this.startActiveSpan = tracer.startActiveSpan.bind(tracer)
  }

  /** Expects a request's span to be opened while `next` runs. */
  await(request: FastifyRequest, next: () => void): void {
    this.#awaited = request
    next()
    this.#awaited = undefined
  }

  startSpan(...args: Parameters<Tracer['startSpan']>): Span {
    const request = this.#awaited
    this.#awaited = undefined
    return request === undefined ? this.#tracer.startSpan(...args) : this.#open(request)
  }
}
