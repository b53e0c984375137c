// Holds the queue to what it can do about a disk that is slow.
import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { pino } from 'pino'
import { ReplayDirectory } from '../../../plugins/audit/directory.ts'
import { Queue } from '../../../plugins/audit/queue.ts'
import { Sink } from '../../../plugins/audit/sink.ts'
import { lastFirst } from '../../cleanup.ts'
import { until } from '../../until.ts'
import { event, number, stubbornStore, temporaryDirectory } from './support.ts'

/** A directory on a disk that takes its time. */
class SlowDirectory extends ReplayDirectory {
  readonly asked = Promise.withResolvers<void>()
  readonly done = Promise.withResolvers<void>()

  override async publish(...lines: Parameters<ReplayDirectory['publish']>): Promise<string> {
    this.asked.resolve()
    await this.done.promise
    return super.publish(...lines)
  }
}

test(
  'the gateway keeps an event once although it ends while the event is being written',
  lastFirst(async t => {
    const log = pino({ level: 'silent' })
    const root = await temporaryDirectory(t)
    const directory = new SlowDirectory(root, 'strict', log)
    await directory.open()
    let kept = 0
    const queue = new Queue(
      new Sink(stubbornStore(), undefined, log, () => undefined),
      directory,
      log,
      {
        capacity: 10,
        files: () => 0,
        onDropped: () => assert.fail('nothing is lost'),
        onKept: count => void (kept += count),
      },
    )
    for (let n = 0; n < 3; n += 1) queue.record(event(n), undefined)
    await directory.asked.promise
    // Not part of what is being written.
    queue.record(event(3), undefined)
    const closed = queue.close(performance.now())
    await new Promise(resolve => setTimeout(resolve, 20))
    directory.done.resolve()
    await closed
    await directory.close()
    assert.equal(kept, 4)
    const texts = await Promise.all(
      (await readdir(root)).map(name => readFile(join(root, name), 'utf8')),
    )
    const numbers = texts.join('').trim().split('\n').map(number)
    assert.deepEqual(
      numbers.toSorted((a, b) => a - b),
      [0, 1, 2, 3],
    )
  }),
)

test(
  'the gateway makes fewer replay files the more there are, and takes no longer for many events',
  lastFirst(async t => {
    const log = pino({ level: 'silent' })
    const directory = new ReplayDirectory(await temporaryDirectory(t), 'relaxed', log)
    await directory.open()
    t.after(() => directory.close())
    let files = 0
    const kept: number[] = []
    const sink = new Sink(stubbornStore(), undefined, log, () => undefined)
    const queue = new Queue(sink, directory, log, {
      capacity: 10_000,
      files: () => files,
      onDropped: () => assert.fail('nothing is lost'),
      onKept: count => void kept.push(count),
    })
    t.after(() => queue.close(performance.now()))
    const timeFor = async (count: number) => {
      const begin = performance.now()
      const files = kept.length + 1
      for (let n = 0; n < count; n += 1) queue.record(event(n), undefined)
      await until(() => kept.length === files)
      return performance.now() - begin
    }
    // Finds out that Redis takes nothing.
    await timeFor(1)
    assert.ok((await timeFor(1)) >= 200)
    files = 800
    assert.ok((await timeFor(1)) >= 1_000)
    files = 1_000_000
    assert.ok((await timeFor(1)) < 4_000)
    queue.record(event(), undefined)
    assert.ok((await timeFor(499)) < 1_500)
    assert.deepEqual(kept, [1, 1, 1, 1, 500])
  }),
)

test(
  'the gateway does not send what it has kept because the disk took too long at the end',
  lastFirst(async t => {
    const log = pino({ level: 'silent' })
    const directory = new ReplayDirectory(await temporaryDirectory(t), 'synced', log)
    await directory.open()
    const { journal } = directory
    assert.ok(journal)
    const asked = Promise.withResolvers<void>()
    const synced = Promise.withResolvers<void>()
    journal.synced = () => {
      asked.resolve()
      return synced.promise
    }
    const store = stubbornStore()
    store.taking = Infinity
    let kept = 0
    const queue = new Queue(new Sink(store, undefined, log, () => undefined), directory, log, {
      capacity: 10,
      files: () => 0,
      onDropped: () => assert.fail('nothing is lost'),
      onKept: count => void (kept += count),
    })
    queue.record(event(), undefined)
    await asked.promise
    await queue.close(performance.now())
    synced.resolve()
    await new Promise(resolve => setTimeout(resolve, 20))
    await directory.close()
    assert.deepEqual([kept, store.taken.length], [1, 0])
  }),
)
