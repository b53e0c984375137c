// What Redis answers about streams, and what no Redis should.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { replyFields, streamEntries, streamInfo } from '../../lib/redis-reply.ts'

test('the function reads entries, and the last of two values of a field', () => {
  const reply = [
    ['1-0', ['a', '1', 'b', '2', 'a', '3']],
    ['2-0', null],
  ]
  assert.deepEqual(streamEntries(reply), [
    { id: '1-0', fields: { a: '3', b: '2' } },
    { id: '2-0', fields: {} },
  ])
})

test('the function takes a field called __proto__ for a field', () => {
  const [entry] = streamEntries([['1-0', ['__proto__', 'x']]])
  assert.deepEqual(Object.entries(entry?.fields ?? {}), [['__proto__', 'x']])
})

test('the function reads what XINFO STREAM says, of an empty stream and of an old server too', () => {
  const first = ['1-0', ['a', 'b']]
  assert.deepEqual(
    streamInfo(['length', 2, 'last-generated-id', '9-0', 'entries-added', 5, 'first-entry', first]),
    { length: 2, firstId: '1-0', lastId: undefined, lastGeneratedId: '9-0', entriesAdded: 5 },
  )
  assert.deepEqual(streamInfo(['length', 0, 'last-generated-id', '9-0', 'first-entry', null]), {
    length: 0,
    firstId: undefined,
    lastId: undefined,
    lastGeneratedId: '9-0',
    entriesAdded: undefined,
  })
})

test('the functions never throw, whatever the reply is', () => {
  fc.assert(
    fc.property(fc.anything(), reply => {
      for (const { id } of streamEntries(reply)) assert.equal(typeof id, 'string')
      assert.equal(typeof streamInfo(reply).lastGeneratedId, 'string')
      assert.ok(replyFields(reply).size >= 0)
    }),
  )
})
