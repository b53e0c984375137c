// Holds errors that nobody prints to having no stack, and everybody else's to having one.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { stackless } from '../../lib/stackless.ts'

const frames = (error: Error) => (error.stack ?? '').split('\n').slice(1)

describe('stackless', () => {
  it('gives back the result, and errors made meanwhile have no stack', () => {
    assert.deepEqual(frames(stackless(() => new Error('made'))), [])
  })

  it('lets an error through, and leaves those that come after as they were', () => {
    const thrown = new RangeError('thrown')
    assert.throws(
      () =>
        stackless(() => {
          throw thrown
        }),
      error => error === thrown,
    )
    assert.ok(frames(new Error('later')).length > 0)
  })
})
