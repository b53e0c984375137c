// What it shows: what is missed is read soon, in few reads, and nobody waits for long.

import assert from 'node:assert/strict'
import { describe, it, type TestContext } from 'node:test'
import * as fc from 'fast-check'
import { MissQueue } from '../../lib/miss-queue.ts'

/** A source whose reads end when the test says so, and a clock that the test moves. */
function source(t: TestContext) {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const reads: {
    readonly keys: readonly string[]
    readonly end: (error?: Error) => Promise<void>
  }[] = []
  // At 0 the library that remembers would take an entry for one without a time.
  let time = 1
  const queue = new MissQueue<string>({
    interval: 1000,
    patience: 1000,
    batch: 3,
    capacity: 5,
    now: () => time,
    read(keys) {
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      reads.push({
        keys,
        async end(error) {
          if (error === undefined) resolve()
          else reject(error)
          await settled()
        },
      })
      return promise
    },
  })
  return {
    queue,
    ask: (id: string) => queue.ask(id, id),
    reads,
    end: (error?: Error) => reads.at(-1)?.end(error),
    keys: () => reads.map(({ keys }) => keys.join('')),
    pass: (milliseconds: number) => {
      time += milliseconds
      t.mock.timers.tick(milliseconds)
    },
  }
}

async function settled(): Promise<void> {
  await new Promise(setImmediate)
}

/** Whether a promise is settled by now. */
async function isKnown(promise: Promise<void> | undefined): Promise<boolean> {
  assert.ok(promise !== undefined, 'nothing is read')
  let known = false
  void promise.then(() => {
    known = true
  })
  await settled()
  return known
}

describe('MissQueue', () => {
  it('reads at once, and tells when it was read', async t => {
    const { ask, keys, end } = source(t)
    const known = ask('a')
    assert.deepEqual(keys(), ['a'])
    assert.equal(await isKnown(known), false)
    await end()
    assert.equal(await isKnown(known), true)
  })

  it('reads what is missed meanwhile together, one read at a time, each key once', async t => {
    const { ask, keys, end } = source(t)
    const known = ['a', 'b', 'c', 'd', 'a', 'b', 'c', 'd'].map(ask)
    assert.deepEqual(keys(), ['a'])
    await end()
    assert.deepEqual(keys(), ['a', 'bcd'])
    assert.equal(await isKnown(known[0]), true)
    assert.equal(await isKnown(known[4]), true)
    assert.equal(await isKnown(known[1]), false)
    await end()
    assert.deepEqual(keys(), ['a', 'bcd'])
    for (const promise of known) assert.equal(await isKnown(promise), true)
  })

  it('reads no more than a batch at once', async t => {
    const { ask, keys, end } = source(t)
    for (const id of ['a', 'b', 'c', 'd', 'e']) ask(id)
    await end()
    await end()
    await end()
    assert.deepEqual(keys(), ['a', 'bcd', 'e'])
  })

  it('reads the same once an interval, counted from the start of the read', async t => {
    const { ask, keys, pass, end } = source(t)
    ask('a')
    pass(400)
    await end()
    assert.equal(ask('a'), undefined)
    assert.notEqual(ask('b'), undefined)
    await end()
    pass(599)
    assert.equal(ask('a'), undefined)
    pass(2)
    assert.notEqual(ask('a'), undefined)
    assert.deepEqual(keys(), ['a', 'b', 'a'])
  })

  it('lets nobody wait longer than patience lasts, nor at all once a read lasts that long', async t => {
    const { ask, pass, end, keys } = source(t)
    const first = ask('a')
    pass(500)
    const second = ask('b')
    pass(499)
    assert.equal(await isKnown(first), false)
    pass(1)
    assert.equal(await isKnown(first), true)
    assert.equal(await isKnown(second), false)
    assert.equal(ask('a'), undefined)
    assert.equal(ask('b'), undefined)
    assert.equal(ask('c'), undefined)
    pass(500)
    assert.equal(await isKnown(second), true)
    await end()
    assert.deepEqual(keys(), ['a', 'b'], 'what waits is read all the same')
    await end()
    assert.notEqual(ask('c'), undefined)
  })

  it('rests after a read that failed, and lets nobody wait for it', async t => {
    const { ask, pass, end, keys } = source(t)
    const known = [ask('a'), ask('b')]
    await end(new Error('away'))
    for (const promise of known) assert.equal(await isKnown(promise), true)
    assert.equal(ask('a'), undefined)
    assert.equal(ask('c'), undefined)
    pass(999)
    assert.equal(ask('c'), undefined)
    pass(1)
    assert.notEqual(ask('c'), undefined)
    assert.deepEqual(keys(), ['a', 'c'])
  })

  it('holds no more than its capacity', async t => {
    const { ask, end } = source(t)
    const known = ['a', 'b', 'c', 'd', 'e', 'f', 'g'].map(ask)
    assert.deepEqual(
      known.map(promise => promise !== undefined),
      [true, true, true, true, true, false, false],
    )
    await end()
    assert.notEqual(ask('f'), undefined)
  })

  it('remembers what it read in bounded memory', async () => {
    let time = 1
    let reads = 0
    const queue = new MissQueue<number>({
      interval: 1000,
      patience: 1000,
      now: () => time,
      read: async () => void (reads += 1),
    })
    for (let i = 0; i < 10_001; i++) {
      await queue.ask(String(i), i)
      // The queue is idle again.
      await Promise.resolve()
      time += 0.01
    }
    assert.equal(queue.ask('10000', 10_000), undefined)
    assert.notEqual(queue.ask('0', 0), undefined, 'the first is forgotten')
  })

  it('answers everybody, whatever happens in whatever order', async t => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const step = fc.oneof(
      fc.record({ ask: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f') }),
      fc.record({ pass: fc.integer({ min: 1, max: 700 }) }),
      fc.record({ end: fc.boolean() }),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async steps => {
        let time = 1
        let reading: { since: number; end: (ok: boolean) => void } | undefined
        const readAt = new Map<string, number>()
        const queue = new MissQueue<string>({
          interval: 1000,
          patience: 1000,
          batch: 2,
          capacity: 4,
          now: () => time,
          read(keys) {
            assert.equal(reading, undefined, 'one read at a time')
            assert.ok(keys.length <= 2)
            for (const key of keys) {
              assert.ok(time - (readAt.get(key) ?? -Infinity) >= 1000, 'once an interval')
              readAt.set(key, time)
            }
            const { promise, resolve, reject } = Promise.withResolvers<void>()
            const end = (ok: boolean) => {
              reading = undefined
              if (ok) resolve()
              else reject(new Error('away'))
            }
            reading = { since: time, end }
            return promise
          },
        })
        const waiting = new Map<Promise<void>, number>()
        for (const it of steps) {
          if ('ask' in it) {
            const known = queue.ask(it.ask, it.ask)
            if (known !== undefined && !waiting.has(known)) {
              waiting.set(known, time)
              void known.then(() => waiting.delete(known))
            }
          } else if ('pass' in it) {
            time += it.pass
            t.mock.timers.tick(it.pass)
          } else reading?.end(it.end)
          await settled()
          for (const since of waiting.values()) assert.ok(time - since < 1000, 'bounded wait')
        }
        for (let reads = 0; reads < 4; reads++) {
          reading?.end(true)
          await settled()
        }
        assert.equal(reading, undefined)
        assert.equal(waiting.size, 0)
      }),
      { numRuns: 200 },
    )
  })
})
