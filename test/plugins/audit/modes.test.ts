// Nobody but the gateway's user and, where there is one, the directory's group reads what lies there, and no other
// gateway takes the journal for events.
import assert from 'node:assert/strict'
import { chmod, mkdir, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { createMemoryStore } from '../../../dev/memory-store.ts'
import { lastFirst } from '../../cleanup.ts'
import { until } from '../../until.ts'
import { event, start, stubbornStore, temporaryDirectory } from './support.ts'

test(
  'the gateway takes a directory as it is, and lets nobody read what it puts there',
  lastFirst(async t => {
    const directory = join(await temporaryDirectory(t), 'replay')
    await mkdir(directory)
    await chmod(directory, 0o750)
    const running = await start(t, { store: stubbornStore() }, { directory, durability: 'synced' })
    running.audit.intend(event(0))
    running.audit.record(event(1))
    await until(() => running.seen.persisted === 1)
    // Until then the file goes to and fro: it is tried again and again.
    await running.app.close()
    assert.equal((await stat(directory)).mode & 0o777, 0o750)
    const entries = await readdir(directory, { recursive: true, withFileTypes: true })
    for (const entry of entries) {
      const { mode } = await stat(join(entry.parentPath, entry.name))
      assert.equal(mode & 0o777, entry.isDirectory() ? 0o700 : 0o600, entry.name)
    }
    const names = entries.filter(entry => entry.isFile()).map(({ name }) => name)
    assert.deepEqual(names.filter(name => !name.startsWith('pending-')).toSorted(), [
      '1.journal',
      'released',
      'reserve',
    ])
    assert.equal(names.filter(name => name.endsWith('.ndjson')).length, 1)
  }),
)

test(
  'the gateway makes a directory, and what leads to it, for itself alone',
  lastFirst(async t => {
    const parent = join(await temporaryDirectory(t), 'parent')
    const directory = join(parent, 'replay')
    await start(t, { store: createMemoryStore() }, { directory, durability: 'strict' })
    for (const path of [parent, directory]) assert.equal((await stat(path)).mode & 0o777, 0o700)
  }),
)
