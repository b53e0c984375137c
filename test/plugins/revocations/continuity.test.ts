// What the gateway makes of a stream that is not what it was: proof, rereads, and what it says of a gap.
import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import { course, missingBefore } from '../../../plugins/revocations/continuity.ts'
import { DEAD_LETTER_STREAM, REVOCATION_STREAM } from '../../../plugins/revocations/index.ts'
import type { StreamInfo } from '../../../plugins/store.ts'
import { startRedis, type TestRedis } from '../../redis.ts'
import { until } from '../../until.ts'
import { HOUR, movedClock, refreshed, session, signed, start } from './support.ts'

const info = (
  length: number,
  entriesAdded: number | undefined,
  firstId: string | undefined,
  lastGeneratedId = '9-0',
): StreamInfo => ({ length, entriesAdded, firstId, lastId: firstId, lastGeneratedId })

test('the gateway tells by the entries ever added whether it has read them all', () => {
  const before = info(5, 7, '3-0')
  assert.equal(course(before, info(8, 10, '3-0'), 3), 'continuous')
  assert.equal(course(before, info(1, 10, '8-0'), 3), 'continuous', 'trimmed, but read before')
  assert.equal(course(before, info(9, 11, '3-0'), 3), 'unknown', 'one was added unseen')
  assert.equal(course(before, info(4, 9, '3-0'), 3), 'lost')
  assert.equal(course(before, info(3, 3, '8-0'), 3), 'lost', 'deleted and created again')
})

test('the gateway tells by the length where Redis does not count, if nothing was taken away', () => {
  const before = info(5, undefined, '3-0')
  assert.equal(course(before, info(8, undefined, '3-0'), 3), 'continuous')
  assert.equal(course(info(0, undefined, undefined), info(3, undefined, '1-0'), 3), 'continuous')
  assert.equal(course(before, info(8, undefined, '4-0'), 3), 'unknown')
  assert.equal(course(before, info(7, undefined, '3-0'), 3), 'unknown')
})

test('the gateway tells what a stream may lack', () => {
  assert.equal(missingBefore(info(5, 5, '3-0')), undefined)
  assert.equal(missingBefore(info(0, 0, undefined, '0-0')), undefined)
  assert.equal(missingBefore(info(4, 5, '3-0')), 3)
  assert.equal(missingBefore(info(0, 5, undefined)), 9)
  assert.equal(missingBefore(info(5, undefined, '3-0')), 3)
  assert.equal(missingBefore(info(0, undefined, undefined, '0-0')), undefined)
})

const calls = async (redis: TestRedis, command: string) => {
  const stats = String(await redis.command('INFO', 'commandstats'))
  return Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(stats)?.[1] ?? 0)
}

