// Holds the path check to contract section 5: what is refused, and what the checks behind are given.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { denyPathTraversal } from '../../hooks/path-traversal.ts'
import { judge } from './judge.ts'

describe('denyPathTraversal', () => {
  it('establishes the path, decoded once, and the query as it came', async () => {
    const { check, passage } = await judge(denyPathTraversal(), { url: '/a%20b/%C3%BC?q=%zz' })
    assert.equal(check, 'admitted')
    assert.deepEqual(passage.target, { path: '/a%20b/%C3%BC', query: 'q=%zz' })
    assert.equal(passage.path?.decoded, '/a b/ü')
    assert.equal(passage.path?.encoded, '/a%20b/%C3%BC')
  })

  for (const url of ['/..foo', '/a//b/', '/a?p=/../x', '/...', '/%252541']) {
    it(`admits ${url}`, async () => {
      assert.equal((await judge(denyPathTraversal(), { url })).check, 'admitted')
    })
  }

  for (const url of [
    '/a%2f..%2fb',
    '/a/%252e%252e/b',
    '/a/%5c',
    '/a/%00',
    '/a/..;x/b',
    '/%C0%AE',
    '/%25zz',
  ]) {
    it(`denies ${url}`, async () => {
      const { check, passage } = await judge(denyPathTraversal(), { url })
      assert.equal(check, 'path_traversal')
      assert.equal(passage.path, undefined)
    })
  }
})
