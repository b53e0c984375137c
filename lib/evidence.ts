/**
 * Writes what happened to a request as audit events (contract section 8): no token, credential, query or body.
 */
import { isCheck } from '../denial.ts'
import type { Annotations } from './annotations.ts'
import type { AuditEvent } from './audit-event.ts'
import type { RevocationReceipt } from './revocation-receipt.ts'

/** An event of the gateway's own. */
export interface EvidenceEvent extends AuditEvent {
  readonly event_type: 'gateway_resource_request' | 'gateway_request_denied' | 'replay_detected'
}

/** What all events of a request tell of it. */
export interface RequestFacts {
  readonly requestId: string
  readonly zoneId: string
  readonly clientId: string
  readonly resource: string
  readonly subjectFingerprint: string
  readonly subjectKind: string | undefined
  readonly agentSessionId: string | undefined
  readonly delegationEdgeId: string | undefined
  readonly method: string
  /** Of a request that only an observed resource lets through. */
  readonly observed?: ObservedOperation | undefined
  /** What plugins have noted. */
  readonly annotations?: Annotations | undefined
}

/** What it would take to declare a request that an observed resource let through. */
export interface ObservedOperation {
  /** The operation's path, ids folded to `:id`; undefined when it is too long to be declared. */
  readonly path: string | undefined
  /** The scope that the operation needs, when it is declared. */
  readonly scope: string | undefined
  /** The mandate's scopes, separated by spaces. */
  readonly mandateScope: string
}

/** Where a request that passed the exchange goes. */
export interface RequestRoute {
  readonly traceId: string | undefined
  readonly upstreamHost: string | undefined
  readonly authMode: string | undefined
  readonly providerId: string | undefined
  readonly connectionId: string | undefined
  readonly wouldDeny: string | undefined
}

/** How a request that passed the exchange ended. */
export interface RequestOutcome extends RequestRoute {
  readonly status: EvaluationStatus
  readonly errorKind: ErrorKind | undefined
  /** HTTP status that the caller got, or would have got. */
  readonly gatewayStatus: number
  readonly upstreamStatus: number | undefined
  readonly latencyMs: number
  readonly responseBytes: number
  /** The revocation that ended the request. */
  readonly revocation: RevocationReceipt | undefined
}

/** `evaluation_status` of a `gateway_resource_request`. */
export type EvaluationStatus = 'executed' | 'upstream_error' | 'upstream_rejected' | 'build_failed'

/** `error_kind` of a `gateway_resource_request`. */
export type ErrorKind =
  | 'upstream_not_addressable'
  | 'provider_host_not_allowed'
  | 'request_build_failed'
  | 'transport_error'
  | 'response_copy_failed'

/** `result_class`: what kind of answer the upstream gave. */
export function resultClass(upstreamStatus: number | undefined): string {
  switch (Math.floor((upstreamStatus ?? 0) / 100)) {
    case 2:
      return 'success'
    case 3:
      return 'redirect'
    case 4:
      return 'client_error'
    case 5:
      return 'server_error'
    default:
      return 'unknown'
  }
}

/** How the refusal of a check after the exchange is evidenced. */
export function refusalOutcome(
  check: string,
  dispatched: boolean,
): Pick<RequestOutcome, 'status' | 'errorKind'> {
  switch (check) {
    case 'unrouted_resource':
      return { status: 'upstream_rejected', errorKind: undefined }
    case 'unsafe_upstream':
      return { status: 'upstream_rejected', errorKind: 'upstream_not_addressable' }
    case 'credential_host':
      return { status: 'upstream_rejected', errorKind: 'provider_host_not_allowed' }
    case 'request_build_failed':
      return { status: 'build_failed', errorKind: 'request_build_failed' }
    case 'internal_error':
      return dispatched
        ? { status: 'upstream_error', errorKind: 'transport_error' }
        : { status: 'build_failed', errorKind: 'request_build_failed' }
    default:
      // A check of a plugin's.
      return dispatched || isCheck(check)
        ? { status: 'upstream_error', errorKind: 'transport_error' }
        : { status: 'upstream_rejected', errorKind: undefined }
  }
}