describe('at a refresh', () => {
  async function begin(t: TestContext) {
    const redis = await startRedis(t)
    await redis.add(REVOCATION_STREAM, signed(session('a')))
    const started = await start(t, { redis })
    const clock = movedClock(t)
    await redis.add(REVOCATION_STREAM, signed(session('b')))
    await until(() => started.revocations.isRevoked({ sid: 'b' }))
    const reads = await calls(redis, 'xrange')
    return {
      ...started,
      redis,
      refresh: () => refreshed(clock, started.revocations),
      rereads: async () => (await calls(redis, 'xrange')) - reads,
    }
  }
  const CHANGED = 'the revocation stream changed unseen'

  test('the gateway rereads nothing while it has seen everything', async t => {
    // The clock goes ahead of the machine's: set back, as it looks from the other side.
    const { redis, refresh, rereads, logged, revocations } = await begin(t)
    await refresh()
    const before = await rereads()
    for (const id of ['c', 'd', 'e']) await redis.add(REVOCATION_STREAM, signed(session(id)))
    await redis.command('XTRIM', REVOCATION_STREAM, 'MAXLEN', 2)
    await until(() => revocations.isRevoked({ sid: 'e' }))
    t.mock.method(Date, 'now', () => performance.timeOrigin + performance.now())
    await refresh()
    assert.equal(await rereads(), before)
    assert.equal(logged(CHANGED), 0)
    assert.ok(revocations.isRevoked({ sid: 'a' }))
  })

  test('the gateway finds what was added behind its position', async t => {
    const { redis, refresh, counts, logged, revocations } = await begin(t)
    // As a replica that lacked two entries, was given three others, and then the newest one.
    const [a] = await redis.entries(REVOCATION_STREAM)
    const time = Number(a?.id.split('-')[0])
    for (const [n, id] of ['x', 'y', 'z'].entries()) {
      await redis.add('other', signed(session(id)), `${time}-${n + 1}`)
    }
    await redis.add('other', signed(session('last')), `${Date.now() + 1_000}-0`)
    await redis.command('RENAME', 'other', REVOCATION_STREAM)
    await until(() => revocations.isRevoked({ sid: 'last' }))
    assert.equal(revocations.isRevoked({ sid: 'x' }), false)
    await refresh()
    for (const sid of ['a', 'b', 'x', 'y', 'z']) assert.ok(revocations.isRevoked({ sid }), sid)
    assert.equal(logged(CHANGED), 1)
    assert.equal(counts.messages, 6)
    assert.equal(counts.propagation.length, 2)
    await refresh()
    assert.equal(logged(CHANGED), 1)
  })

  test('the gateway follows a stream that begins anew before its position', async t => {
    const { redis, refresh, logged, revocations } = await begin(t)
    await redis.command('DEL', REVOCATION_STREAM)
    await redis.add(REVOCATION_STREAM, signed(session('c')), `${Date.now() - HOUR}-0`)
    await refresh()
    assert.ok(revocations.isRevoked({ sid: 'c' }))
    await redis.add(REVOCATION_STREAM, signed(session('d')), `${Date.now() - HOUR}-9`)
    await until(() => revocations.isRevoked({ sid: 'd' }))
    for (const sid of ['a', 'b']) assert.ok(revocations.isRevoked({ sid }), sid)
    assert.equal(logged('the revocation stream lost entries'), 1)
    assert.equal(revocations.historyIncomplete, true)
  })

  test('the gateway is not misled by a message that was taken away', async t => {
    const { redis, refresh, rereads, revocations } = await begin(t)
    const id = await redis.add(REVOCATION_STREAM, signed(session('c')))
    await until(() => revocations.isRevoked({ sid: 'c' }))
    await redis.command('XDEL', REVOCATION_STREAM, id)
    await refresh()
    const before = await rereads()
    assert.ok(revocations.isRevoked({ sid: 'c' }))
    await redis.add(REVOCATION_STREAM, signed(session('d')))
    await until(() => revocations.isRevoked({ sid: 'd' }))
    t.mock.method(Date, 'now', () => performance.timeOrigin + performance.now())
    await refresh()
    assert.equal(await rereads(), before)
  })

  test('the gateway is continuous while messages pour in', async t => {
    const { redis, refresh, logged, revocations } = await begin(t)
    let last = 0
    const enough = new AbortController()
    const pour = (async () => {
      for (; !enough.signal.aborted; last += 1)
        await redis.add(REVOCATION_STREAM, signed(session(`n-${last}`)))
    })()
    for (let round = 0; round < 3; round += 1) await refresh()
    enough.abort()
    await pour
    await until(() => revocations.isRevoked({ sid: `n-${last - 1}` }))
    assert.equal(logged(CHANGED), 0)
  })
})

