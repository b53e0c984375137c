// When a zone's keys are fetched, how long they count, and what a request is told meanwhile.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { type FetchReason, ZoneKeySet } from '../../lib/zone-key-set.ts'

const SECOND = 1000
const MINUTE = 60 * SECOND

class Unavailable extends Error {}

type Key = { readonly id: string }

/** A zone whose answer and clock the test sets. `hold` makes fetches wait for `release`. */
function zone(...kids: string[]) {
  const state = {
    now: 0,
    kids,
    broken: false,
    hold: false,
    random: 0,
    fetched: [] as FetchReason[],
    ended: [] as [FetchReason, boolean][],
    asked: [] as string[],
    waiting: [] as (() => void)[],
  }
  const set = new ZoneKeySet<Key>({
    clock: () => state.now,
    random: () => state.random,
    unavailable: cause => new Unavailable('unavailable', { cause }),
    onFetch: (reason, ok) => {
      state.ended.push([reason, ok])
    },
    fetch: async kid => {
      state.asked.push(kid)
      // What the zone says is settled when the fetch begins, as on a slow network.
      const { broken, kids } = state
      if (state.hold) await new Promise<void>(resolve => state.waiting.push(resolve))
      if (broken) throw new Error('broken')
      return new Map(kids.map(id => [id, { id }]))
    },
  })
  return {
    state,
    set,
    release() {
      for (const resolve of state.waiting.splice(0)) resolve()
    },
    id: async (kid: string) => (await set.find(kid))?.id,
    /** What is answered without waiting; fails when the set wants to wait. */
    now(kid: string) {
      const found = set.find(kid)
      assert.ok(!(found instanceof Promise), 'answers at once')
      return found?.id
    },
    get fetches() {
      return state.asked.length
    },
  }
}

/** Lets everything that is ready go on. */
const settle = () => new Promise(resolve => setImmediate(resolve))

test('the set fetches first, then answers a known kid at once and without a fetch', async () => {
  const z = zone('a', 'b')
  assert.ok(z.set.find('a') instanceof Promise)
  assert.equal(await z.id('b'), 'b')
  z.state.now = 3 * MINUTE
  assert.equal(z.now('a'), 'a')
  assert.equal(z.now('b'), 'b')
  assert.equal(z.fetches, 1)
  assert.deepEqual(z.state.ended, [['first', true]])
})

test('the set gives the same key object until the set is fetched anew', async () => {
  const z = zone('a')
  assert.equal(await z.set.find('a'), z.set.find('a'))
})

test('the set says undefined for a kid that the zone lacks, also when the zone has none', async () => {
  const z = zone()
  assert.equal(await z.id('x'), undefined)
  assert.deepEqual(z.state.ended, [['first', true]])
})

test('50 simultaneous unknown kids of a cold zone cost two fetches', async () => {
  const z = zone('a')
  z.state.hold = true
  const all = Array.from({ length: 50 }, (_, index) => z.id(`x${index}`))
  await settle()
  z.release()
  await settle()
  z.release()
  assert.deepEqual(new Set(await Promise.all(all)), new Set([undefined]))
  assert.deepEqual(z.state.ended, [
    ['first', true],
    ['unknown_kid', true],
  ])
})

test('50 simultaneous unknown kids of a warm zone cost one fetch', async () => {
  const z = zone('a')
  await z.id('a')
  await Promise.all(Array.from({ length: 50 }, (_, index) => z.id(`x${index}`)))
  assert.equal(z.fetches, 2)
})

test('an unknown kid forces one refetch in 30 s, whatever the kid', async () => {
  const z = zone('a')
  await z.id('a')
  z.state.now = SECOND
  assert.equal(await z.id('x'), undefined)
  assert.equal(z.fetches, 2)
  z.state.kids = ['a', 'x']
  z.state.now = 31 * SECOND - 1
  assert.equal(await z.id('x'), undefined)
  assert.equal(await z.id('y'), undefined)
  assert.equal(z.fetches, 2)
  z.state.now = 31 * SECOND
  assert.equal(await z.id('x'), 'x')
  assert.equal(z.fetches, 3)
})

test('a refetch that a stranger forced admits a rotated key that it brought', async () => {
  const z = zone('a')
  await z.id('a')
  z.state.kids = ['a', 'b']
  assert.equal(await z.id('stranger'), undefined)
  assert.equal(z.now('b'), 'b')
  assert.equal(z.fetches, 2)
})

test('a first fetch does not close the gate', async () => {
  const z = zone('a')
  await z.id('x')
  z.state.kids = ['a', 'x']
  assert.equal(await z.id('x'), 'x')
})