/** The event of a request that passed the exchange. */
export function resourceRequestEvent(facts: RequestFacts, outcome: RequestOutcome): EvidenceEvent {
  return {
    zone_id: facts.zoneId,
    event_type: 'gateway_resource_request',
    request_id: facts.requestId,
    decision: 'allow',
    evaluation_status: outcome.status,
    metadata_json: {
      ...requestMetadata(facts),
      gateway_status: outcome.gatewayStatus,
      latency_ms: Math.round(outcome.latencyMs),
      response_bytes: outcome.responseBytes,
      ...routeMetadata(outcome),
      upstream_status: outcome.upstreamStatus,
      result_class: resultClass(outcome.upstreamStatus),
      revocation_interrupted: outcome.revocation !== undefined,
      ...revocationMetadata(outcome.revocation),
      error_kind: outcome.errorKind,
    },
  }
}

/** The event of a request that was about to be dispatched, and of which nobody knows more: the gateway died. */
export function interruptedEvent(facts: RequestFacts, route: RequestRoute): EvidenceEvent {
  return {
    zone_id: facts.zoneId,
    event_type: 'gateway_resource_request',
    request_id: facts.requestId,
    decision: 'allow',
    evaluation_status: 'interrupted',
    metadata_json: {
      ...requestMetadata(facts),
      ...routeMetadata(route),
      result_class: resultClass(undefined),
    },
  }
}

/**
 * The event of a denial after the signature was verified and before the exchange.
 *
 * @param wouldDeny the check that an observed resource would have failed before
 * @param revocation what ended the request while it was in flight
 */
export function deniedEvent(
  facts: RequestFacts,
  check: string,
  status: number,
  wouldDeny?: string,
  revocation?: RevocationReceipt,
): EvidenceEvent {
  return {
    zone_id: facts.zoneId,
    event_type: 'gateway_request_denied',
    request_id: facts.requestId,
    decision: 'deny',
    evaluation_status: check,
    metadata_json: {
      reason: check,
      ...requestMetadata(facts),
      gateway_status: status,
      would_deny: wouldDeny,
      ...revocationMetadata(revocation),
    },
  }
}

/** The event of a mandate that was presented again. */
export function replayEvent(facts: RequestFacts, jti: string): EvidenceEvent {
  return {
    zone_id: facts.zoneId,
    event_type: 'replay_detected',
    request_id: facts.requestId,
    decision: 'deny',
    evaluation_status: 'anomaly',
    metadata_json: {
      jti,
      resource: facts.resource,
      client_id: facts.clientId,
      subject_fp: facts.subjectFingerprint,
      request_id: facts.requestId,
      agent_session_id: facts.agentSessionId,
      delegation_edge_id: facts.delegationEdgeId,
      annotations: facts.annotations,
    },
  }
}

function routeMetadata(route: RequestRoute) {
  return {
    trace_id: route.traceId,
    upstream_host: route.upstreamHost,
    auth_mode: route.authMode,
    provider_id: route.providerId,
    connection_id: route.connectionId,
    would_deny: route.wouldDeny,
  }
}

function revocationMetadata(receipt: RevocationReceipt | undefined) {
  return { revoked_anchor: receipt?.anchor, revocation_latency_ms: receipt?.latencyMs }
}

function requestMetadata(facts: RequestFacts) {
  return {
    application_id: facts.clientId,
    resource: facts.resource,
    subject_fingerprint: facts.subjectFingerprint,
    subject_kind: facts.subjectKind,
    agent_session_id: facts.agentSessionId,
    delegation_edge_id: facts.delegationEdgeId,
    method: facts.method,
    operation_path: facts.observed?.path,
    operation_scope: facts.observed?.scope,
    mandate_scope: facts.observed?.mandateScope,
    annotations: facts.annotations,
  }
}
