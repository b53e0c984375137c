// Holds the events to contract section 8: what is told, under which names, and for which end of a request.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { DENIALS, isCheck } from '../../denial.ts'
import * as evidence from '../../lib/evidence.ts'
import {
  type EvidenceEvent,
  type RequestFacts,
  type RequestOutcome,
  refusalOutcome,
  resultClass,
} from '../../lib/evidence.ts'
import { RevocationReceipt } from '../../lib/revocation-receipt.ts'

/** An event as it is read again: what is undefined is not there. */
const written =
  <Arguments extends unknown[]>(make: (...of: Arguments) => EvidenceEvent) =>
  (...of: Arguments): EvidenceEvent =>
    JSON.parse(JSON.stringify(make(...of)))

const deniedEvent = written(evidence.deniedEvent)
const interruptedEvent = written(evidence.interruptedEvent)
const replayEvent = written(evidence.replayEvent)
const resourceRequestEvent = written(evidence.resourceRequestEvent)

const facts: RequestFacts = {
  requestId: 'r-1',
  zoneId: 'zone-1',
  clientId: 'client-1',
  resource: 'resource://a',
  subjectFingerprint: '0123456789abcdef',
  subjectKind: 'user',
  agentSessionId: 'a-1',
  delegationEdgeId: 'd-1',
  method: 'POST',
}
const bare: RequestFacts = {
  ...facts,
  subjectKind: undefined,
  agentSessionId: undefined,
  delegationEdgeId: undefined,
}
const outcome: RequestOutcome = {
  status: 'executed',
  errorKind: undefined,
  gatewayStatus: 201,
  upstreamStatus: 201,
  latencyMs: 12.6,
  responseBytes: 3,
  revocation: undefined,
  traceId: '0af7651916cd43dd8448eb211c80319c',
  upstreamHost: 'api.test',
  authMode: 'provider_oauth',
  providerId: 'p-1',
  connectionId: 'c-1',
  wouldDeny: 'missing_scope',
}

function receipt(revokedAt: number | undefined): RevocationReceipt {
  const made = new RevocationReceipt('root_sid', revokedAt)
  made.stamp(1_042)
  return made
}

describe('resourceRequestEvent', () => {
  it('tells all that is known', () => {
    assert.deepEqual(resourceRequestEvent(facts, outcome), {
      zone_id: 'zone-1',
      event_type: 'gateway_resource_request',
      request_id: 'r-1',
      decision: 'allow',
      evaluation_status: 'executed',
      metadata_json: {
        application_id: 'client-1',
        resource: 'resource://a',
        subject_fingerprint: '0123456789abcdef',
        subject_kind: 'user',
        agent_session_id: 'a-1',
        delegation_edge_id: 'd-1',
        method: 'POST',
        gateway_status: 201,
        latency_ms: 13,
        response_bytes: 3,
        trace_id: '0af7651916cd43dd8448eb211c80319c',
        upstream_host: 'api.test',
        auth_mode: 'provider_oauth',
        provider_id: 'p-1',
        connection_id: 'c-1',
        upstream_status: 201,
        result_class: 'success',
        revocation_interrupted: false,
        would_deny: 'missing_scope',
      },
    })
  })

  it('is a receipt when a revocation ended the request', () => {
    const { metadata_json: metadata } = resourceRequestEvent(facts, {
      ...outcome,
      revocation: receipt(1_000),
    })
    const { revocation_interrupted, revoked_anchor, revocation_latency_ms } = metadata
    assert.deepEqual(
      [revocation_interrupted, revoked_anchor, revocation_latency_ms],
      [true, 'root_sid', 42],
    )
    const unknown = resourceRequestEvent(facts, { ...outcome, revocation: receipt(undefined) })
    assert.ok(!('revocation_latency_ms' in unknown.metadata_json))
  })

  it('leaves out what is not known', () => {
    const event = resourceRequestEvent(bare, {
      ...outcome,
      status: 'upstream_error',
      errorKind: 'transport_error',
      gatewayStatus: 502,
      upstreamStatus: undefined,
      traceId: undefined,
      upstreamHost: undefined,
      authMode: undefined,
      providerId: undefined,
      connectionId: undefined,
      wouldDeny: undefined,
    })
    assert.deepEqual(event.metadata_json, {
      application_id: 'client-1',
      resource: 'resource://a',
      subject_fingerprint: '0123456789abcdef',
      method: 'POST',
      gateway_status: 502,
      latency_ms: 13,
      response_bytes: 3,
      result_class: 'unknown',
      revocation_interrupted: false,
      error_kind: 'transport_error',
    })
  })
})

