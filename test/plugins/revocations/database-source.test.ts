// Snapshots of a database that is made up: what they replace, what they must not, and what stops a start.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createMemoryStore } from '../../../dev/memory-store.ts'
import { REVOCATION_STREAM } from '../../../plugins/revocations/index.ts'
import { startRedis } from '../../redis.ts'
import { until } from '../../until.ts'
import { createDatabase, HOUR, session, signed, start } from './support.ts'

test('the gateway denies what each table says, and tells of it', async t => {
  const database = createDatabase()
  database.tables.authority_records.push({ id: 'r', at: 1_000 })
  database.tables.sessions.push({ id: 's', at: 2_000 })
  database.tables.delegation_edges.push({ id: 'd', at: null })
  const { revocations, counts } = await start(t, { database })
  assert.equal(revocations.size, 3)
  for (const anchors of [
    { sid: 'r' },
    { rootSid: 'r' },
    { agentSessionId: 's' },
    { delegationEdgeId: 'd' },
  ]) {
    assert.ok(revocations.isRevoked(anchors), JSON.stringify(anchors))
  }
  assert.deepEqual(database.required, [
    [
      'authority_records',
      { id: 'any', status: 'text', expires_at: 'timestamp', revoked_at: 'timestamp' },
    ],
    ['sessions', { id: 'any', status: 'text', updated_at: 'timestamp' }],
    ['delegation_edges', { id: 'any', status: 'text', revoked_at: 'timestamp' }],
  ])
  database.tables.sessions.push({ id: 't', at: 3_000 })
  database.tables.delegation_edges.push({ id: 'e', at: null })
  await revocations.reload()
  assert.deepEqual(counts.revoked, [
    { kind: 'agent_session', id: 't', revokedAt: 3_000 },
    { kind: 'delegation_edge', id: 'e', revokedAt: undefined },
  ])
})

test('the gateway lets a snapshot replace what was known, however that was', async t => {
  const database = createDatabase()
  const store = createMemoryStore()
  await store.append(REVOCATION_STREAM, [signed(session('history'))])
  database.tables.sessions.push({ id: 'resumed', at: 1 }, { id: 'stays', at: 1 })
  const { revocations, counts } = await start(t, { store, database })
  assert.equal(revocations.isRevoked({ sid: 'history' }), false, 'history is not the source')
  await store.append(REVOCATION_STREAM, [signed({ agent_session_id: 'suspended' })])
  await until(() => revocations.isRevoked({ agentSessionId: 'suspended' }))
  database.tables.sessions.shift()
  assert.equal(await revocations.reload(), 1)
  assert.equal(revocations.isRevoked({ agentSessionId: 'resumed' }), false)
  assert.equal(revocations.isRevoked({ agentSessionId: 'suspended' }), false)
  assert.equal(revocations.isRevoked({ agentSessionId: 'stays' }), true)
  assert.equal(revocations.historyIncomplete, false)
  // Revoked once more, it is told once more.
  database.tables.sessions.push({ id: 'resumed', at: 2 })
  await revocations.reload()
  assert.deepEqual(
    counts.revoked.map(({ id }) => id),
    ['suspended', 'resumed'],
  )
})

test('the gateway keeps a message that arrives while a snapshot is read, if that does not hold it', async t => {
  const database = createDatabase()
  const store = createMemoryStore()
  const { revocations } = await start(t, { store, database })
  database.meanwhile = async () => {
    await store.append(REVOCATION_STREAM, [signed(session('live'))])
    await until(() => revocations.isRevoked({ sid: 'live' }))
  }
  await revocations.reload()
  assert.ok(revocations.isRevoked({ sid: 'live' }))
  database.meanwhile = async () => undefined
  await revocations.reload()
  assert.equal(revocations.isRevoked({ sid: 'live' }), false)
})

test('the gateway misses nothing that is written while the first snapshot is read', async t => {
  const database = createDatabase()
  const store = createMemoryStore()
  database.meanwhile = async () => {
    await store.append(REVOCATION_STREAM, [signed(session('live'))])
    database.meanwhile = async () => undefined
  }
  const { revocations, counts } = await start(t, { store, database })
  await until(() => revocations.isRevoked({ sid: 'live' }))
  assert.equal(counts.messages, 1)
})