describe('of a stream that lacks a part of its last 24 hours', () => {
  const WARNING = 'has lost entries of the last 24 hours'

  test('the gateway says so once, until the gap is older than that', async t => {
    const redis = await startRedis(t)
    const now = Date.now()
    await redis.add(REVOCATION_STREAM, signed(session('gone')), `${now - 3 * HOUR}-0`)
    await redis.add(REVOCATION_STREAM, signed(session('kept')), `${now - 2 * HOUR}-0`)
    await redis.command('XTRIM', REVOCATION_STREAM, 'MAXLEN', 1)
    const { revocations, logged, counts } = await start(t, { redis })
    assert.equal(revocations.historyIncomplete, true)
    await revocations.reload()
    assert.equal(logged(WARNING), 1)
    const line = counts.lines.find(text => text.includes(WARNING)) ?? ''
    assert.equal(JSON.parse(line).before, new Date(now - 2 * HOUR).toISOString())
    const clock = movedClock(t)
    t.mock.method(Date, 'now', () => now + clock.ahead)
    clock.ahead = 22 * HOUR - 60_000
    assert.equal(revocations.historyIncomplete, true)
    clock.ahead = 22 * HOUR + 60_000
    assert.equal(revocations.historyIncomplete, false)
  })

  test('the gateway says so when it comes to be, and when all is gone', async t => {
    const redis = await startRedis(t)
    await redis.add(REVOCATION_STREAM, signed(session('a')))
    await redis.add(REVOCATION_STREAM, signed(session('b')))
    const { revocations, logged } = await start(t, { redis })
    assert.equal(revocations.historyIncomplete, false)
    assert.equal(logged(WARNING), 0)
    await redis.command('XTRIM', REVOCATION_STREAM, 'MAXLEN', 0)
    await revocations.reload()
    assert.equal(revocations.historyIncomplete, true)
    assert.equal(logged(WARNING), 1)
    assert.ok(revocations.isRevoked({ sid: 'a' }))
  })

  test('the gateway says nothing of what is missing for longer than that', async t => {
    const redis = await startRedis(t)
    await redis.add(REVOCATION_STREAM, signed(session('a')), `${Date.now() - 50 * HOUR}-0`)
    await redis.add(REVOCATION_STREAM, signed(session('b')), `${Date.now() - 49 * HOUR}-0`)
    await redis.add(REVOCATION_STREAM, signed(session('c')))
    await redis.command('XTRIM', REVOCATION_STREAM, 'MAXLEN', 2)
    const { revocations, logged } = await start(t, { redis })
    assert.equal(revocations.historyIncomplete, false)
    assert.equal(logged(WARNING), 0)
  })
})

test('the gateway goes on whatever ids the entries are given that a stream loses', async t => {
  const redis = await startRedis(t)
  const { revocations, logged } = await start(t, { redis })
  await redis.add(REVOCATION_STREAM, signed(session('a')), '18446744073709551615-0')
  await until(() => revocations.isRevoked({ sid: 'a' }))
  await redis.command('XTRIM', REVOCATION_STREAM, 'MAXLEN', 0)
  assert.equal(await revocations.reload(), 1)
  assert.equal(logged('has lost entries of the last 24 hours'), 1)
  await redis.command('DEL', REVOCATION_STREAM)
  assert.equal(await revocations.reload(), 1)
  await redis.add(REVOCATION_STREAM, signed(session('b')))
  await until(() => revocations.isRevoked({ sid: 'b' }))
})

test('the gateway writes a dead letter again that Redis has lost with its data', async t => {
  const redis = await startRedis(t)
  const id = await redis.add(REVOCATION_STREAM, signed({ reason: 'poison' }))
  const { revocations, counts } = await start(t, { redis })
  const letters = () => redis.entries(DEAD_LETTER_STREAM)
  await until(async () => (await letters()).length === 1)
  await redis.add(REVOCATION_STREAM, signed(session('a')))
  await until(() => revocations.isRevoked({ sid: 'a' }))
  await redis.restart()
  await redis.add(REVOCATION_STREAM, signed({ reason: 'poison' }), id)
  await until(async () => (await letters()).length === 1)
  await until(() => revocations.isFresh())
  await revocations.reload()
  assert.equal((await letters()).length, 1)
  assert.equal(counts.dead, 1)
})
