// Guarantees that a failed read says what went wrong and nothing that is secret.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inspect } from 'node:util'
import { DatabaseError, databaseError } from '../../lib/database-error.ts'

const thrown = (message: string, members: object = {}) => Object.assign(new Error(message), members)

test('the gateway tells an answer of the database from a database that is away', () => {
  const refused = databaseError(
    thrown('relation "sessions" does not exist', { code: '42P01', severity: 'ERROR' }),
    undefined,
  )
  assert.equal(
    refused.message,
    'the database (DATABASE_URL) refused: relation "sessions" does not exist (42P01)',
  )
  assert.deepEqual([refused.code, refused.answered], ['42P01', true])

  const away = databaseError(
    thrown('connect ECONNREFUSED 127.0.0.1:5432', { code: 'ECONNREFUSED' }),
    undefined,
  )
  assert.equal(
    away.message,
    'the database (DATABASE_URL) cannot be read: connect ECONNREFUSED 127.0.0.1:5432',
  )
  assert.deepEqual([away.code, away.answered], ['ECONNREFUSED', false])
})

test('the gateway has words for an error that has none', () => {
  // What Node.js throws when a name has several addresses, and all refuse.
  const all = Object.assign(new AggregateError([]), { code: 'ECONNREFUSED' })
  assert.match(databaseError(all, undefined).message, /cannot be read: ECONNREFUSED$/)
  assert.match(databaseError('text', undefined).message, /unknown error$/)
  assert.match(databaseError(new TypeError(''), undefined).message, /TypeError$/)
})

test('the gateway repeats no password, query or detail', () => {
  const error = databaseError(
    thrown('no "canary" here', {
      severity: 'FATAL',
      detail: 'canary',
      internalQuery: 'canary',
      where: 'canary',
    }),
    'canary',
  )
  assert.equal(error.message, 'the database (DATABASE_URL) refused: no "[redacted]" here')
  assert.ok(!inspect(error, { depth: 9, showHidden: true }).includes('canary'))
})

test('the gateway tells an error once', () => {
  const error = new DatabaseError('said', '42P01', true)
  assert.equal(databaseError(error, undefined), error)
})
