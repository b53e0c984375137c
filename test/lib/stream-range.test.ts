// The ends of a range mean what an operator means by them.
import assert from 'node:assert/strict'
import { it } from 'node:test'
import { rangeEnd, rangeStart } from '../../lib/stream-range.ts'

const LAST = '18446744073709551615'

it('a stream id is itself, half of one the first or the last of its millisecond', () => {
  assert.deepEqual([rangeStart('5-3'), rangeEnd('5-3')], ['5-3', '5-3'])
  assert.deepEqual([rangeStart('5'), rangeEnd('5')], ['5-0', `5-${LAST}`])
  assert.equal(rangeEnd(`${LAST}-${LAST}`), `${LAST}-${LAST}`)
})

it('a time is its millisecond', () => {
  assert.equal(rangeStart('1970-01-01T00:00:01.5Z'), '1500-0')
  assert.equal(rangeEnd('1970-01-01t01:00:01+01:00'), `1000-${LAST}`)
})

it('everything else is nothing', () => {
  for (const text of [
    '',
    '-',
    '+',
    '5-',
    '-5',
    '5-3-1',
    '5.5',
    '18446744073709551616',
    `5-18446744073709551616`,
    '2026-05-21',
    '2026-05-21T10:00:00',
    '2026-13-01T00:00:00Z',
    '1969-12-31T23:59:59Z',
    'yesterday',
  ]) {
    assert.deepEqual([rangeStart(text), rangeEnd(text)], [undefined, undefined], text)
  }
})
