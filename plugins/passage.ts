/**
 * One request's way through the gateway: what the checks have established so far, readable by teams only once granted.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type { Denial } from '../denial.ts'
import type { PresentedToken } from '../lib/bearer.ts'
import type { Directive, DirectiveFacts } from '../lib/directive.ts'
import type { RequestFacts } from '../lib/evidence.ts'
import type { Mandate } from '../lib/mandate.ts'
import type { CanonicalPath, RequestTarget } from '../lib/path.ts'
import type { RevocationReceipt } from '../lib/revocation-receipt.ts'
import type { TraceContext } from '../lib/trace.ts'
import type { UpstreamCall, UpstreamResponse } from '../lib/upstream-call.ts'
import type { Intent } from './audit/index.ts'
import type { Binding, Operation } from './bindings.ts'
import type { Extension } from './extension.ts'
import type { Stage } from './metrics.ts'
import type { Exchange } from './sts.ts'
import type { RequestSpans } from './tracing/index.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** The verified mandate. Reading it before its signature was verified throws. */
    readonly mandate: Mandate
    /** The resource that the caller names. Reading it before its header was checked throws. */
    readonly resource: string
    /** The binding of the mandate's zone and the resource; `undefined` when there is no binding source. */
    readonly binding: Binding | undefined
    /** The declared operation that the request matches; `undefined` on resources that enforce none. */
    readonly operation: Operation | undefined
    /** The gateway's own record of a request that passes the checks; `null` on routes that pass none. */
    passage: Passage | null
  }
}

/** What the gateway knows of a proxied request, filled in by one check after the other. */
export class Passage {
  /** `performance.now()` at arrival, in milliseconds. */
  readonly arrivedAt = performance.now()
  /** What it waits for, while it counts among the requests in flight: the gateway, or the upstream. */
  place: 'preparing' | 'dispatched' | undefined
  bearer: string | undefined
  presented: PresentedToken | undefined
  resource: string | undefined
  target: RequestTarget | undefined
  path: CanonicalPath | undefined
  mandate: Mandate | undefined
  binding: Binding | undefined
  operation: Operation | undefined
  /** The check that an observed resource would have failed (contract section 10). */
  wouldDeny: 'undeclared_operation' | 'missing_scope' | undefined
  trace: TraceContext | undefined
  /** Undefined while nothing is traced. */
  spans: RequestSpans | undefined
  /** For how long each stage that is over has lasted, in milliseconds. */
  readonly durations: Partial<Record<Stage, number>> = {}
  /** Whether the jti was spent: from then on the mandate cannot be used again. */
  spent = false
  /** Ends a check that waits for somebody's answer; `undefined` while none does. */
  endWait: (() => void) | undefined
  exchange: Exchange | undefined
  facts: DirectiveFacts | undefined
  directive: Directive | undefined
  /** Whether a plugin's own route answers it, which is not proxied. */
  own = false
  /** What plugins have asked for; undefined as long as they have not. */
  extension: Extension | undefined
  /** What every event of the request tells of it, once one was written. */
  requestFacts: RequestFacts | undefined
  /** The journal's word that the request is about to be dispatched. */
  intent: Intent | undefined
  call: UpstreamCall | undefined
  /** The upstream's answer, from its headers on. */
  answer: UpstreamResponse | undefined
  /** The last byte that was passed on of an event stream's body. */
  lastByte: number | undefined
  /** The refusal that was answered. */
  denial: Denial | undefined
  /** The revocation that concerns the request since it is in flight. */
  revocation: RevocationReceipt | undefined
  /** A refusal that came from beside the checks (late body, broken framing) and waits for the next step. */
  interruption: Denial | undefined
  /** `performance.now()` at which the response was over, or the caller gone, in milliseconds. */
  closedAt: number | undefined
  /** Whether the request has left its evidence. */
  settled = false
  /** Ends what a check waits for, with the reason; `undefined` while nothing can be ended. */
  cancelWait: ((reason: unknown) => void) | undefined

  /** Whether a byte of the request can have reached the upstream. */
  get dispatched(): boolean {
    return this.call?.dispatched === true
  }

