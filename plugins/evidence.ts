/**
 * Guarantees that a request leaves the evidence that is due, once, however it ends (contract section 8).
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import {
  deniedEvent,
  interruptedEvent,
  type ObservedOperation,
  type RequestFacts,
  type RequestOutcome,
  type RequestRoute,
  refusalOutcome,
  replayEvent,
  resourceRequestEvent,
} from '../lib/evidence.ts'
import { loggedReason } from '../lib/log-error.ts'
import { type Mandate, subjectFingerprint } from '../lib/mandate.ts'
import { operationPattern } from '../lib/operation-pattern.ts'
import type { RevocationReceipt } from '../lib/revocation-receipt.ts'
import { CallerGone } from '../lib/upstream-call.ts'
import type { Check, Passage, Settle } from './passage.ts'
import type { RequestEnd } from './tracing/index.ts'

declare module 'fastify' {
  interface FastifyInstance {
    evidence: Evidence
  }
}

/** Where requests leave their evidence. */
export interface Evidence {
  /** Records what is due for a request that is over. A second call, and one while a check decides, does nothing. */
  readonly settle: Settle
  /**
   * Writes that a request is about to be dispatched, as `AUDIT_DURABILITY` wants it.
   *
   * @throws Denial `evidence_unavailable`
   */
  readonly intend: Check
}

/** What nginx logs for a caller that went before it had an answer. */
const CALLER_GONE = 499

/** Denials that leave no event: the STS audits its own, and evidence that cannot be kept cannot be kept. */
const UNRECORDED = new Set(['sts_refused', 'evidence_unavailable'])

async function evidence(app: FastifyInstance): Promise<void> {
  function settle(request: FastifyRequest, passage: Passage, reply: FastifyReply): void {
    if (passage.settled || passage.deciding) return
    passage.settled = true
    const milliseconds = duration(passage)
    app.meters.request(milliseconds / 1000, passage.spans?.exemplar)
    const { mandate, denial } = passage
    // A request can also have come to its own end before its turn to be cut.
    const revocation = passage.revocation?.cut === true ? passage.revocation : undefined
    if (revocation?.latencyMs !== undefined) app.meters.revocationCut(revocation.latencyMs / 1000)
    passage.spans?.end(spanEnd(passage, reply, revocation))
    if (denial === undefined) log(request, passage, revocation)
    if (mandate === undefined || UNRECORDED.has(denial?.check ?? '')) return
    const facts = factsOf(request, passage, mandate)
    if (facts.observed !== undefined) logObserved(request, facts, passage.wouldDeny)
    if (passage.exchange !== undefined) {
      const outcome = requestOutcome(passage, reply, revocation)
      if (outcome.status === 'upstream_error') app.meters.count('upstream_errors')
      app.audit.record(resourceRequestEvent(facts, outcome), passage.intent)
    } else if (denial?.check === 'replayed') {
      app.audit.record(replayEvent(facts, mandate.jti))
    } else if (denial !== undefined) {
      const { check, statusCode } = denial
      app.audit.record(deniedEvent(facts, check, statusCode, passage.wouldDeny, revocation))
    }
  }

  app.decorate('evidence', {
    settle,
    intend(request, passage) {
      if (!app.audit.journaled) return undefined
      const facts = factsOf(request, passage, request.mandate)
      passage.intent = app.audit.intend(interruptedEvent(facts, routeOf(passage)))
      return app.audit.safe(passage.intent)
    },
  } satisfies Evidence)
}

function spanEnd(
  passage: Passage,
  reply: FastifyReply,
  revocation: RevocationReceipt | undefined,
): RequestEnd {
  const { denial, closedAt = performance.now() } = passage
  return {
    status: reply.raw.headersSent ? reply.raw.statusCode : undefined,
    error:
      denial?.check ?? (revocation === undefined ? endOf(passage, reply).errorKind : 'revoked'),
    at: closedAt,
  }
}

/** Made once for both events, the intent and the outcome. */
function factsOf(request: FastifyRequest, passage: Passage, mandate: Mandate): RequestFacts {
  passage.requestFacts ??= requestFacts(request, passage, mandate)
  return passage.requestFacts
}

