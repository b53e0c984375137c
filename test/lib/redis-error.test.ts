// What is said of an error of Redis, and what is not.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inspect } from 'node:util'
import { bareRedisError, describeRedisError } from '../../lib/redis-error.ts'

test('the function leaves out passwords and what a server repeats of a command', () => {
  const error = Object.assign(
    new Error("ERR unknown command 'AUTH', with args beginning with: 'hunter2'"),
    { code: 'ERR' },
  )
  assert.deepEqual(describeRedisError(error, []), {
    code: 'ERR',
    message: "ERR unknown command 'AUTH'",
  })
  assert.equal(
    describeRedisError(new Error('no hunter2, hunter3'), ['hunter2', 'hunter3']).message,
    'no [redacted], [redacted]',
  )
})

test('the function says something of every error', () => {
  assert.equal(describeRedisError(new TypeError(''), []).message, 'TypeError')
  assert.equal(describeRedisError('text', []).message, 'unknown error')
})

test('the function takes the command off an error', () => {
  const error = Object.assign(new Error('WRONGTYPE'), { command: { args: ['evidence'] } })
  assert.equal(bareRedisError(error), error)
  assert.doesNotMatch(inspect(error), /evidence/)
  assert.ok(bareRedisError(undefined) instanceof Error)
})

test('the function takes out what a server repeats of the command', () => {
  const error = bareRedisError(
    new Error("ERR unknown command 'XADD', with args beginning with: 'stream' 'evidence' \n"),
  )
  assert.equal(error.message, "ERR unknown command 'XADD'")
  assert.doesNotMatch(inspect(error), /evidence/)
})
