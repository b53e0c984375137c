// Holds an event's bytes: they are made once, and no reading or sending changes them.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { type AuditEvent, readEvent, renamedEvent, writeEvent } from '../../lib/audit-event.ts'

const event: AuditEvent = {
  zone_id: 'zone-1',
  event_type: 'gateway_resource_request',
  request_id: 'r-1',
  decision: 'allow',
  evaluation_status: 'executed',
  metadata_json: { resource: 'resource://r' },
}

test('the gateway writes an event with its id, its time and the empty lists', () => {
  assert.deepEqual(JSON.parse(writeEvent('id-1', event, 1_795_000_000_123).data), {
    ...event,
    id: 'id-1',
    determining_policies_json: [],
    diagnostics_json: [],
    occurred_at: '2026-11-18T11:06:40.123Z',
  })
})

test('the gateway reads an event as the bytes that it wrote, on one line whatever the event says', () => {
  const anything = fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue())
  fc.assert(
    fc.property(anything, metadata => {
      const written = writeEvent('id-1', { ...event, metadata_json: metadata }, 0)
      assert.equal(written.data.includes('\n'), false)
      assert.deepEqual(readEvent(Buffer.from(written.data).toString()), written)
    }),
  )
})

test('the gateway reads the events of other gateways, spaces and all', () => {
  const line = '{ "zone_id": "z", "id": "01J-other" }'
  assert.deepEqual(readEvent(line), { id: '01J-other', data: line })
})

test('the gateway takes nothing for an event that has no id', () => {
  for (const line of [
    '',
    '{',
    'null',
    '[]',
    '"id"',
    '{}',
    '{"id":1}',
    '{"id":""}',
    '{"id":"a"}}',
  ]) {
    assert.equal(readEvent(line), undefined, line)
  }
})

test('the gateway can give an event another id, and nothing else', () => {
  const written = writeEvent('id-1', event, 0)
  const renamed = renamedEvent(written, 'id-2')
  assert.equal(renamed.id, 'id-2')
  assert.equal(renamed.data, written.data.replace('id-1', 'id-2'))
})