/** Milliseconds from arrival to the end of the response, or until now. */
function duration({ arrivedAt, closedAt = performance.now() }: Passage): number {
  return closedAt - arrivedAt
}

/** What was refused is logged where it is refused. */
function log(
  request: FastifyRequest,
  passage: Passage,
  revocation: RevocationReceipt | undefined,
): void {
  const { resource, answer, mandate, call } = passage
  const facts = {
    zone: mandate?.zoneId,
    client: mandate?.clientId,
    resource,
    method: request.method,
    status: answer?.statusCode,
    ms: Math.round(duration(passage)),
    stages: passage.durations,
    bytes: call?.passedBytes,
    trace_id: passage.spans?.exemplar,
  }
  const failure = call?.failure
  if (revocation !== undefined) {
    const { anchor } = revocation
    request.log.info({ check: 'revoked', anchor, ...facts }, 'request cut short')
  } else if (failure !== undefined && !(failure instanceof CallerGone)) {
    request.log.warn({ ...facts, reason: loggedReason(failure) }, 'answer broken off')
  } else request.log.debug(facts, 'request')
}

/** Enforced, the operation would be refused: whoever adopts the gateway wants to know before. */
function logObserved(
  request: FastifyRequest,
  { zoneId, clientId, resource, method, observed }: RequestFacts,
  check: string | undefined,
): void {
  const operation = { method, path: observed?.path, scope: observed?.scope }
  const facts = { would_deny: check, zone: zoneId, client: clientId, resource, ...operation }
  request.log.info(facts, 'request would be denied')
}

function requestFacts(request: FastifyRequest, passage: Passage, mandate: Mandate): RequestFacts {
  return {
    requestId: request.id,
    zoneId: mandate.zoneId,
    clientId: mandate.clientId,
    resource: passage.resource ?? '',
    subjectFingerprint: subjectFingerprint(passage.presented?.token ?? ''),
    subjectKind: mandate.subjectKind,
    agentSessionId: mandate.anchors.agentSessionId,
    delegationEdgeId: mandate.anchors.delegationEdgeId,
    method: request.method,
    observed: passage.wouldDeny && observedOperation(passage, mandate),
    annotations: passage.extension?.annotations,
  }
}

function observedOperation({ operation, path }: Passage, mandate: Mandate): ObservedOperation {
  return {
    path: operation?.path ?? operationPattern(path?.decoded ?? ''),
    scope: operation?.scope,
    mandateScope: [...mandate.scopes].join(' '),
  }
}

function requestOutcome(
  passage: Passage,
  reply: FastifyReply,
  revocation: RevocationReceipt | undefined,
): RequestOutcome {
  const { denial, call } = passage
  return {
    ...endOf(passage, reply),
    gatewayStatus:
      denial?.statusCode ?? (reply.raw.headersSent ? reply.raw.statusCode : CALLER_GONE),
    upstreamStatus: passage.answer?.statusCode,
    latencyMs: duration(passage),
    responseBytes: call?.passedBytes ?? 0,
    revocation,
    ...routeOf(passage),
  }
}

function routeOf({ trace, facts, wouldDeny }: Passage): RequestRoute {
  return {
    traceId: trace?.traceId,
    upstreamHost: facts?.upstreamHost,
    authMode: facts?.authMode,
    providerId: facts?.providerId,
    connectionId: facts?.connectionId,
    wouldDeny,
  }
}

function endOf(
  passage: Passage,
  reply: FastifyReply,
): Pick<RequestOutcome, 'status' | 'errorKind'> {
  const { denial, call, answer } = passage
  if (denial !== undefined) return refusalOutcome(denial.check, passage.dispatched)
  if (answer === undefined) {
    // A plugin's hook has answered instead.
    return call === undefined && reply.raw.headersSent
      ? { status: 'upstream_rejected', errorKind: undefined }
      : { status: 'upstream_error', errorKind: 'transport_error' }
  }
  const cutShort = passage.extension?.rewritten?.cutShort === true
  return reply.raw.writableFinished && call?.failed === false && !cutShort
    ? { status: 'executed', errorKind: undefined }
    : { status: 'upstream_error', errorKind: 'response_copy_failed' }
}

export default fp(evidence, {
  name: 'evidence',
  fastify: '5.x',
  dependencies: ['audit', 'metrics', 'passage'],
})