  /** Whether the response is over, or the caller gone. */
  get closed(): boolean {
    return this.closedAt !== undefined
  }

  /** Whether a check waits for somebody's answer, which decides what evidence the request leaves. */
  get deciding(): boolean {
    return this.endWait !== undefined
  }

  /** Takes note of a revocation: the request goes no further than to its next step, which is refused. */
  revoke(receipt: RevocationReceipt, refusal: Denial): void {
    this.revocation = receipt
    this.interruption = refusal
  }

  /** Ends the wait for a check at once, and what it waits for. */
  abandon(): void {
    this.endWait?.()
    this.extension?.abandon(this.interruption)
    this.cancelWait?.(this.interruption)
  }
}

/** A check: returns when the request may go on, throws a `Denial` when it may not. */
export type Check = (
  request: FastifyRequest,
  passage: Passage,
  reply: FastifyReply,
) => void | Promise<void>

/** Settles a request that is over; see `plugins/evidence.ts`. */
export type Settle = (request: FastifyRequest, passage: Passage, reply: FastifyReply) => void

/**
 * Makes a Fastify hook of a check.
 *
 * A request whose caller has gone in the meantime goes no further: nothing is spent or sent for nobody.
 *
 * @param onDecided called when a check has decided after the caller went: the request's evidence is due now
 * @param isOpen whether a request without a passage is for a route that passes no check; default: none is
 */
export function hook(
  check: Check,
  onDecided: Settle,
  isOpen: (request: FastifyRequest) => boolean = () => false,
) {
  return (request: FastifyRequest, reply: FastifyReply, done: (error?: Error) => void): void => {
    const { passage } = request
    if (passage === null) {
      if (isOpen(request)) return done()
      done(new Error('a check ran on a request without a passage'))
      return
    }
    let result: void | Promise<void>
    try {
      result = check(request, passage, reply)
    } catch (thrown) {
      done(failure(thrown))
      return
    }
    if (result === undefined) {
      done(passage.interruption)
      return
    }
    const decided = (error?: Error) => {
      // Decided before: a revocation did not wait for the check.
      if (passage.endWait !== endWait) return
      passage.endWait = undefined
      // Whatever the check says: it can have failed because the mandate was revoked.
      const refusal = passage.revocation === undefined ? error : passage.interruption
      // A refusal is taken note of even when nobody is there to hear it.
      if (refusal !== undefined || !passage.closed) done(refusal ?? passage.interruption)
      if (passage.closed) onDecided(request, passage, reply)
    }
    const endWait = () => decided()
    passage.endWait = endWait
    result.then(
      () => decided(),
      (thrown: unknown) => decided(failure(thrown)),
    )
  }
}

/** Fastify takes a check that throws nothing, or `null`, for one that consents. */
export function failure(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error('a check failed', { cause: thrown })
}

/** The passage of a request that passes the checks. @throws Error on any other route */
export function passageOf(request: FastifyRequest): Passage {
  if (request.passage === null)
    throw new Error(
      'this route is not proxied and passes no check: set `config: { protected: true }`',
    )
  return request.passage
}

/** @throws Error when the value is not there yet */
export function granted<T>(value: T | undefined, name: string): T {
  if (value === undefined) throw new Error(`request.${name} is not established yet`)
  return value
}

async function passage(app: FastifyInstance): Promise<void> {
  app.decorateRequest('passage', null)
  app.decorateRequest('mandate', {
    getter(this: FastifyRequest) {
      return granted(passageOf(this).mandate, 'mandate')
    },
  })
  app.decorateRequest('resource', {
    getter(this: FastifyRequest) {
      return granted(passageOf(this).resource, 'resource')
    },
  })
  app.decorateRequest('binding', {
    getter(this: FastifyRequest) {
      return passageOf(this).binding
    },
  })
  app.decorateRequest('operation', {
    getter(this: FastifyRequest) {
      return passageOf(this).operation
    },
  })
}

export default fp(passage, { name: 'passage', fastify: '5.x' })
