// What is an id in a path is told from what is a name.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { operationPattern } from '../../lib/operation-pattern.ts'

const CASES: [path: string, pattern: string][] = [
  ['/', '/'],
  ['/v1/invoices', '/v1/invoices'],
  ['/v1/invoices/17', '/v1/invoices/:id'],
  ['/v1/6F9619FF-8b86-d011-b42d-00c04fc964ff/lines/2', '/v1/:id/lines/:id'],
  ['/commits/0123456789abcdef', '/commits/:id'],
  ['/commits/0123456789abcde', '/commits/0123456789abcde'],
  ['/reset/eyJhbGciOiJFUzI1NiJ9-xyz', '/reset/:id'],
  ['/a-name-that-is-rather-long-but-a-name', '/a-name-that-is-rather-long-but-a-name'],
  ['//17/', '//:id/'],
]

for (const [path, pattern] of CASES) {
  test(`${path} is ${pattern}`, () => assert.equal(operationPattern(path), pattern))
}

test('a path that is too long is none', () => {
  assert.equal(operationPattern(`/${'x'.repeat(1_023)}`)?.length, 1_024)
  assert.equal(operationPattern(`/${'x'.repeat(1_024)}`), undefined)
})
