// Revocations on a real Redis: history, live messages, forgeries, poison, and a Redis that forgets.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createMemoryStore } from '../../../dev/memory-store.ts'
import { hmacKey, verifyStreamEntry } from '../../../lib/stream-signature.ts'
import { DEAD_LETTER_STREAM, REVOCATION_STREAM } from '../../../plugins/revocations/index.ts'
import { startRedis } from '../../redis.ts'
import { until } from '../../until.ts'
import {
  createDatabase,
  HOUR,
  KEY,
  movedClock,
  refreshed,
  session,
  signed,
  start,
} from './support.ts'

const PREVIOUS = 'bb'.repeat(32)

test('the gateway denies what was revoked before it started, and by each anchor', async t => {
  const redis = await startRedis(t)
  await redis.add(REVOCATION_STREAM, signed(session('s1')))
  await redis.add(REVOCATION_STREAM, signed({ agent_session_id: 'a1' }))
  await redis.add(REVOCATION_STREAM, signed({ delegation_edge_id: 'd1' }))
  await redis.add(REVOCATION_STREAM, signed({ edge_id: 'd2' }))
  const all = { session_id: 's3', agent_session_id: 'a3', delegation_edge_id: 'd3', edge_id: 'd4' }
  await redis.add(REVOCATION_STREAM, signed(all))
  const { revocations, counts } = await start(t, { redis })
  assert.equal(revocations.isFresh(), true)
  assert.equal(revocations.size, 8)
  for (const anchors of [
    { sid: 's1' },
    { rootSid: 's1' },
    { sid: 'other', rootSid: 's1' },
    { agentSessionId: 'a1' },
    { delegationEdgeId: 'd1' },
    { delegationEdgeId: 'd2' },
    { sid: 's3' },
    { agentSessionId: 'a3' },
    { delegationEdgeId: 'd3' },
    { delegationEdgeId: 'd4' },
    { sid: 'x', rootSid: 'x', agentSessionId: 'x', delegationEdgeId: 'd4' },
  ]) {
    assert.equal(revocations.isRevoked(anchors), true, JSON.stringify(anchors))
  }
  for (const anchors of [
    {},
    { sid: '', rootSid: '', agentSessionId: '', delegationEdgeId: '' },
    { sid: 'a1', rootSid: 'd1', agentSessionId: 's1', delegationEdgeId: 'a1' },
    { sid: 'S1' },
  ]) {
    assert.equal(revocations.isRevoked(anchors), false, JSON.stringify(anchors))
  }
  assert.equal(counts.messages, 5)
  assert.deepEqual(counts.propagation, [])
})

test('the gateway applies a live message within 100 ms', async t => {
  const redis = await startRedis(t)
  const { revocations, counts } = await start(t, { redis })
  for (let n = 0; n < 10; n += 1) {
    const added = performance.now()
    await redis.add(REVOCATION_STREAM, signed(session(`live-${n}`)))
    await until(() => revocations.isRevoked({ sid: `live-${n}` }))
    assert.ok(performance.now() - added < 100)
  }
  assert.equal(counts.messages, 10)
  assert.equal(counts.propagation.length, 10)
  assert.ok(counts.propagation.every(seconds => seconds >= 0 && seconds < 0.1))
})

test('the gateway misses no message that arrives while it starts', async t => {
  const redis = await startRedis(t)
  let last = 0
  const writing = new AbortController()
  const writer = (async () => {
    for (; !writing.signal.aborted; last += 1)
      await redis.add(REVOCATION_STREAM, signed(session(`n-${last}`)))
  })()
  await until(() => last > 50)
  const { revocations } = await start(t, { redis })
  const atStart = last
  await until(() => last > atStart + 50)
  writing.abort()
  await writer
  await until(() => revocations.isRevoked({ sid: `n-${last - 1}` }))
  for (let n = 0; n < last; n += 1) assert.ok(revocations.isRevoked({ sid: `n-${n}` }), `${n}`)
})

