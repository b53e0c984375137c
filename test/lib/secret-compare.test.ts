// Holds the comparison of secrets to equality, whatever their lengths.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { secretsEqual } from '../../lib/secret-compare.ts'

describe('secretsEqual', () => {
  it('is equality, for texts of any length', () => {
    const text = fc.string({ unit: 'binary', maxLength: 20 })
    fc.assert(
      fc.property(text, text, (a, b) => {
        assert.equal(secretsEqual(a, b), a === b)
        assert.equal(secretsEqual(a, a), true)
        assert.equal(secretsEqual(a, `${a}x`), false)
      }),
    )
  })

  it('takes no prefix, case or empty text for the secret', () => {
    for (const given of ['', 's', 'secre', 'Secret', 'secret ', 'secret\0']) {
      assert.equal(secretsEqual(given, 'secret'), false)
    }
  })
})
