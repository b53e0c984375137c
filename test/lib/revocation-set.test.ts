// The set of revoked anchors against a plain map, and its room.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import * as fc from 'fast-check'
import { type AnchorKind, RevocationSet } from '../../lib/revocation-set.ts'

const KINDS: readonly AnchorKind[] = ['session', 'agent_session', 'delegation_edge']

// What an anchor's entry is in the model: its end in seconds, and whether the snapshot under way has it.
interface Entry {
  end: number
  marked: boolean
}

const anchor = { kind: fc.constantFrom(...KINDS), id: fc.nat(700) }
const end = fc.integer({ min: 1, max: 1000 })
const step = fc.oneof(
  { weight: 20, arbitrary: fc.record({ do: fc.constant('add' as const), ...anchor, end }) },
  fc.record({ do: fc.constant('pass' as const), seconds: fc.nat(60) }),
  fc.record({ do: fc.constant('sweep' as const), steps: fc.nat(300) }),
  fc.record({ do: fc.constant('begin' as const) }),
  fc.record({ do: fc.constant('abort' as const) }),
  // Whatever else is done between two steps of the end comes with the steps of the next one.
  fc.record({ do: fc.constant('end' as const), added: fc.array(fc.record(anchor)) }),
)

test('the set says of every anchor what a map says', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 200, maxLength: 900 }), steps => {
      const set = new RevocationSet()
      const model = new Map<string, Entry>()
      let now = 0
      let snapshot = false
      const keyOf = (kind: AnchorKind, id: number) => JSON.stringify([kind, `${id}`])
      function add(kind: AnchorKind, id: number, end: number): void {
        const known = model.get(keyOf(kind, id))
        const news = end > now && (known === undefined || known.end <= now)
        assert.equal(set.add(kind, `${id}`, end * 1000, now * 1000), news)
        if (end <= now) return
        model.set(keyOf(kind, id), {
          end: Math.max(known?.end ?? 0, end),
          marked: snapshot || (known?.marked ?? false),
        })
      }
      for (const one of steps) {
        if (one.do === 'add') add(one.kind, one.id, one.end)
        else if (one.do === 'pass') now += one.seconds
        else if (one.do === 'sweep') {
          let left = one.steps
          for (const _ of set.sweep(now * 1000)) if (left-- === 0) break
          // How far a sweep has come is seen by nobody but in the size.
          for (const _ of set.sweep(now * 1000));
          for (const [key, { end }] of model) if (end <= now) model.delete(key)
        } else if (one.do === 'begin') {
          set.beginSnapshot()
          snapshot = true
          for (const entry of model.values()) entry.marked = false
        } else if (one.do === 'abort') {
          set.abortSnapshot()
          snapshot = false
        } else if (snapshot) {
          const sweep = set.endSnapshot()
          for (const { kind, id } of one.added) {
            sweep.next()
            // It has not been there, or was swept already, or is still to be swept: revoked from now on it is.
            set.add(kind, `${id}`, 2_000_000, now * 1000)
            model.set(keyOf(kind, id), { end: 2_000, marked: true })
          }
          for (const _ of sweep);
          snapshot = false
          for (const [key, { marked }] of model) if (!marked) model.delete(key)
        }
        assert.equal(set.size, model.size)
      }
      for (const kind of KINDS) {
        for (let id = 0; id <= 700; id += 1) {
          const end = model.get(keyOf(kind, id))?.end ?? 0
          for (const at of [0, 500, 999]) {
            assert.equal(set.has(kind, `${id}`, at * 1000), end > at)
          }
        }
      }
    }),
    { numRuns: 40 },
  )
})

test('the set tells whether an anchor was not revoked before', () => {
  const set = new RevocationSet()
  assert.equal(set.add('session', 'a', 5_000, 0), true)
  assert.equal(set.add('session', 'a', 9_000, 4_000), false)
  assert.equal(set.add('session', 'a', 20_000, 9_000), true, 'what was over begins anew')
  assert.equal(set.add('session', 'b', 5_000, 5_000), false, 'what is over is not revoked')
  assert.equal(set.add('session', 'b', Infinity, 5_000), true)
  assert.equal(set.has('session', 'b', 2 ** 45), true)
})

test('the set keeps all that was known when a snapshot is given up', () => {
  const set = new RevocationSet()
  set.add('session', 'old', 5_000, 0)
  set.beginSnapshot()
  set.add('session', 'new', 5_000, 0)
  set.abortSnapshot()
  assert.ok(set.has('session', 'old', 0) && set.has('session', 'new', 0))
  set.beginSnapshot()
  for (const _ of set.endSnapshot());
  assert.equal(set.size, 0, 'what an earlier snapshot had marked counts for nothing')
})

test('the set keeps an anchor until its last millisecond and no longer', () => {
  const set = new RevocationSet()
  set.add('session', 'a', 5_000, 0)
  assert.equal(set.has('session', 'a', 4_999), true)
  assert.equal(set.has('session', 'a', 5_000), false)
})

test('the set never shortens a revocation', () => {
  const set = new RevocationSet()
  set.add('session', 'a', 9_000, 0)
  set.add('session', 'a', 2_000, 0)
  assert.equal(set.has('session', 'a', 8_999), true)
  assert.equal(set.size, 1)
})

test('the set keeps the kinds apart', () => {
  const set = new RevocationSet()
  set.add('session', 'a","b', 5_000, 0)
  assert.equal(set.has('agent_session', 'a","b', 0), false)
  assert.equal(set.has('delegation_edge', 'a","b', 0), false)
  assert.equal(set.has('session', 'a', 0), false)
})

test('the set takes what is over already, and an end beyond its range', () => {
  const set = new RevocationSet()
  set.add('session', 'past', -1, 0)
  set.add('session', 'no number', Number.NaN, 0)
  assert.equal(set.size, 0)
  set.add('session', 'far', 2 ** 64, 0)
  assert.equal(set.has('session', 'far', Date.now()), true)
})

test('the set takes less than 64 bytes for each revocation at every moment', async () => {
  setFlagsFromString('--expose-gc')
  const gc: () => void = runInNewContext('gc')
  // Buffers are given back a little after the collection that found them unused.
  for (let round = 0; round < 3; round += 1) {
    gc()
    await setImmediate()
  }
  const room = () => process.memoryUsage().arrayBuffers
  const before = room()
  const set = new RevocationSet()
  for (let n = 0; n < 300_000; n += 1) {
    set.add('session', `0190b6f0-7e3c-7000-8000-${n}`, n < 150_000 ? 1e12 : 2e12, 0)
    // No collection runs between: what a table leaves when it grows is given back at once.
    if (n > 20_000 && n % 1_000 === 0) assert.ok(room() - before < 64 * n, `${room() - before}`)
  }
  for (const _ of set.sweep(1e12)) assert.ok(room() - before < 64 * set.size)
  assert.equal(set.size, 150_000)
  for (const _ of set.sweep(2e12));
  assert.equal(set.size, 0)
  assert.ok(room() - before < 100_000)
})
