// Holds the end of a revoked response to saying what it is, whatever came before it.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { revokedEvent } from '../../lib/revoked-response.ts'

const FACTS = { error: 'invalid_token', requestId: 'r"1' }

interface Dispatched {
  readonly event: string
  readonly data: string
}

/** The events that a stream makes its reader dispatch (HTML standard, section 9.2.6). */
function eventsIn(stream: string): Dispatched[] {
  const events: Dispatched[] = []
  let event = ''
  let data: string[] = []
  const lines = stream.split(/\r\n|\n|\r/)
  // What no line end follows is no line.
  lines.pop()
  for (const line of lines) {
    if (line === '') {
      if (data.length > 0) events.push({ event, data: data.join('\n') })
      event = ''
      data = []
      continue
    }
    const [, field, value = ''] = /^([^:]*):? ?(.*)$/s.exec(line) ?? []
    if (field === 'event') event = value
    if (field === 'data') data.push(value)
  }
  return events
}

const ended = (stream: string) => stream + revokedEvent(Buffer.from(stream, 'latin1').at(-1), FACTS)

describe('revokedEvent', () => {
  it('is an event by itself between two events, and in an empty stream', () => {
    const own = { event: 'caracal-revoked', data: JSON.stringify(FACTS) }
    assert.deepEqual(eventsIn(ended('')), [own])
    for (const end of ['\n\n', '\r\r', '\r\n\r\n', '\n\r\n']) {
      assert.deepEqual(eventsIn(ended(`data: 1${end}`)), [{ event: '', data: '1' }, own])
    }
  })

  it('makes nobody act on half an event, wherever the stream broke off', () => {
    const piece = fc.constantFrom(
      '\n',
      '\r',
      '\r\n',
      'data: ',
      'event: ',
      ':',
      'id: 1',
      'x',
      ' ',
      '',
    )
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), pieces => {
        const stream = pieces.join('')
        const before = eventsIn(stream)
        const after = eventsIn(ended(stream))
        assert.deepEqual(after.slice(0, -1), before)
        const last = after.at(-1)
        assert.equal(last?.event, 'caracal-revoked')
        assert.equal(last.data.split('\n').at(-1), JSON.stringify(FACTS))
      }),
      { numRuns: 2_000 },
    )
  })
})
