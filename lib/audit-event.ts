/**
 * Writes an audit event as the bytes that it keeps for ever: the audit service takes an id that comes again with other
 * bytes for tampering (contract section 8).
 */

/** What happened, as it goes into the ledger; `id`, `occurred_at` and the empty lists are added. */
export interface AuditEvent {
  readonly zone_id: string
  readonly event_type: string
  readonly request_id: string
  readonly decision: 'allow' | 'deny'
  readonly evaluation_status: string
  /**
   * Everything that is no member of the ledger's schema. Never a token, a credential, a query, a body. What is undefined is
   * not written: taking it out before would cost half as much again as writing the rest.
   */
  readonly metadata_json: Readonly<Record<string, unknown>>
}

/** An event in its final form. */
export interface WrittenEvent {
  /** UUIDv7, unless another gateway wrote it. */
  readonly id: string
  /** JSON text, `id` included; no raw newline. */
  readonly data: string
}

/**
 * The event in its final form.
 *
 * @param occurredAt Unix time in milliseconds
 * @throws TypeError when the metadata is no JSON
 */
export function writeEvent(id: string, event: AuditEvent, occurredAt: number): WrittenEvent {
  const data = JSON.stringify({
    id,
    zone_id: event.zone_id,
    event_type: event.event_type,
    request_id: event.request_id,
    decision: event.decision,
    evaluation_status: event.evaluation_status,
    determining_policies_json: [],
    diagnostics_json: [],
    metadata_json: event.metadata_json,
    occurred_at: new Date(occurredAt).toISOString(),
  })
  return { id, data }
}

/** The same event under another id. */
export function renamedEvent(event: WrittenEvent, id: string): WrittenEvent {
  return { id, data: JSON.stringify({ ...JSON.parse(event.data), id }) }
}

/** The event that a line holds, its bytes untouched; `undefined` when it is none. */
export function readEvent(line: string): WrittenEvent | undefined {
  const event = parsed(line)
  if (typeof event !== 'object' || event === null || !('id' in event)) return undefined
  const { id } = event
  return typeof id === 'string' && id !== '' ? { id, data: line } : undefined
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