describe('interruptedEvent', () => {
  it('tells where the request was going, and nothing of an answer', () => {
    assert.deepEqual(interruptedEvent(facts, outcome), {
      zone_id: 'zone-1',
      event_type: 'gateway_resource_request',
      request_id: 'r-1',
      decision: 'allow',
      evaluation_status: 'interrupted',
      metadata_json: {
        application_id: 'client-1',
        resource: 'resource://a',
        subject_fingerprint: '0123456789abcdef',
        subject_kind: 'user',
        agent_session_id: 'a-1',
        delegation_edge_id: 'd-1',
        method: 'POST',
        trace_id: '0af7651916cd43dd8448eb211c80319c',
        upstream_host: 'api.test',
        auth_mode: 'provider_oauth',
        provider_id: 'p-1',
        connection_id: 'c-1',
        would_deny: 'missing_scope',
        result_class: 'unknown',
      },
    })
  })
})

describe('deniedEvent', () => {
  it('names the check twice: as status and as reason', () => {
    const event = deniedEvent(facts, 'missing_scope', 403)
    assert.equal(event.event_type, 'gateway_request_denied')
    assert.equal(event.decision, 'deny')
    assert.equal(event.evaluation_status, 'missing_scope')
    assert.deepEqual(event.metadata_json, {
      reason: 'missing_scope',
      application_id: 'client-1',
      resource: 'resource://a',
      subject_fingerprint: '0123456789abcdef',
      subject_kind: 'user',
      agent_session_id: 'a-1',
      delegation_edge_id: 'd-1',
      method: 'POST',
      gateway_status: 403,
    })
  })

  it('is a receipt when a revocation ended the request before the exchange was through', () => {
    const { metadata_json: metadata } = deniedEvent(
      facts,
      'revoked',
      401,
      'missing_scope',
      receipt(1_000),
    )
    assert.equal(metadata['revoked_anchor'], 'root_sid')
    assert.equal(metadata['revocation_latency_ms'], 42)
  })
})

describe('replayEvent', () => {
  it('has the members that Caracal’s alerts read', () => {
    assert.deepEqual(replayEvent(bare, 'j-1'), {
      zone_id: 'zone-1',
      event_type: 'replay_detected',
      request_id: 'r-1',
      decision: 'deny',
      evaluation_status: 'anomaly',
      metadata_json: {
        jti: 'j-1',
        resource: 'resource://a',
        client_id: 'client-1',
        subject_fp: '0123456789abcdef',
        request_id: 'r-1',
      },
    })
  })
})

describe('resultClass', () => {
  const classes: [status: number | undefined, name: string][] = [
    [undefined, 'unknown'],
    [100, 'unknown'],
    [199, 'unknown'],
    [200, 'success'],
    [299, 'success'],
    [300, 'redirect'],
    [304, 'redirect'],
    [399, 'redirect'],
    [400, 'client_error'],
    [499, 'client_error'],
    [500, 'server_error'],
    [599, 'server_error'],
    [600, 'unknown'],
    [999, 'unknown'],
  ]
  for (const [status, name] of classes) {
    it(`is ${name} for ${status}`, () => assert.equal(resultClass(status), name))
  }
})

describe('refusalOutcome', () => {
  const before: Record<string, [status: string, errorKind: string | undefined]> = {
    unrouted_resource: ['upstream_rejected', undefined],
    unsafe_upstream: ['upstream_rejected', 'upstream_not_addressable'],
    credential_host: ['upstream_rejected', 'provider_host_not_allowed'],
    request_build_failed: ['build_failed', 'request_build_failed'],
    internal_error: ['build_failed', 'request_build_failed'],
    upstream_unreachable: ['upstream_error', 'transport_error'],
    upstream_timeout: ['upstream_error', 'transport_error'],
    request_too_large: ['upstream_error', 'transport_error'],
    request_timeout: ['upstream_error', 'transport_error'],
    revoked: ['upstream_error', 'transport_error'],
  }
  for (const [check, [status, errorKind]] of Object.entries(before)) {
    it(`is ${status} for ${check}`, () => {
      assert.ok(isCheck(check))
      assert.deepEqual(refusalOutcome(check, false), { status, errorKind })
    })
  }

  it('is upstream_error for our own fault once a byte went out', () => {
    assert.deepEqual(refusalOutcome('internal_error', true), {
      status: 'upstream_error',
      errorKind: 'transport_error',
    })
  })

  it('knows an outcome for every check there is', () => {
    for (const check of Object.keys(DENIALS)) {
      assert.match(refusalOutcome(check, true).status, /^(upstream_(error|rejected)|build_failed)$/)
    }
  })
})