test('the gateway reads more history than one page', async t => {
  const redis = await startRedis(t)
  const script = `for n = 1, 2500 do redis.call('XADD', KEYS[1], '*', 'session_id', 's' .. n) end`
  await redis.command('EVAL', script, 1, REVOCATION_STREAM)
  const { revocations, counts } = await start(t, { redis, hmacKey: undefined })
  assert.equal(revocations.size, 2_500)
  assert.equal(counts.messages, 2_500)
  assert.ok(revocations.isRevoked({ sid: 's1' }) && revocations.isRevoked({ sid: 's2500' }))
})

test('the gateway lets a revocation count for 24 hours', async t => {
  const redis = await startRedis(t)
  const now = Date.now()
  await redis.add(REVOCATION_STREAM, signed(session('over')), `${now - 24 * HOUR - 5_000}-0`)
  await redis.add(REVOCATION_STREAM, signed(session('old')), `${now - 23 * HOUR}-0`)
  await redis.add(REVOCATION_STREAM, signed(session('new')))
  const { revocations } = await start(t, { redis })
  assert.equal(revocations.isRevoked({ sid: 'over' }), false)
  assert.equal(revocations.isRevoked({ sid: 'old' }), true)
  assert.equal(revocations.size, 2)
  const clock = movedClock(t)
  const wall = Date.now.bind(Date)
  t.mock.method(Date, 'now', () => wall() + clock.ahead)
  clock.ahead = HOUR + 5_000
  assert.equal(revocations.isRevoked({ sid: 'old' }), false)
  assert.equal(revocations.isRevoked({ sid: 'new' }), true)
})

test('the gateway lets no jump of the clock end a revocation', async t => {
  const redis = await startRedis(t)
  await redis.add(REVOCATION_STREAM, signed(session('old')))
  const { revocations } = await start(t, { redis })
  const wall = Date.now.bind(Date)
  t.mock.method(Date, 'now', () => wall() + 25 * HOUR)
  assert.equal(revocations.isRevoked({ sid: 'old' }), true)
  await redis.add(REVOCATION_STREAM, signed(session('new')))
  await until(() => revocations.isRevoked({ sid: 'new' }))
  assert.equal(revocations.isRevoked({ sid: 'old' }), true)
})

test('the gateway drops and counts a message that is not signed with its keys', async t => {
  const redis = await startRedis(t)
  await redis.add(REVOCATION_STREAM, session('unsigned'))
  await redis.add(REVOCATION_STREAM, { ...signed(session('signed')), session_id: 'changed' })
  await redis.add(REVOCATION_STREAM, signed(session('foreign'), 'cc'.repeat(32)))
  await redis.add(REVOCATION_STREAM, signed(session('rotated'), PREVIOUS))
  await redis.add(REVOCATION_STREAM, { unsigned: 'poison' })
  const { revocations, counts } = await start(t, { redis, previousHmacKey: PREVIOUS })
  await redis.add(REVOCATION_STREAM, session('unsigned-live'))
  await redis.add(REVOCATION_STREAM, signed(session('last')))
  await until(() => revocations.isRevoked({ sid: 'last' }))
  for (const sid of ['unsigned', 'signed', 'changed', 'foreign', 'unsigned-live']) {
    assert.equal(revocations.isRevoked({ sid }), false, sid)
  }
  assert.equal(revocations.isRevoked({ sid: 'rotated' }), true)
  assert.equal(counts.messages, 7)
  assert.equal(counts.invalid, 5)
  assert.equal(counts.dead, 0)
  assert.deepEqual(await redis.entries(DEAD_LETTER_STREAM), [])
})

test('the gateway without a key takes every message', async t => {
  const redis = await startRedis(t)
  await redis.add(REVOCATION_STREAM, session('unsigned'))
  const { revocations, counts } = await start(t, { redis, hmacKey: undefined })
  assert.equal(revocations.isRevoked({ sid: 'unsigned' }), true)
  assert.equal(counts.invalid, 0)
})