test('the gateway forgets nothing by a snapshot that fails', async t => {
  const database = createDatabase()
  database.tables.authority_records.push({ id: 'old', at: 1 })
  const { revocations, counts } = await start(t, { database })
  database.tables.authority_records.splice(0, 1, { id: 'new', at: 1 })
  database.meanwhile = async () => {
    throw new Error('away')
  }
  await assert.rejects(revocations.reload(), /away/)
  assert.deepEqual([counts.reloads, counts.reloadErrors], [0, 1])
  assert.ok(revocations.isRevoked({ sid: 'old' }) && revocations.isRevoked({ sid: 'new' }))
  database.meanwhile = async () => undefined
  await revocations.reload()
  assert.equal(revocations.isRevoked({ sid: 'old' }), false)
  assert.equal(revocations.isRevoked({ sid: 'new' }), true)
})

test('the gateway keeps what the database says for as long as it says so', async t => {
  const database = createDatabase()
  database.tables.authority_records.push({ id: 'r', at: 1 })
  const { revocations } = await start(t, { database })
  const now = Date.now()
  const steady = performance.now()
  t.mock.method(Date, 'now', () => now + 500 * HOUR)
  t.mock.method(performance, 'now', () => steady + 500 * HOUR)
  assert.ok(revocations.isRevoked({ sid: 'r' }))
})

test('the gateway reads the database at once when the stream can be read again', async t => {
  const database = createDatabase()
  const store = createMemoryStore()
  let broken = false
  const tail: typeof store.tail = async (stream, after, count) => {
    if (broken) throw new Error('broken')
    return store.tail(stream, after, count, 5)
  }
  const { revocations, logged } = await start(t, { store: { ...store, tail }, database })
  broken = true
  await until(() => logged('revocations cannot be read') === 1)
  // Its message is lost with the Redis that took it.
  database.tables.authority_records.push({ id: 'lost', at: 1 })
  const { reads } = database
  broken = false
  await until(() => revocations.isRevoked({ sid: 'lost' }))
  assert.equal(database.reads, reads + 1)
})

test('the gateway follows a stream that begins anew before its position, although the database is the source', async t => {
  const redis = await startRedis(t)
  const { revocations, counts } = await start(t, { redis, database: createDatabase() })
  await redis.add(REVOCATION_STREAM, signed(session('a')))
  await until(() => revocations.isRevoked({ sid: 'a' }))
  await redis.command('DEL', REVOCATION_STREAM)
  await redis.add(REVOCATION_STREAM, signed(session('b')), `${Date.now() - HOUR}-0`)
  await revocations.reload()
  await redis.add(REVOCATION_STREAM, signed(session('c')), `${Date.now() - HOUR}-9`)
  await until(() => revocations.isRevoked({ sid: 'c' }))
  assert.deepEqual([counts.reloads, counts.reloadErrors], [1, 0])
})

test('the gateway reads the database although Redis is away', async t => {
  const database = createDatabase()
  const store = createMemoryStore()
  let away = false
  const info: typeof store.info = async stream => {
    if (away) throw new Error('away')
    return store.info(stream)
  }
  const { revocations } = await start(t, { store: { ...store, info }, database })
  away = true
  database.tables.authority_records.push({ id: 'r', at: 1 })
  await revocations.reload()
  assert.ok(revocations.isRevoked({ sid: 'r' }))
})

test('the gateway does not start with tables that do not fit, or without a snapshot', async t => {
  const database = createDatabase()
  database.requireTable = async table => {
    throw new Error(`no table ${table}`)
  }
  await assert.rejects(start(t, { database }), /no table authority_records/)
  const away = createDatabase()
  away.meanwhile = async () => {
    throw new Error('the database is away')
  }
  await assert.rejects(start(t, { database: away }), /cannot be read: the database is away/)
})
