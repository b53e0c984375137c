// What it shows: the gateway always serves one whole valid set of bindings, and picks up the next.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdir, mkdtemp, rename, rm, symlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { describe, it } from 'node:test'
import type { TestContext } from 'node:test'
import { setTimeout as wait } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import Fastify from 'fastify'
import bindings from '../../plugins/bindings.ts'
import bindingsFile, { BindingsFileError } from '../../plugins/bindings-file.ts'

function text(...resources: string[]): string {
  const lines = resources.map(name => `      ${name}: {}`)
  return `version: 1\nzones:\n  z:\n    resources:\n${lines.join('\n')}\n`
}

async function directory(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'bindings-'))
  t.after(() => rm(path, { recursive: true, force: true }))
  return path
}

interface LogLine {
  level: number
  msg: string
  problems?: string[]
}

async function gateway(t: TestContext, file: string, pollInterval?: number) {
  const lines: LogLine[] = []
  const reloads: boolean[] = []
  const stream = new Writable({
    write(chunk, _encoding, done) {
      lines.push(JSON.parse(String(chunk)))
      done()
    },
  })
  const app = Fastify({ logger: { level: 'info', stream } })
  t.after(() => app.close())
  await app.register(bindings)
  await app.register(bindingsFile, { file, pollInterval, onReload: ok => reloads.push(ok) })
  await app.ready()
  const errors = () => lines.filter(line => line.level === 50)
  return { app, lines, reloads, errors }
}

async function start(file: string, pollInterval?: number): Promise<void> {
  const app = Fastify()
  try {
    await app.register(bindings)
    await app.register(bindingsFile, { file, pollInterval })
  } finally {
    await app.close()
  }
}

/** Puts a whole file in the place of another, so that no half of it is ever seen. */
async function replace(file: string, content: string): Promise<void> {
  await writeFile(`${file}.next`, content)
  await rename(`${file}.next`, file)
}

/** Waits for a condition, for half a minute at most. */
async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = Date.now() + 30_000
  while (!condition()) {
    assert.ok(Date.now() < deadline, `never: ${what}`)
    await wait(5)
  }
}

// Long enough that whatever is noticed was noticed by the watcher, and short enough to rely on.
const BY_WATCHER = 3_600_000
const BY_POLL = 20
// What must not happen has no event to wait for: many polls, and more than the time to settle.
const QUIET = 400

