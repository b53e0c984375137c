// The form of an event is judged as the ledger's schema judges it, and closer where the ledger drops what it does not know.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { writeEvent } from '../../lib/audit-event.ts'
import { formedEvent } from '../../lib/event-form.ts'
import { uuidv7 } from '../../lib/uuid.ts'
import { validEvent } from '../audit-schema.ts'

const sound: Record<string, unknown> = JSON.parse(
  writeEvent(
    uuidv7(),
    {
      zone_id: 'zone-1',
      event_type: 'replay_detected',
      request_id: 'r',
      decision: 'deny',
      evaluation_status: 'anomaly',
      metadata_json: { jti: 'j' },
    },
    Date.now(),
  ).data,
)

describe('the form of an event', () => {
  it('is that of every event that the gateway or another service writes', () => {
    for (const event of [
      sound,
      { ...sound, policy_set_id: 'p', policy_set_version_id: 'v', manifest_sha: 's' },
      { ...sound, determining_policies_json: [{ id: 'p' }], occurred_at: '2026-05-21T10:00:00Z' },
      { ...sound, occurred_at: '2026-05-21T10:00:00.123456789+02:00' },
      Object.fromEntries(Object.entries(sound).filter(([name]) => name !== 'metadata_json')),
    ]) {
      assert.equal(validEvent(event), true)
      assert.deepEqual(formedEvent(JSON.stringify(event)), event)
    }
  })

  it('is wrong wherever the schema says so', () => {
    for (const name of Object.keys(sound)) {
      for (const value of [undefined, null, '', 0, [], [1], {}, 'x']) {
        const event = { ...sound, [name]: value }
        if (value === undefined) delete event[name]
        const formed = typeof formedEvent(JSON.stringify(event)) === 'object'
        assert.equal(formed, validEvent(event), `${name} ${JSON.stringify(value)}`)
      }
    }
  })

  it('is wrong with a member that the ledger drops, and for what is no JSON object', () => {
    assert.equal(
      formedEvent(JSON.stringify({ ...sound, jti: 'j' })),
      'has a member that the ledger does not know',
    )
    for (const text of ['', '{', 'null', '[]', '"x"', '1']) {
      assert.equal(formedEvent(text), 'is no JSON object')
    }
  })
})
