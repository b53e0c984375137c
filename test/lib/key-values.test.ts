// Holds lists of key=value to what OpenTelemetry's specification says of them.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { parseKeyValues } from '../../lib/key-values.ts'

describe('parseKeyValues', () => {
  it('undoes percent-encoding, after the list is split', () => {
    assert.deepEqual(parseKeyValues('a=1, b%2C = x%3Dy%2Cz ,c='), { a: '1', 'b,': 'x=y,z', c: '' })
    assert.deepEqual(parseKeyValues('a=b=c'), { a: 'b=c' })
  })

  it('passes over what is empty', () => {
    assert.deepEqual(parseKeyValues(''), {})
    assert.deepEqual(parseKeyValues(' , a=b,'), { a: 'b' })
  })

  it('refuses a list that is broken anywhere', () => {
    for (const text of ['a', 'a=b,c', '=b', ' =b', 'a=%', 'a=%ff', 'a=1,a=2']) {
      assert.equal(parseKeyValues(text), undefined, text)
    }
  })

  it('takes no key for more than a key', () => {
    assert.equal(Object.getPrototypeOf(parseKeyValues('__proto__=x')), Object.prototype)
    assert.deepEqual(Object.entries(parseKeyValues('__proto__=x') ?? {}), [['__proto__', 'x']])
  })
})
