// What holds for all audit evidence, whatever a test is about (contract section 8).
import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { validEvent } from './audit-schema.ts'

/** An entry of the audit stream. */
export interface EvidenceEntry {
  readonly fields: Readonly<Record<string, string>>
}

const WHO = ['application_id', 'resource', 'subject_fingerprint', 'method']
const ANCHORS = ['agent_session_id', 'delegation_edge_id']
const ROUTE = [
  'trace_id',
  'upstream_host',
  'auth_mode',
  'provider_id',
  'connection_id',
  'would_deny',
]
const OBSERVED = ['operation_path', 'operation_scope', 'mandate_scope']
const CUT = ['revoked_anchor', 'revocation_latency_ms']

/** Members of `metadata_json` by kind of event: those that are always there, and those that may be. */
const MEMBERS: Readonly<Record<string, readonly [always: string[], sometimes: string[]]>> = {
  gateway_resource_request: [
    [
      ...WHO,
      'gateway_status',
      'latency_ms',
      'response_bytes',
      'result_class',
      'revocation_interrupted',
    ],
    [
      'subject_kind',
      'annotations',
      ...ANCHORS,
      ...ROUTE,
      ...OBSERVED,
      ...CUT,
      'upstream_status',
      'error_kind',
    ],
  ],
  interrupted: [
    [...WHO, 'trace_id', 'upstream_host', 'auth_mode', 'result_class'],
    ['subject_kind', 'annotations', ...ANCHORS, ...ROUTE, ...OBSERVED],
  ],
  gateway_request_denied: [
    ['reason', ...WHO, 'gateway_status'],
    ['subject_kind', 'annotations', 'would_deny', ...OBSERVED, ...ANCHORS, ...CUT],
  ],
  replay_detected: [
    ['jti', 'resource', 'client_id', 'subject_fp', 'request_id'],
    ['annotations', ...ANCHORS],
  ],
}

/** Fails unless a gateway's event tells what contract section 8 lists for its kind, and nothing else. */
export function assertMembers(event: Readonly<Record<string, unknown>>): void {
  const { event_type: type, evaluation_status: status, decision, metadata_json: metadata } = event
  const kind = status === 'interrupted' ? status : String(type)
  if (MEMBERS[kind] === undefined || typeof metadata !== 'object') return
  const [always, sometimes] = MEMBERS[kind]
  const names = Object.keys(metadata ?? {})
  const what = JSON.stringify(event)
  assert.deepEqual(
    always.filter(name => !names.includes(name)),
    [],
    what,
  )
  assert.deepEqual(
    names.filter(name => !always.includes(name) && !sometimes.includes(name)),
    [],
    what,
  )
  assert.equal(decision, type === 'gateway_resource_request' ? 'allow' : 'deny', what)
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/**
 * Fails unless every entry fits the schema and is signed over its bytes, no id comes with two contents, and no request
 * that the gateway named has two events.
 *
 * @param key `AUDIT_HMAC_KEY`; undefined: entries must have no signature
 * @returns the events, those that were sent twice once
 */
export function assertEvidence(
  entries: readonly EvidenceEntry[],
  key: string | undefined,
): Map<string, Record<string, unknown>> {
  const bytes = new Map<string, string>()
  const events = new Map<string, Record<string, unknown>>()
  const requests = new Map<string, string>()
  for (const { fields } of entries) {
    const { id = '', data = '', sig, ...rest } = fields
    assert.deepEqual(rest, {})
    const event = JSON.parse(data)
    assert.equal(validEvent(event), true, JSON.stringify(validEvent.errors))
    assert.equal(event.id, id)
    const expected = key && createHmac('sha256', Buffer.from(key, 'hex')).update(data).digest('hex')
    assert.equal(sig, expected)
    assert.equal(bytes.get(id) ?? data, data, 'one id, two contents')
    bytes.set(id, data)
    events.set(id, event)
    // A caller may name two requests alike.
    if (UUID.test(event.request_id)) {
      assert.equal(requests.get(event.request_id) ?? id, id, `two events of ${event.request_id}`)
      requests.set(event.request_id, id)
    }
  }
  return events
}