describe('the source of bindings that is a file', () => {
  it('holds the bindings of the file', async t => {
    const file = join(await directory(t), 'bindings.yaml')
    await writeFile(file, text('a', 'b'))
    const { app, reloads } = await gateway(t, file)
    assert.equal(app.bindings.configured, true)
    assert.equal(app.bindings.find('z', 'a')?.enforcement, 'transport_uniform')
    assert.equal(app.bindings.find('z', 'c'), undefined)
    assert.equal(app.bindings.hasZone('z'), true)
    assert.equal(app.bindings.hasZone('y'), false)
    assert.equal(app.bindings.healthy(), true)
    assert.equal(app.bindings.stale, false)
    assert.equal(app.bindings.size, 2)
    assert.deepEqual(reloads, [])
  })

  it('does not start with a file that is not valid, and names it and every problem', async t => {
    const file = join(await directory(t), 'bindings.yaml')
    await writeFile(file, 'version: 2\nzones: []\n')
    await assert.rejects(start(file), error => {
      assert.ok(error instanceof BindingsFileError)
      assert.ok(error.message.includes(file))
      assert.deepEqual(error.problems, [
        'version (1:1): must be the number 1',
        'zones (2:1): must be a mapping of zones',
      ])
      for (const problem of error.problems) assert.ok(error.message.includes(problem))
      return true
    })
  })

  it('does not start without the file, with a directory, or with bytes that are no text', async t => {
    const path = await directory(t)
    await assert.rejects(start(join(path, 'absent.yaml')), /absent\.yaml[^]*ENOENT/)
    await assert.rejects(start(path), /not a regular file/)
    const latin = join(path, 'latin1.yaml')
    await writeFile(latin, Buffer.from(text('caf\xe9'), 'latin1'))
    await assert.rejects(start(latin), /UTF-8/)
    await assert.rejects(start(''), /file must be a path/)
    await writeFile(latin, text('a'))
    await assert.rejects(start(latin, 0), /pollInterval/)
    await assert.rejects(start(latin, Number.NaN), /pollInterval/)
  })

  for (const [how, pollInterval] of [
    ['the watcher', BY_WATCHER],
    ['the poll', BY_POLL],
  ] as const) {
    it(`picks up a file that is written in place (${how})`, async t => {
      const file = join(await directory(t), 'bindings.yaml')
      await writeFile(file, text('a'))
      const { app, reloads } = await gateway(t, file, pollInterval)
      const before = app.bindings.find('z', 'a')
      await writeFile(file, text('b', 'c'))
      await until(() => app.bindings.find('z', 'b') !== undefined, 'the new set')
      assert.equal(app.bindings.find('z', 'a'), undefined)
      assert.equal(app.bindings.size, 2)
      assert.equal(reloads.at(-1), true)
      // What a request holds already stays as it was.
      assert.equal(before?.resource, 'a')
    })
  }

  it('picks up a file that is renamed over the old one', async t => {
    const path = await directory(t)
    const file = join(path, 'bindings.yaml')
    await writeFile(file, text('a'))
    const { app } = await gateway(t, file, BY_WATCHER)
    for (const name of ['b', 'c', 'd']) {
      await replace(file, text(name))
      await until(() => app.bindings.find('z', name) !== undefined, name)
      assert.equal(app.bindings.size, 1)
    }
  })

  it('picks up what Kubernetes swaps by symbolic link', async t => {
    const path = await directory(t)
    const publish = async (version: string, content: string) => {
      await mkdir(join(path, version))
      await writeFile(join(path, version, 'bindings.yaml'), content)
      await symlink(version, join(path, '..data_tmp'))
      await rename(join(path, '..data_tmp'), join(path, '..data'))
    }
    await publish('..2026_01', text('a'))
    const file = join(path, 'bindings.yaml')
    await symlink(join('..data', 'bindings.yaml'), file)
    const { app, reloads } = await gateway(t, file, BY_WATCHER)
    await publish('..2026_02', text('b'))
    await rm(join(path, '..2026_01'), { recursive: true })
    await until(() => app.bindings.find('z', 'b') !== undefined, 'the second version')
    await publish('..2026_03', text('c'))
    await rm(join(path, '..2026_02'), { recursive: true })
    await until(() => app.bindings.find('z', 'c') !== undefined, 'the third version')
    assert.deepEqual(reloads, [true, true])
  })

  it('keeps the last good set while the file is not valid, says so once, and recovers', async t => {
    const file = join(await directory(t), 'bindings.yaml')
    await writeFile(file, text('a'))
    const { app, reloads, errors } = await gateway(t, file, BY_POLL)

    await replace(file, 'version: 1\nzones: []\n')
    await until(() => app.bindings.stale, 'stale')
    assert.ok(app.bindings.find('z', 'a'))
    assert.equal(app.bindings.size, 1)
    assert.equal(app.bindings.healthy(), true)
    assert.deepEqual(reloads, [false])
    assert.equal(errors().length, 1)
    assert.deepEqual(errors()[0]?.problems, ['zones (2:1): must be a mapping of zones'])

    // The same again is no news; another mistake is.
    const later = new Date(Date.now() + 10_000)
    await utimes(file, later, later)
    await wait(QUIET)
    await replace(file, 'version: 1\nzones: []\n')
    await wait(QUIET)
    assert.equal(errors().length, 1)
    await replace(file, 'version: 3\nzones: {}\n')
    await until(() => errors().at(-1)?.problems?.[0]?.startsWith('version') === true, 'a new line')
    assert.equal(errors().length, 2)
    assert.ok(app.bindings.find('z', 'a'))

    await replace(file, text('b'))
    await until(() => !app.bindings.stale, 'recovered')
    assert.ok(app.bindings.find('z', 'b'))
    assert.equal(app.bindings.find('z', 'a'), undefined)
    assert.equal(reloads.at(-1), true)
    assert.equal(errors().length, 2)
  })

  it('is no longer stale when the file says again what is being served', async t => {
    const file = join(await directory(t), 'bindings.yaml')
    await replace(file, text('a'))
    const { app, reloads } = await gateway(t, file, BY_POLL)
    await replace(file, '{')
    await until(() => app.bindings.stale, 'stale')
    await replace(file, text('a'))
    await until(() => !app.bindings.stale, 'recovered')
    assert.deepEqual(reloads, [false, true])
    assert.ok(app.bindings.find('z', 'a'))
  })

  it('keeps the last good set when the file is removed, and takes the one that comes', async t => {
    const file = join(await directory(t), 'bindings.yaml')
    await writeFile(file, text('a'))
    const { app, errors } = await gateway(t, file, BY_WATCHER)
    await rm(file)
    await until(() => app.bindings.stale, 'stale')
    assert.ok(app.bindings.find('z', 'a'))
    assert.match(errors()[0]?.problems?.[0] ?? '', /ENOENT/)
    await writeFile(file, text('b'))
    await until(() => app.bindings.find('z', 'b') !== undefined, 'the new file')
    assert.equal(errors().length, 1)
  })

  it('finds the file again when its whole directory is replaced', async t => {
    const path = await directory(t)
    const file = join(path, 'config', 'bindings.yaml')
    await mkdir(join(path, 'config'))
    await writeFile(file, text('a'))
    const { app } = await gateway(t, file, BY_POLL)
    await rename(join(path, 'config'), join(path, 'old'))
    await until(() => app.bindings.stale, 'stale')
    await mkdir(join(path, 'config'))
    await writeFile(file, text('b'))
    await until(() => app.bindings.find('z', 'b') !== undefined, 'the new directory')
  })

  it('is told nothing after it was closed', async t => {
    const file = join(await directory(t), 'bindings.yaml')
    await writeFile(file, text('a'))
    const { app, reloads } = await gateway(t, file, 1)
    await writeFile(file, text('b'))
    await app.close()
    const told = reloads.length
    await writeFile(file, text('c'))
    await wait(QUIET)
    assert.equal(reloads.length, told)
  })

  it('keeps no process alive, closed or not', { timeout: 30_000 }, async t => {
    const file = join(await directory(t), 'bindings.yaml')
    await writeFile(file, text('a'))
    const modules = {
      fastify: import.meta.resolve('fastify'),
      bindings: import.meta.resolve('../../plugins/bindings.ts'),
      bindingsFile: import.meta.resolve('../../plugins/bindings-file.ts'),
    }
    const source = `
      const { file, modules } = require('node:worker_threads').workerData
      const run = async () => {
        const { default: Fastify } = await import(modules.fastify)
        const { default: bindings } = await import(modules.bindings)
        const { default: bindingsFile } = await import(modules.bindingsFile)
        const gateway = () => Fastify().register(bindings).register(bindingsFile, { file })
        await gateway().ready()
        const other = gateway()
        await other.ready()
        await other.close()
      }
      run().catch(error => setImmediate(() => { throw error }))
    `
    const worker = new Worker(source, { eval: true, workerData: { file, modules } })
    const [status] = await once(worker, 'exit')
    assert.equal(status, 0)
  })
})
