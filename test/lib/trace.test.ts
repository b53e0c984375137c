// Holds the trace context to W3C Trace Context: a valid one is kept to the byte, anything else is replaced.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { traceContext } from '../../lib/trace.ts'

const TRACE = '0af7651916cd43dd8448eb211c80319c'
const SPAN = 'b7ad6b7169203331'

describe('traceContext', () => {
  for (const valid of [
    `00-${TRACE}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-00`,
    `00-${TRACE}-${SPAN}-ff`,
    `01-${TRACE}-${SPAN}-01`,
    `01-${TRACE}-${SPAN}-01-what-comes-later`,
    `fe-${TRACE}-${SPAN}-01-`,
  ]) {
    it(`keeps ${valid}`, () => {
      assert.deepEqual(traceContext(valid), { traceparent: valid, traceId: TRACE, inherited: true })
    })
  }

  for (const invalid of [
    undefined,
    '',
    '00',
    `ff-${TRACE}-${SPAN}-01`,
    `00-${'0'.repeat(32)}-${SPAN}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `00-${TRACE.toUpperCase()}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-1`,
    `00-${TRACE}-${SPAN}`,
    `00-${TRACE}-${SPAN}-01-more`,
    `00-${TRACE}-${SPAN}-01-`,
    `01-${TRACE}-${SPAN}-01more`,
    `0-${TRACE}-${SPAN}-01`,
    ` 00-${TRACE}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-01\n`,
    `00-${TRACE}-${SPAN}-01, 00-${TRACE}-${SPAN}-01`,
    `00-${TRACE.slice(1)}g-${SPAN}-01`,
  ]) {
    it(`replaces ${JSON.stringify(invalid)}`, () => {
      const context = traceContext(invalid)
      assert.equal(context.inherited, false)
      assert.match(context.traceparent, /^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/)
      assert.equal(context.traceparent.slice(3, 35), context.traceId)
      assert.notEqual(context.traceId, TRACE)
    })
  }

  it('starts another trace each time', () => {
    assert.notEqual(traceContext(undefined).traceId, traceContext(undefined).traceId)
  })

  it('always yields a valid traceparent, the caller’s or a new one', () => {
    const near = fc
      .tuple(
        fc.constantFrom('00', '01', 'ff', 'FE', '0'),
        fc.constantFrom(TRACE, '0'.repeat(32), TRACE.slice(2)),
        fc.constantFrom(SPAN, '0'.repeat(16)),
        fc.constantFrom('01', '1', 'zz', '01-x', '01\r\n'),
      )
      .map(parts => parts.join('-'))
    fc.assert(
      fc.property(fc.oneof(near, fc.string()), given => {
        const { traceparent, traceId, inherited } = traceContext(given)
        assert.match(
          traceparent,
          /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-[^\r\n]*)?$/,
        )
        assert.match(traceId, /^[0-9a-f]{32}$/)
        assert.equal(traceparent === given, inherited)
      }),
    )
  })
})