test('a fetch that was under way when the request came cannot rule its kid out', async () => {
  const z = zone('a')
  z.state.hold = true
  const first = z.id('a')
  z.state.kids = ['a', 'b'] // published after the fetch began
  const second = z.id('b')
  z.state.hold = false
  z.release()
  assert.equal(await first, 'a')
  assert.equal(await second, 'b')
  assert.equal(z.fetches, 2)
})

test('known kids are answered at once while an unknown one is being looked for', async () => {
  const z = zone('a')
  await z.id('a')
  z.state.hold = true
  const unknown = z.id('x')
  await settle()
  assert.equal(z.now('a'), 'a')
  z.release()
  assert.equal(await unknown, undefined)
})

test('the use of a key from 80 % of the time on refreshes the set behind the request', async () => {
  const z = zone('a')
  await z.id('a')
  z.state.now = 4 * MINUTE - 1
  z.now('a')
  assert.equal(z.fetches, 1)
  z.state.now = 4 * MINUTE
  z.state.hold = true
  for (let use = 0; use < 10; use += 1) assert.equal(z.now('a'), 'a')
  assert.equal(z.fetches, 2)
  z.release()
  await settle()
  z.state.hold = false
  z.state.now = 8 * MINUTE - 1
  assert.equal(z.now('a'), 'a')
  assert.deepEqual(z.state.ended, [
    ['first', true],
    ['ahead', true],
  ])
})

test('no request waits twice while the zone has traffic', async () => {
  const z = zone('a')
  await z.id('a')
  for (let second = 1; second <= 3600; second += 1) {
    z.state.now = second * SECOND
    assert.equal(z.now('a'), 'a')
    if (second % 240 === 0) await settle()
  }
  assert.equal(z.fetches, 16)
})

test('a refresh ahead of time does not use the gate, nor does an unknown kid start one', async () => {
  const z = zone('a')
  await z.id('a')
  z.state.now = 4 * MINUTE - SECOND
  assert.equal(await z.id('x'), undefined)
  z.state.now = 8 * MINUTE - SECOND
  z.now('a')
  await settle()
  assert.equal(await z.id('y'), undefined)
  assert.deepEqual(
    z.state.ended.map(([reason]) => reason),
    ['first', 'unknown_kid', 'ahead', 'unknown_kid'],
  )
})

for (const kid of ['a', 'x']) {
  test(`a set of five minutes is fetched anew before it answers for ${kid}`, async () => {
    const z = zone('a')
    await z.id('a')
    z.state.kids = []
    z.state.now = 5 * MINUTE
    assert.equal(await z.id(kid), undefined)
    assert.deepEqual(z.state.ended.at(-1), ['expired', true])
    assert.equal(z.fetches, 2)
  })
}

test('a set counts until its last millisecond', async () => {
  const z = zone('a')
  await z.id('a')
  z.state.kids = []
  z.state.now = 5 * MINUTE - 1
  assert.equal(z.now('a'), 'a')
})

test('a key that is absent from an answer stops verifying at once', async () => {
  const z = zone('a', 'b')
  await z.id('a')
  z.state.kids = ['b']
  z.state.now = 4 * MINUTE
  assert.equal(z.now('a'), 'a') // starts the refresh
  await settle()
  z.state.hold = true
  const gone = z.id('a')
  await settle()
  z.release()
  assert.equal(await gone, undefined)
  assert.equal(z.now('b'), 'b')
})

test('a rotation refuses nobody: both keys, then only the new one', async () => {
  const z = zone('old')
  assert.equal(await z.id('old'), 'old')
  z.state.kids = ['old', 'new']
  z.state.now = SECOND
  assert.equal(await z.id('new'), 'new')
  assert.equal(z.now('old'), 'old')
  z.state.kids = ['new']
  z.state.now = 4 * MINUTE + SECOND
  assert.equal(z.now('new'), 'new')
  await settle()
  assert.equal(z.now('new'), 'new')
  assert.equal(await z.id('old'), undefined)
})

test('while fetches fail, a key serves until ten minutes after it was last seen', async () => {
  const z = zone('a')
  await z.id('a')
  z.state.broken = true
  for (let second = 240; second < 600; second += 1) {
    z.state.now = second * SECOND
    assert.equal(z.now('a'), 'a', `at ${second} s`)
    await settle()
  }
  z.state.now = 10 * MINUTE - 1
  assert.equal(z.now('a'), 'a')
  z.state.now = 10 * MINUTE
  await assert.rejects(z.id('a'), Unavailable)
  z.state.broken = false
  z.state.now = 11 * MINUTE
  assert.equal(await z.id('a'), 'a')
})

