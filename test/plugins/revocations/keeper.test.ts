// When snapshots are read: on time, again after a failure, whole after a break, one at a time.
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import Fastify from 'fastify'
import { Keeper } from '../../../plugins/revocations/keeper.ts'

async function begin(t: TestContext) {
  const lines: string[] = []
  const app = Fastify({ logger: { stream: { write: line => void lines.push(line) } } })
  const reads: boolean[] = []
  const source = {
    check: async () => undefined,
    async read(whole: boolean): Promise<void> {
      reads.push(whole)
      await source.work()
    },
    work: async (): Promise<void> => undefined,
    lost: () => undefined,
    isIncomplete: false,
    stop: () => undefined,
  }
  let now = 1_000
  t.mock.method(performance, 'now', () => now)
  t.mock.timers.enable({ apis: ['setInterval'] })
  /** Lets time pass, and what is due happen. */
  async function pass(milliseconds: number): Promise<void> {
    for (let left = milliseconds; left > 0; left -= 500) {
      now += 500
      t.mock.timers.tick(500)
      await settled()
    }
  }
  const keeper = new Keeper(source, app.log)
  t.after(() => keeper.stop())
  await keeper.start()
  const logged = (text: string) => lines.filter(line => line.includes(text)).length
  return { keeper, source, reads, pass, logged }
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn += 1) await setImmediate()
}

const away = async () => {
  throw new Error('away')
}

test('the gateway refreshes its snapshot every 30 s', async t => {
  const { reads, pass } = await begin(t)
  assert.deepEqual(reads, [true])
  await pass(29_500)
  assert.deepEqual(reads, [true])
  await pass(500)
  assert.deepEqual(reads, [true, false])
  await pass(29_500)
  assert.equal(reads.length, 2)
  await pass(500)
  assert.equal(reads.length, 3)
})

test('the gateway counts the age of a snapshot from when its read began', async t => {
  const { keeper, source, pass } = await begin(t)
  const { promise, resolve } = Promise.withResolvers<void>()
  source.work = () => promise
  await pass(55_000)
  assert.equal(keeper.began, 1_000, 'a read that goes on proves nothing')
  resolve()
  await settled()
  assert.equal(keeper.began, 31_000)
})

test('the gateway tries again soon after a failure, and logs an outage once', async t => {
  const { keeper, source, reads, pass, logged } = await begin(t)
  source.work = away
  await pass(30_000)
  for (const wait of [1_000, 2_000, 4_000, 5_000, 5_000]) {
    const { length } = reads
    await pass(wait - 500)
    assert.equal(reads.length, length)
    await pass(500)
    assert.equal(reads.length, length + 1)
  }
  assert.equal(keeper.began, 1_000)
  assert.equal(logged('the revocation snapshot cannot be read'), 1)
  source.work = async () => undefined
  await pass(5_000)
  assert.equal(keeper.began, 53_000)
  assert.equal(logged('the revocation snapshot is read again'), 1)
})

test('the gateway reads the whole of it at once after a break, and again after one in the middle', async t => {
  const { keeper, source, reads, pass } = await begin(t)
  keeper.mend()
  await settled()
  assert.deepEqual(reads, [true, true])
  source.work = async () => {
    source.work = async () => undefined
    keeper.mend()
  }
  keeper.mend()
  await pass(1_000)
  assert.deepEqual(reads, [true, true, true, true])
  await pass(30_000)
  assert.equal(reads.at(-1), false)
})

test('the gateway mends at once what failed when the break was over', async t => {
  const { keeper, source, reads, pass } = await begin(t)
  const { promise, reject } = Promise.withResolvers<void>()
  source.work = () => promise
  keeper.mend()
  await settled()
  source.work = async () => undefined
  keeper.mend()
  reject(new Error('away'))
  await settled()
  assert.equal(reads.length, 2)
  await pass(500)
  assert.deepEqual(reads, [true, true, true])
})

test('the gateway reads for who asks after the read that goes on', async t => {
  const { keeper, source, reads, pass } = await begin(t)
  const { promise, resolve } = Promise.withResolvers<void>()
  source.work = () => promise
  await pass(30_000)
  source.work = async () => undefined
  let done = false
  const asked = keeper.readWhole().then(() => {
    done = true
  })
  await settled()
  assert.deepEqual([reads.length, done], [2, false])
  resolve()
  await asked
  assert.deepEqual(reads, [true, false, true])
})

test('the gateway reads for who asks although the read before that failed', async t => {
  const { keeper, source, reads } = await begin(t)
  source.work = away
  await assert.rejects(keeper.readWhole(), /away/)
  source.work = async () => undefined
  await keeper.readWhole()
  assert.deepEqual(reads, [true, true, true])
})
