// What holds for all audit evidence, whatever a test is about (contract section 8).
import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { validEvent } from './audit-schema.ts'

/** An entry of the audit stream. */
export interface EvidenceEntry {
  readonly fields: Readonly<Record<string, string>>
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