test('the gateway keeps a message that names nothing once, signed, as a dead letter', async t => {
  const redis = await startRedis(t)
  const poison = signed({ zone_id: 'z', session_id: '', sid: 'foreign field', reason: 'r' })
  const first = await redis.add(REVOCATION_STREAM, poison)
  const { revocations, counts } = await start(t, { redis })
  const second = await redis.add(REVOCATION_STREAM, signed({ reason: 'live' }))
  const letters = async () => redis.entries(DEAD_LETTER_STREAM)
  await until(async () => (await letters()).length === 2)
  const [letter] = await letters()
  assert.equal(letter?.fields['original_id'], first)
  assert.equal(
    letter.fields['error'],
    'missing session_id, agent_session_id, or delegation_edge_id',
  )
  assert.deepEqual(JSON.parse(letter.fields['values'] ?? ''), poison)
  const key = hmacKey('key', KEY)
  assert.equal(verifyStreamEntry([key], DEAD_LETTER_STREAM, letter.fields), true)
  assert.deepEqual(Object.keys(letter.fields).toSorted(), [
    '_sig',
    'error',
    'original_id',
    'values',
  ])
  assert.equal(counts.dead, 2)
  assert.equal(revocations.isRevoked({ sid: 'foreign field' }), false)

  // Neither a reload nor another replica writes it again.
  await revocations.reload()
  const other = await start(t, { redis })
  await redis.add(REVOCATION_STREAM, signed(session('last')))
  await until(() => other.revocations.isRevoked({ sid: 'last' }))
  await other.revocations.reload()
  const originals = (await letters()).map(({ fields }) => fields['original_id'])
  assert.deepEqual(originals, [first, second])
  assert.equal(counts.dead, 2)
})

test('the gateway goes on after Redis was away, from where it was', async t => {
  const redis = await startRedis(t)
  const { revocations, counts } = await start(t, { redis })
  await redis.add(REVOCATION_STREAM, signed(session('before')))
  await until(() => revocations.isRevoked({ sid: 'before' }))
  redis.pause()
  await until(() => counts.lines.some(line => line.includes('revocations cannot be read')), 5_000)
  assert.equal(revocations.isRevoked({ sid: 'before' }), true)
  redis.resume()
  await redis.add(REVOCATION_STREAM, signed(session('after')))
  await until(() => revocations.isRevoked({ sid: 'after' }))
  assert.equal(counts.messages, 2)
})

test('the gateway forgets nothing when Redis comes back empty, and sees older ids', async t => {
  const redis = await startRedis(t)
  const { revocations, counts } = await start(t, { redis })
  await redis.add(REVOCATION_STREAM, signed(session('before')))
  await until(() => revocations.isRevoked({ sid: 'before' }))
  await redis.restart()
  // As a replica whose clock is behind would number it.
  await redis.add(REVOCATION_STREAM, signed(session('after')), `${Date.now() - HOUR}-0`)
  await until(() => revocations.isRevoked({ sid: 'after' }))
  await redis.add(REVOCATION_STREAM, signed(session('live')), `${Date.now() - HOUR + 1}-0`)
  await until(() => revocations.isRevoked({ sid: 'live' }))
  assert.equal(revocations.isRevoked({ sid: 'before' }), true)
  assert.equal(await revocations.reload(), 3)
  assert.equal(revocations.isRevoked({ sid: 'before' }), true)
  assert.equal(counts.messages, 3)
})

test('the gateway shares one read among concurrent reloads and counts it', async t => {
  const redis = await startRedis(t)
  await redis.add(REVOCATION_STREAM, signed(session('a')))
  await redis.add(REVOCATION_STREAM, session('unsigned'))
  const { revocations, counts } = await start(t, { redis })
  const reads = async () => {
    const stats = String(await redis.command('INFO', 'commandstats'))
    return Number(/cmdstat_xrange:calls=(\d+)/.exec(stats)?.[1] ?? 0)
  }
  const before = await reads()
  const results = await Promise.all([
    revocations.reload(),
    revocations.reload(),
    revocations.reload(),
  ])
  assert.deepEqual(results, [1, 1, 1])
  assert.equal(await reads(), before + 1)
  assert.equal(counts.reloads, 1)
  assert.equal(counts.messages, 2)
  assert.equal(counts.invalid, 1)
  assert.deepEqual(counts.propagation, [])
  assert.equal(await revocations.reload(), 1)
  assert.equal(counts.reloads, 2)
  await redis.stop()
  await assert.rejects(revocations.reload())
  assert.equal(counts.reloadErrors, 1)
})

