// The set of revoked anchors against a plain map, and its room.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import * as fc from 'fast-check'
import { type AnchorKind, RevocationSet } from '../../lib/revocation-set.ts'

const KINDS: readonly AnchorKind[] = ['session', 'agent_session', 'delegation_edge']

test('the set says of every anchor what a map says', () => {
  const step = fc.oneof(
    fc.record({
      do: fc.constant('add' as const),
      kind: fc.constantFrom(...KINDS),
      id: fc.nat(400),
      end: fc.integer({ min: 1, max: 1000 }),
    }),
    fc.record({ do: fc.constant('sweep' as const), now: fc.integer({ min: 0, max: 1000 }) }),
  )
  fc.assert(
    fc.property(fc.array(step, { minLength: 200, maxLength: 600 }), steps => {
      const set = new RevocationSet()
      const model = new Map<string, number>()
      for (const one of steps) {
        if (one.do === 'add') {
          const key = JSON.stringify([one.kind, `${one.id}`])
          model.set(key, Math.max(model.get(key) ?? 0, one.end))
          set.add(one.kind, `${one.id}`, one.end * 1000)
        } else {
          let gone = 0
          for (const [key, end] of model) if (end <= one.now && model.delete(key)) gone += 1
          assert.equal(set.sweep(one.now * 1000), gone)
        }
        assert.equal(set.size, model.size)
      }
      for (const kind of KINDS) {
        for (let id = 0; id <= 400; id += 1) {
          const end = model.get(JSON.stringify([kind, `${id}`])) ?? 0
          for (const now of [0, 500, 999]) {
            assert.equal(set.has(kind, `${id}`, now * 1000), end > now)
          }
        }
      }
    }),
    { numRuns: 15 },
  )
})

test('the set keeps an anchor until its last millisecond and no longer', () => {
  const set = new RevocationSet()
  set.add('session', 'a', 5_000)
  assert.equal(set.has('session', 'a', 4_999), true)
  assert.equal(set.has('session', 'a', 5_000), false)
})

test('the set never shortens a revocation', () => {
  const set = new RevocationSet()
  set.add('session', 'a', 9_000)
  set.add('session', 'a', 2_000)
  assert.equal(set.has('session', 'a', 8_999), true)
  assert.equal(set.size, 1)
})

test('the set keeps the kinds apart', () => {
  const set = new RevocationSet()
  set.add('session', 'a","b', 5_000)
  assert.equal(set.has('agent_session', 'a","b', 0), false)
  assert.equal(set.has('delegation_edge', 'a","b', 0), false)
  assert.equal(set.has('session', 'a', 0), false)
})

test('the set takes what is over already, and an end beyond its range', () => {
  const set = new RevocationSet()
  set.add('session', 'past', -1)
  set.add('session', 'no number', Number.NaN)
  assert.equal(set.size, 0)
  set.add('session', 'far', 2 ** 64)
  assert.equal(set.has('session', 'far', Date.now()), true)
})

test('the set takes less than 64 bytes for each of 100,000 revocations', async () => {
  setFlagsFromString('--expose-gc')
  const gc: () => void = runInNewContext('gc')
  // Buffers are given back a little after the collection that found them unused.
  const collect = async () => {
    for (let round = 0; round < 3; round += 1) {
      gc()
      await setImmediate()
    }
  }
  await collect()
  const before = process.memoryUsage().arrayBuffers
  const set = new RevocationSet()
  for (let n = 0; n < 100_000; n += 1) set.add('session', `0190b6f0-7e3c-7000-8000-${n}`, 1e12)
  await collect()
  const grown = process.memoryUsage().arrayBuffers - before
  assert.ok(grown > 0 && grown < 64 * 100_000, `${grown} bytes`)
  assert.equal(set.size, 100_000)
  assert.equal(set.sweep(2e12), 100_000)
  assert.equal(set.size, 0)
})
