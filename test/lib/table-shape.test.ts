// Guarantees that what keeps a table from being read is named, all of it at once.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type FoundColumn, tableProblems } from '../../lib/table-shape.ts'

const column = (name: string, type: string, category: string, readable = true): FoundColumn => ({
  name,
  type,
  category,
  readable,
})

test('the gateway takes a table that has what it needs, and more', () => {
  const found = [
    column('id', 'uuid', 'U'),
    column('zone_id', 'varchar', 'S'),
    column('status', 'session_status', 'E'),
    column('updated_at', 'timestamptz', 'D'),
    column('operations', 'jsonb', 'U'),
    column('secret', 'text', 'S', false),
  ]
  const needed = {
    id: 'any',
    zone_id: 'text',
    status: 'text',
    updated_at: 'timestamp',
    operations: 'jsonb',
  } as const
  assert.deepEqual(tableProblems('sessions', needed, found), [])
})

test('the gateway names everything that is wrong with a table', () => {
  assert.deepEqual(tableProblems('sessions', { id: 'any' }, []), [
    "there is no table sessions on the role's search_path",
  ])
  const found = [
    column('status', 'int4', 'N'),
    column('updated_at', 'date', 'D'),
    column('operations', 'text', 'S'),
    column('zone_id', 'text', 'S', false),
  ]
  const needed = {
    id: 'any',
    status: 'text',
    updated_at: 'timestamp',
    operations: 'jsonb',
    zone_id: 'text',
  } as const
  assert.deepEqual(tableProblems('sessions', needed, found), [
    'there is no column sessions.id',
    'the column sessions.status is int4, not text',
    'the column sessions.updated_at is date, not timestamp',
    'the column sessions.operations is text, not jsonb',
    'the role may not select sessions.zone_id; grant it',
  ])
})