test('the gateway is stale 70 s after the last proof, and fresh after the next one', async t => {
  const redis = await startRedis(t)
  const { revocations, logged } = await start(t, { redis })
  const clock = movedClock(t)
  assert.ok(revocations.snapshotAgeSeconds() < 5)
  clock.ahead = 71_000
  assert.equal(revocations.isFresh(), false)
  assert.ok(revocations.snapshotAgeSeconds() > 70)
  await until(() => revocations.isFresh(), 15_000)
  await refreshed(clock, revocations)
  await redis.stop()
  await until(() => logged('revocations cannot be read') === 1, 15_000)
  clock.ahead += 50_000
  assert.equal(revocations.isFresh(), true)
  clock.ahead += 21_000
  assert.equal(revocations.isFresh(), false)
  await until(() => logged('the revocation snapshot cannot be read') === 1, 15_000)
  await redis.restart()
  await until(() => revocations.isFresh(), 15_000)
  assert.equal(logged('revocations are read again'), 1)
  await until(() => logged('the revocation snapshot is read again') === 1, 15_000)
})

test('the gateway is not fresh by a snapshot alone: the stream has to be read as well', async t => {
  const store = createMemoryStore()
  let broken = false
  const tail: typeof store.tail = async (...args) => {
    if (broken) throw new Error('broken')
    return store.tail(args[0], args[1], args[2], 5)
  }
  const { revocations, logged } = await start(t, {
    store: { ...store, tail },
    database: createDatabase(),
  })
  const clock = movedClock(t)
  broken = true
  await until(() => logged('revocations cannot be read') === 1, 15_000)
  clock.ahead = 60_000
  await revocations.reload()
  assert.equal(revocations.isFresh(), true)
  clock.ahead = 71_000
  await revocations.reload()
  assert.equal(revocations.isFresh(), false)
  assert.ok(revocations.snapshotAgeSeconds() > 70)
  broken = false
  await until(() => revocations.isFresh(), 15_000)
})

test('the gateway tells of every anchor that comes to be revoked, and of the failure of who is told', async t => {
  const redis = await startRedis(t)
  const { revocations, counts, logged } = await start(t, { redis })
  revocations.onRevoked(({ id }) => {
    assert.ok(revocations.isRevoked({ sid: id }) || revocations.isRevoked({ agentSessionId: id }))
    if (id === 'a') throw new Error('boom')
  })
  const first = await redis.add(
    REVOCATION_STREAM,
    signed({ session_id: 'a', agent_session_id: 'b' }),
  )
  await redis.add(REVOCATION_STREAM, signed(session('a')))
  await redis.add(REVOCATION_STREAM, signed(session('c')))
  await until(() => revocations.isRevoked({ sid: 'c' }))
  const revokedAt = Number(first.split('-')[0])
  assert.deepEqual(counts.revoked.slice(0, 2), [
    { kind: 'session', id: 'a', revokedAt },
    { kind: 'agent_session', id: 'b', revokedAt },
  ])
  assert.equal(counts.revoked.length, 3)
  assert.equal(logged('who was told of a revocation failed'), 1)
})

test('the gateway does not start without a first read, or with half a rotation', async t => {
  const store = createMemoryStore()
  const failing = async () => {
    throw new Error('LOADING')
  }
  await assert.rejects(start(t, { store: { ...store, range: failing } }), /cannot be read: LOADING/)
  await assert.rejects(start(t, { store: { ...store, info: failing } }), /cannot be read: LOADING/)
  await assert.rejects(start(t, { hmacKey: undefined, previousHmacKey: KEY }), /hmacKey/)
  await assert.rejects(start(t, { hmacKey: 'no hex' }), /hmacKey/)
})
