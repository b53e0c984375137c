// The journal on a real disk: what it holds at every moment, and how large it grows.
import assert from 'node:assert/strict'
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { type WrittenEvent, writeEvent } from '../../../lib/audit-event.ts'
import { intentLine } from '../../../lib/journal.ts'
import { uuidv7 } from '../../../lib/uuid.ts'
import { readHome } from '../../../plugins/audit/homes.ts'
import { Journal, type JournalItem } from '../../../plugins/audit/journal.ts'
import { lastFirst } from '../../cleanup.ts'
import type { Cleanup } from '../../redis.ts'

const MEBIBYTE = 1024 * 1024

async function directory(t: Cleanup): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'gateway-journal-'))
  t.after(() => rm(path, { recursive: true, force: true }))
  return path
}

function event(status: string, id = uuidv7(), padding = ''): WrittenEvent {
  const facts = { zone_id: 'z', event_type: 'gateway_resource_request', request_id: 'r' } as const
  const rest = { decision: 'allow', evaluation_status: status, metadata_json: { padding } } as const
  return writeEvent(id, { ...facts, ...rest }, Date.now())
}

async function recovered(path: string): Promise<Map<string, string>> {
  const { due } = await readHome(path, async lines => assert.deepEqual(lines, []))
  return new Map(due.map(({ id, data }) => [id, data]))
}

async function sizeOf(path: string): Promise<number> {
  const sizes = (await readdir(path)).map(async name => (await stat(join(path, name))).size)
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)
}

test(
  'the gateway has an intent in its journal before it goes on, for itself alone to read',
  lastFirst(async t => {
    const path = await directory(t)
    const journal = new Journal(path, false)
    t.after(async () => journal.close())
    const intent = event('interrupted')
    journal.intend(intent)
    const file = join(path, '1.journal')
    assert.equal(await readFile(file, 'utf8'), intentLine(intent))
    assert.equal((await stat(file)).mode & 0o777, 0o600)
    assert.equal(journal.size, 1)
  }),
)

for (const synced of [false, true]) {
  test(
    `the gateway finds in its journal what is due, at every moment, and bounds it (synced: ${synced})`,
    lastFirst(async t => {
      const steps = fc.sample(
        fc.record({
          step: fc.constantFrom('intend', 'settle', 'done', 'deny', 'forget'),
          which: fc.nat(),
        }),
        { numRuns: 600, seed: 5 },
      )
      const path = await directory(t)
      const journal = new Journal(path, synced)
      t.after(async () => journal.close())
      const open: JournalItem[] = []
      const ended: JournalItem[] = []
      const due = new Map<string, string>()
      const done = new Map<string, string>()
      // Requests that last for as long as the test does.
      for (let n = 0; n < 3; n += 1) {
        const intent = event('interrupted')
        due.set(intent.id, intent.data)
        journal.intend(intent)
      }
      const take = (items: JournalItem[], which: number) =>
        items.splice(which % Math.max(1, items.length), 1)[0]
      const padding = 'x'.repeat(MEBIBYTE / 8)
      let needed = 0
      for (const [index, { step, which }] of steps.entries()) {
        if (step === 'intend') {
          const intent = event('interrupted', uuidv7(), padding)
          open.push(journal.intend(intent))
          due.set(intent.id, intent.data)
        } else if (step === 'settle' || step === 'deny') {
          const intent = step === 'settle' ? take(open, which) : undefined
          const outcome = event('executed', intent?.id, padding)
          ended.push(...journal.settle([{ event: outcome, intent }]))
          due.set(outcome.id, outcome.data)
        } else {
          const item = take(step === 'done' ? ended : open, which)
          if (item !== undefined) {
            journal.done([item])
            done.set(item.id, due.get(item.id) ?? '')
            due.delete(item.id)
          }
        }
        needed = Math.max(needed, (open.length + ended.length) * padding.length)
        if (index % 25 !== 0) continue
        if (synced) await journal.synced()
        const found = await recovered(path)
        for (const [id, data] of due) assert.equal(found.get(id), data)
        // What was done a moment ago may be found again, as it was.
        for (const [id, data] of found) assert.equal(data, due.get(id) ?? done.get(id))
        assert.equal(await sizeOf(path), journal.bytes)
        const bound = Math.max(16 * MEBIBYTE, 2.2 * needed) + 5 * MEBIBYTE
        assert.ok(journal.bytes < bound, `${journal.bytes} of ${bound}`)
      }
      assert.equal(journal.size, due.size)
      journal.flush()
      assert.deepEqual(await recovered(path), due)
    }),
  )
}

test(
  'the gateway keeps a small journal although a request lasts for ever',
  lastFirst(async t => {
    const path = await directory(t)
    const journal = new Journal(path, false)
    t.after(async () => journal.close())
    const lasting = event('interrupted')
    journal.intend(lasting)
    const padding = 'x'.repeat(MEBIBYTE / 4)
    for (let n = 0; n < 200; n += 1) {
      const intent = journal.intend(event('interrupted', uuidv7(), padding))
      journal.done(journal.settle([{ event: event('executed', intent.id), intent }]))
      assert.ok(journal.bytes < 21 * MEBIBYTE, String(journal.bytes))
    }
    journal.flush()
    assert.deepEqual([...(await recovered(path))], [[lasting.id, lasting.data]])
  }),
)

test(
  'the gateway shares one sync among all that wait for one',
  lastFirst(async t => {
    const journal = new Journal(await directory(t), true)
    t.after(async () => journal.close())
    journal.intend(event('interrupted'))
    const first = journal.synced()
    assert.equal(journal.synced(), first)
    await Promise.resolve()
    // Under way: what is written now may not be part of it.
    journal.intend(event('interrupted'))
    const second = journal.synced()
    assert.notEqual(second, first)
    assert.equal(journal.synced(), second)
    await Promise.all([first, second])
  }),
)

test(
  'the gateway says when a line cannot be written, and can write again later',
  lastFirst(async t => {
    const path = await directory(t)
    const journal = new Journal(path, false)
    t.after(async () => journal.close())
    await rm(path, { recursive: true })
    assert.throws(() => journal.intend(event('interrupted')), { code: 'ENOENT' })
    assert.equal(journal.size, 0)
  }),
)
