// Holds a logged error to its name, code, message, stack and cause.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { loggedError, loggedReason } from '../../lib/log-error.ts'

describe('loggedError', () => {
  it('tells type, code, message and stack', () => {
    const error = Object.assign(new TypeError('no'), { code: 'E_NO' })
    assert.deepEqual(loggedError(error), {
      type: 'TypeError',
      code: 'E_NO',
      message: 'no',
      stack: error.stack,
    })
  })

  it('leaves out whatever a library hung on it', () => {
    const error = Object.assign(new Error('failed'), {
      command: { name: 'auth', args: ['secret'] },
      cert: { subject: 'secret' },
      code: 42,
      toJSON: () => 'secret',
    })
    assert.deepEqual(Object.keys(loggedError(error) ?? {}), ['type', 'message', 'stack'])
    assert.ok(!JSON.stringify(loggedError(error)).includes('secret'))
  })

  it('follows causes, and only so far', () => {
    const error = new Error('a', {
      cause: new Error('b', {
        cause: new Error('c', { cause: new Error('d', { cause: new Error('e') }) }),
      }),
    })
    const logged = loggedError(error)
    assert.equal(logged?.cause?.cause?.cause?.message, 'd')
    assert.equal(logged?.cause?.cause?.cause?.cause, undefined)
  })

  it('ends with an error that causes itself', () => {
    const error = new Error('a')
    error.cause = error
    assert.equal(loggedError(error)?.cause?.cause?.cause?.message, 'a')
  })

  for (const [value, type] of [
    ['secret', 'string'],
    [null, 'object'],
    [{ token: 'secret' }, 'object'],
    [1, 'number'],
  ] as const) {
    it(`tells of ${typeof value} ${value === null ? 'null ' : ''}the type alone`, () => {
      assert.deepEqual(loggedError(value), { type, message: 'not an error object' })
      const { cause } = loggedError(new Error('a', { cause: value })) ?? {}
      assert.deepEqual(cause, { type, message: 'not an error object' })
    })
  }

  it('says nothing of nothing', () => assert.equal(loggedError(undefined), undefined))
})

describe('loggedReason', () => {
  it('is the logged error without a stack, and so are its causes', () => {
    const cause = Object.assign(new TypeError('b'), { code: 'E_B', secret: 's' })
    const error = new Error('a', { cause })
    assert.deepEqual(loggedReason(error), {
      type: 'Error',
      message: 'a',
      cause: { type: 'TypeError', code: 'E_B', message: 'b' },
    })
  })

  it('ends with an error that causes itself, as deep as a logged error', () => {
    const error = new Error('a')
    error.cause = error
    const deepest = loggedReason(error)?.cause?.cause?.cause
    assert.equal(deepest?.message, 'a')
    assert.equal(deepest?.cause, undefined)
  })

  it('tells of what is no error the type alone, and says nothing of nothing', () => {
    assert.deepEqual(loggedReason('secret'), { type: 'string', message: 'not an error object' })
    assert.deepEqual(loggedReason(new Error('a', { cause: null })), {
      type: 'Error',
      message: 'a',
      cause: { type: 'object', message: 'not an error object' },
    })
    assert.equal(loggedReason(undefined), undefined)
  })
})