test('a key of an idle zone that expired is not served before the zone was asked', async () => {
  const z = zone('a')
  await z.id('a')
  z.state.now = 4 * MINUTE
  z.state.broken = true
  z.now('a')
  await settle()
  z.state.now = 9 * MINUTE
  z.state.broken = false
  z.state.kids = []
  assert.equal(await z.id('a'), undefined)
})

test('a fetch that fails after expiry leaves a known kid served and an unknown one unjudged', async () => {
  const z = zone('a')
  await z.id('a')
  z.state.broken = true
  z.state.now = 6 * MINUTE
  assert.equal(await z.id('a'), 'a')
  assert.equal(z.now('a'), 'a')
  await assert.rejects(z.id('x'), Unavailable)
  assert.equal(z.fetches, 2)
})

test('a failed forced refetch leaves the unknown kid unjudged and known kids served', async () => {
  const z = zone('a')
  await z.id('a')
  z.state.broken = true
  z.state.now = SECOND
  await assert.rejects(z.id('b'), Unavailable)
  await assert.rejects(z.id('c'), Unavailable)
  assert.equal(z.now('a'), 'a')
  assert.equal(z.fetches, 2)
  // The zone recovers, and the kid is judged as soon as the wait is over.
  z.state.broken = false
  z.state.kids = ['a', 'b']
  z.state.now = 1.5 * SECOND
  assert.equal(await z.id('b'), 'b')
})

test('after failures the zone waits 0.5 s, doubling to 30 s, and a success ends that', async () => {
  const z = zone('a')
  z.state.broken = true
  await assert.rejects(z.id('a'), Unavailable)
  for (const wait of [0.5, 1, 2, 4, 8, 16, 30, 30]) {
    const before = z.fetches
    z.state.now += wait * SECOND - 1
    await assert.rejects(z.id('a'), Unavailable)
    assert.equal(z.fetches, before, `no fetch within ${wait} s`)
    z.state.now += 1
    await assert.rejects(z.id('a'), Unavailable)
    assert.equal(z.fetches, before + 1, `a fetch after ${wait} s`)
  }
  z.state.now += 30 * SECOND
  z.state.broken = false
  assert.equal(await z.id('a'), 'a')
  z.state.broken = true
  await assert.rejects(z.id('x'), Unavailable)
  z.state.now += SECOND / 2
  z.state.broken = false
  assert.equal(await z.id('x'), undefined)
})

test('the jitter shortens a wait by a quarter at most', async () => {
  const z = zone('a')
  z.state.broken = true
  z.state.random = 0.999999
  await assert.rejects(z.id('a'), Unavailable)
  z.state.now = 374
  await assert.rejects(z.id('a'), Unavailable)
  assert.equal(z.fetches, 1)
  z.state.now = 376
  await assert.rejects(z.id('a'), Unavailable)
  assert.equal(z.fetches, 2)
})

test('requests that share a failed fetch are refused with its cause, and none fetches again', async () => {
  const z = zone('a')
  z.state.broken = true
  const all = await Promise.allSettled(Array.from({ length: 50 }, (_, index) => z.id(`x${index}`)))
  for (const result of all) {
    assert.ok(result.status === 'rejected' && result.reason instanceof Unavailable)
    assert.match(String(result.reason.cause), /broken/)
  }
  assert.equal(z.fetches, 1)
})

test('whatever happens, no key serves that the last answer lacks or that is ten minutes old', async () => {
  const step = fc.record({
    wait: fc.nat({ max: 3 * MINUTE }),
    kids: fc.subarray(['a', 'b', 'c']),
    broken: fc.boolean(),
    ask: fc.constantFrom('a', 'b', 'c', 'x'),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async steps => {
      const z = zone()
      let seen: { kids: string[]; at: number } | undefined
      let forced = -Infinity
      for (const { wait, kids, broken, ask } of steps) {
        z.state.now += wait
        Object.assign(z.state, { kids, broken })
        const before = seen
        const found = await z.id(ask).catch((error: unknown) => {
          assert.ok(error instanceof Unavailable)
        })
        await settle()
        for (const [reason, ok] of z.state.ended.splice(0)) {
          if (reason === 'unknown_kid' && ok) {
            assert.ok(z.state.now - forced >= 30 * SECOND)
            forced = z.state.now
          }
          if (ok) seen = { kids, at: z.state.now }
        }
        if (found === undefined) continue
        // A refresh behind the request answers from what was known before it.
        const sources = [before, seen].filter(
          source => source !== undefined && z.state.now - source.at < 10 * MINUTE,
        )
        assert.ok(sources.some(source => source?.kids.includes(found)))
      }
    }),
    { numRuns: 200 },
  )
})
