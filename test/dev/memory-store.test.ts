// The in-process store behaves as Redis does, within its bounds.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createMemoryStore } from '../../dev/memory-store.ts'

test('the store lets one caller claim a key until its time is over', async t => {
  let time = 1_000
  const store = createMemoryStore({ now: () => time })
  t.after(() => store.close())
  const claims = await Promise.all(Array.from({ length: 50 }, () => store.claim('k', 'v', 100)))
  assert.equal(claims.filter(Boolean).length, 1)
  time = 1_099
  assert.equal(await store.claim('k', 'v', 100), false)
  time = 1_100
  assert.equal(await store.claim('k', 'v', 100), true)
})

test('the store rejects a claim rather than forget one', async t => {
  let time = 1_000
  const store = createMemoryStore({ now: () => time, maxClaims: 2 })
  t.after(() => store.close())
  await store.claim('a', 'v', 100)
  await store.claim('b', 'v', 200)
  await assert.rejects(store.claim('c', 'v', 100), /full/)
  assert.equal(await store.claim('b', 'v', 100), false)
  time = 1_150
  assert.equal(await store.claim('c', 'v', 100), true)
})

test('the store numbers entries upwards, also when the clock goes back', async t => {
  let time = 1_000
  const store = createMemoryStore({ now: () => time })
  t.after(() => store.close())
  await store.append('s', [{ n: '1' }, { n: '2' }])
  time = 900
  await store.append('s', [{ n: '3' }])
  time = 1_001
  await store.append('s', [{ n: '4' }])
  const ids = (await store.range('s', '-', 10)).map(entry => entry.id)
  assert.deepEqual(ids, ['1000-0', '1000-1', '1000-2', '1001-0'])
  assert.equal((await store.info('s'))?.lastId, '1001-0')
  assert.deepEqual((await store.range('s', '(1000-1', 1))[0]?.fields, { n: '3' })
  assert.equal((await store.range('s', '1001', 10)).length, 1)
  assert.equal(await store.info('none'), undefined)
})

test('the store keeps the newest entries of a stream', async t => {
  const store = createMemoryStore({ maxEntries: 3 })
  t.after(() => store.close())
  for (const n of '12345') await store.append('s', [{ n }])
  assert.deepEqual(
    (await store.range('s', '-', 10)).map(({ fields }) => fields['n']),
    ['3', '4', '5'],
  )
})

test('the store wakes a reader that waits, and lets it go in time or at the end', async () => {
  const store = createMemoryStore()
  const waiting = store.tail('s', '0-0', 10, 10_000)
  await store.append('other', [{ n: '0' }])
  await store.append('s', [{ n: '1' }])
  const [entry] = await waiting
  assert.deepEqual(entry?.fields, { n: '1' })
  assert.deepEqual(await store.tail('s', entry?.id ?? '', 10, 5), [])
  const last = store.tail('s', entry?.id ?? '', 10, 10_000)
  store.close()
  assert.deepEqual(await last, [])
  await assert.rejects(store.ping(), /closed/)
  await assert.rejects(store.claim('k', 'v', 1), /closed/)
  assert.ok((await store.append('s', [{}]))[0] instanceof Error)
})
