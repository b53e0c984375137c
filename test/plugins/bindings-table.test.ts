// What it shows: the copy of the table is always one whole valid set, and is read anew before anything is refused.

import assert from 'node:assert/strict'
import { Writable } from 'node:stream'
import { describe, it, type TestContext } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import Fastify from 'fastify'
import fp from 'fastify-plugin'
import bindings from '../../plugins/bindings.ts'
import bindingsTable, {
  type BindingsTableOptions,
  BindingsTableError,
} from '../../plugins/bindings-table.ts'
import type { Database, OnPage } from '../../plugins/database.ts'
import { until } from '../until.ts'

/** A row as the queries select it. */
interface Row {
  readonly zone_id: string
  readonly identifier: string
  readonly operations: string | null
  readonly operation_enforcement: string
}

const row = (identifier: string, operations: readonly object[] = [], zone_id = 'z'): Row => ({
  zone_id,
  identifier,
  operations: JSON.stringify(operations),
  operation_enforcement: 'enforced',
})

const GET = { method: 'GET', path: '/' }

type Kind = 'table' | 'zones' | 'pairs'

/** A database that holds these rows, and whose answers a test can hold back. */
class FakeDatabase implements Database {
  readonly maxConnections = 1
  readonly acquiredConnections = 0
  rowsHeld: readonly Row[]
  error: Error | undefined
  /** What was asked so far; of pairs, how many. */
  readonly asked: { readonly kind: Kind; readonly pairs: number }[] = []
  /** Awaited after the rows of an answer were fixed, before they are given. */
  answer: (kind: Kind) => Promise<void> | undefined = () => undefined
  /** Rows of a page. */
  page = 1000

  constructor(rows: readonly Row[]) {
    this.rowsHeld = rows
  }

  count(kind: Kind): number {
    return this.asked.filter(it => it.kind === kind).length
  }

  async requireTable(table: string, columns: Readonly<Record<string, string>>): Promise<void> {
    assert.equal(table, 'resources')
    assert.deepEqual(Object.keys(columns).toSorted(), [
      'archived_at',
      'identifier',
      'operation_enforcement',
      'operations',
      'upstream_url',
      'zone_id',
    ])
    if (this.error !== undefined) throw this.error
  }

  async pages<T>(sql: string, parameters: readonly unknown[], onPage: OnPage<T>): Promise<void> {
    const rows: T[] = await this.rows(sql, parameters)
    for (let at = 0; at < rows.length; at += this.page) {
      await onPage(rows.slice(at, at + this.page))
    }
  }

  async rows<T>(sql: string, [zones, resources]: readonly unknown[]): Promise<T[]> {
    const kind = zones !== undefined ? 'pairs' : sql.includes('DISTINCT') ? 'zones' : 'table'
    let rows: readonly Partial<Row>[] = this.rowsHeld
    let pairs = 0
    if (kind === 'zones') {
      rows = [...new Set(this.rowsHeld.map(it => it.zone_id))].map(zone_id => ({ zone_id }))
    }
    if (Array.isArray(zones) && Array.isArray(resources)) {
      pairs = zones.length
      rows = this.rowsHeld.filter(it =>
        zones.some((zone, i) => zone === it.zone_id && resources[i] === it.identifier),
      )
    }
    this.asked.push({ kind, pairs })
    const { error } = this
    await this.answer(kind)
    if (error !== undefined) throw error
    // As the driver does: what a query selects has the type that its caller says.
    return JSON.parse(JSON.stringify(rows))
  }
}

interface LogLine {
  readonly level: number
  readonly msg: string
  readonly problems?: readonly string[]
}

async function gateway(
  t: TestContext,
  database: Database | undefined,
  options: BindingsTableOptions = {},
) {
  const lines: LogLine[] = []
  const stream = new Writable({
    write(chunk, _encoding, done) {
      lines.push(JSON.parse(String(chunk)))
      done()
    },
  })
  const app = Fastify({ logger: { level: 'info', stream } })
  t.after(() => app.close())
  const provided = fp(async instance => void instance.decorate('database', database), {
    name: 'database',
  })
  await app.register(provided)
  await app.register(bindings)
  // A refusal must not end before a slow machine has had its say.
  await app.register(bindingsTable, { patience: 10_000, ...options })
  await app.ready()
  return {
    app,
    source: app.bindings,
    lines,
    said: (text: string) => lines.filter(({ msg }) => msg.includes(text)),
  }
}

// So often that a test need not wait, and so rarely that no second one comes in its way.
const OFTEN = 10
const NEVER = 3_600_000

describe('the source of bindings that is a table', () => {
  it('holds the bindings of the table from the start', async t => {
    const database = new FakeDatabase([row('a', [GET]), row('b'), row('c', [], 'y')])
    const { source, said } = await gateway(t, database)
    assert.equal(source.configured, true)
    assert.equal(source.find('z', 'a')?.operation('GET', '/')?.scope, '')
    assert.equal(source.find('z', 'c'), undefined)
    assert.equal(source.find('y', 'c')?.enforcement, 'enforced')
    assert.deepEqual([source.hasZone('y'), source.hasZone('x')], [true, false])
    assert.deepEqual([source.size, source.stale, source.healthy()], [3, false, true])
    assert.equal(said('bindings loaded').length, 1)
  })

  it('holds an empty table too: nothing is bound', async t => {
    const { source } = await gateway(t, new FakeDatabase([]))
    assert.deepEqual([source.configured, source.size, source.healthy()], [true, 0, true])
  })

  it('does not start with a table that is not valid, and names every problem', async t => {
    const database = new FakeDatabase([row('a'), { ...row('b'), operations: null }, row('a')])
    await assert.rejects(gateway(t, database), error => {
      assert.ok(error instanceof BindingsTableError)
      assert.deepEqual(error.problems, [
        'zone "z", resource "b": operations: must be a list',
        'zone "z", resource "a": identifier: must be that of one row only, the others archived',
      ])
      for (const problem of error.problems) assert.ok(error.message.includes(problem))
      return true
    })
  })

  it('does not start without a database, nor with one that is away', async t => {
    await assert.rejects(gateway(t, undefined), /DATABASE_URL/)
    const database = new FakeDatabase([])
    database.error = new Error('there is no column resources.operations')
    await assert.rejects(gateway(t, database), /no column resources\.operations/)
    await assert.rejects(
      gateway(t, new FakeDatabase([]), { refreshInterval: 0 }),
      /refreshInterval/,
    )
    await assert.rejects(gateway(t, new FakeDatabase([]), { patience: Number.NaN }), /patience/)
  })

  it('stops reading a table that has more problems than anybody would read', async t => {
    const broken = Array.from({ length: 200 }, (_, i) => ({ ...row(`r${i}`), operations: '7' }))
    const database = new FakeDatabase(broken)
    database.page = 60
    await assert.rejects(gateway(t, database), error => {
      assert.ok(error instanceof BindingsTableError)
      assert.equal(error.problems.length, 51)
      assert.match(error.problems.at(-1) ?? '', /not listed/)
      return true
    })
  })

  describe('reads the table anew', () => {
    it('and takes what changed in whole, with a line in the log only then', async t => {
      const database = new FakeDatabase([row('a', [GET]), row('b')])
      const { source, said } = await gateway(t, database, { refreshInterval: OFTEN })
      const before = source.find('z', 'a')
      await until(() => database.count('table') > 4)
      assert.equal(source.find('z', 'a'), before, 'what did not change is the same')
      assert.equal(said('bindings loaded').length, 1)
      database.rowsHeld = [row('a'), row('c', [], 'y')]
      await until(() => source.find('y', 'c') !== undefined)
      assert.equal(source.find('z', 'a')?.operation('GET', '/'), undefined)
      assert.equal(source.find('z', 'b'), undefined)
      assert.equal(before?.operation('GET', '/')?.path, '/', 'a request keeps what it holds')
      const seen = database.count('table')
      await until(() => database.count('table') > seen + 3)
      assert.equal(said('bindings loaded').length, 2)
      database.rowsHeld = [row('a')]
      await until(() => source.size === 1)
      assert.equal(source.hasZone('y'), false)
    })

    it('one reading at a time', async t => {
      const database = new FakeDatabase([row('a')])
      const { source } = await gateway(t, database, { refreshInterval: OFTEN })
      const held = Promise.withResolvers<void>()
      let under = 0
      database.answer = () => {
        under += 1
        return held.promise
      }
      await until(() => under === 1)
      const ticks = Date.now()
      await until(() => Date.now() - ticks > 5 * OFTEN)
      assert.equal(under, 1)
      assert.equal(source.size, 1)
      held.resolve()
      await until(() => under > 1)
    })

    it('and keeps the last good set while it is not valid, says so once, and recovers', async t => {
      const database = new FakeDatabase([row('a', [GET])])
      const { source, said } = await gateway(t, database, { refreshInterval: OFTEN })
      database.rowsHeld = [row('b'), { ...row('c'), operations: '{}' }]
      await until(() => source.stale)
      assert.deepEqual([source.size, source.healthy()], [1, true])
      assert.equal(source.find('z', 'a')?.operation('GET', '/')?.path, '/')
      assert.equal(source.find('z', 'b'), undefined, 'nothing of it is taken')
      const seen = database.count('table')
      await until(() => database.count('table') > seen + 3)
      const [line, ...others] = said('is not valid, the last good set serves')
      assert.equal(line?.level, 50)
      assert.deepEqual(line.problems, ['zone "z", resource "c": operations: must be a list'])
      assert.deepEqual(others, [])
      database.rowsHeld = [row('b'), { ...row('d'), operations: '{}' }]
      await until(() => said('is not valid').length === 2)
      database.rowsHeld = [row('a', [GET])]
      await until(() => !source.stale)
      assert.equal(said('bindings loaded').length, 2)
      assert.equal(said('is not valid').length, 2)
    })

    it('and keeps the last good set while the database is away', async t => {
      const database = new FakeDatabase([row('a')])
      const { source, said } = await gateway(t, database, { refreshInterval: OFTEN })
      database.error = new Error('the database is away')
      await until(() => source.stale)
      const seen = database.count('table')
      await until(() => database.count('table') > seen + 3)
      assert.equal(source.size, 1)
      const [line, ...others] = said('cannot be read, the last good set serves')
      assert.match(JSON.stringify(line), /the database is away/)
      assert.deepEqual(others, [])
      database.error = undefined
      await until(() => !source.stale)
      assert.equal(said('bindings loaded').length, 2)
    })

    it('without holding up others, however large it is', async t => {
      const operations = Array.from({ length: 3 }, (_, i) => ({
        ...GET,
        path: `/v1/${i}`,
        scope: 's',
      }))
      const rows = Array.from({ length: 100_000 }, (_, i) =>
        row(`r${i}`, operations, `z${i % 100}`),
      )
      const database = new FakeDatabase(rows.slice(0, 10))
      const { source } = await gateway(t, database, { refreshInterval: OFTEN })
      const held = Promise.withResolvers<void>()
      database.page = rows.length
      database.answer = () => held.promise
      database.rowsHeld = rows
      const seen = database.count('table')
      await until(() => database.count('table') > seen)
      held.resolve()
      // The fake's own copying is over once the first turn has passed.
      await turn()
      let turns = 0
      while (source.size < rows.length) {
        await turn()
        turns += 1
      }
      // How long a turn takes is for a machine to say that does nothing else.
      assert.ok(turns > 20, `${turns} turns`)
    })

    it('no more once it is closed', async t => {
      const database = new FakeDatabase([row('a')])
      const { app, lines } = await gateway(t, database, { refreshInterval: OFTEN })
      const held = Promise.withResolvers<void>()
      database.answer = () => held.promise
      const seen = database.count('table')
      await until(() => database.count('table') > seen)
      await app.close()
      const [asked, said] = [database.asked.length, lines.length]
      database.error = new Error('closed')
      held.resolve()
      const closed = Date.now()
      await until(() => Date.now() - closed > 5 * OFTEN)
      assert.equal(database.asked.length, asked)
      assert.equal(lines.length, said)
    })
  })

  describe('before it refuses', () => {
    const options = { refreshInterval: NEVER, rereadInterval: NEVER }

    it('reads a resource anew: one that is new, changed, or gone', async t => {
      const database = new FakeDatabase([row('a', [GET]), row('gone')])
      const { source, said } = await gateway(t, database, options)
      database.rowsHeld = [row('a', [{ ...GET, path: '/new' }]), row('new')]
      await source.reread('z', 'new')
      assert.equal(source.find('z', 'new')?.enforcement, 'enforced')
      assert.equal(source.size, 3)
      assert.equal(source.find('z', 'a')?.operation('GET', '/')?.path, '/', 'not asked for')
      await source.reread('z', 'a')
      assert.equal(source.find('z', 'a')?.operation('GET', '/new')?.path, '/new')
      assert.equal(source.find('z', 'a')?.operation('GET', '/'), undefined)
      await source.reread('z', 'gone')
      assert.equal(source.find('z', 'gone'), undefined)
      await source.reread('z', 'never')
      assert.equal(source.size, 2)
      assert.equal(said('binding reread').length, 3)
      assert.equal(database.count('table'), 1)
    })

    it('reads anew which zones there are, once for all who ask', async t => {
      const database = new FakeDatabase([row('a')])
      const { source } = await gateway(t, database, options)
      database.rowsHeld = [row('a'), row('b', [], 'new'), row('c', [], 'newer')]
      const known = ['stranger', 'new', 'newer'].map(zone => source.reread(zone))
      for (const it of known) await it
      assert.deepEqual(
        ['stranger', 'new', 'newer', 'z'].map(zone => source.hasZone(zone)),
        [false, true, true, true],
      )
      assert.equal(source.reread('another stranger'), undefined)
      assert.equal(database.count('zones'), 1)
      assert.equal(source.find('new', 'b'), undefined)
      await source.reread('new', 'b')
      assert.equal(source.find('new', 'b')?.zone, 'new')
    })

    it('reads the same resource once an interval', async t => {
      const database = new FakeDatabase([])
      const { source } = await gateway(t, database, { ...options, rereadInterval: 50 })
      await source.reread('z', 'a')
      assert.equal(source.reread('z', 'a'), undefined)
      database.rowsHeld = [row('a')]
      await until(async () => {
        await source.reread('z', 'a')
        return source.find('z', 'a') !== undefined
      })
      assert.equal(database.count('pairs'), 2)
    })

    it('reads many in few queries', async t => {
      const database = new FakeDatabase(Array.from({ length: 200 }, (_, i) => row(`r${i}`)))
      const { rowsHeld } = database
      database.rowsHeld = []
      const { source } = await gateway(t, database, options)
      database.rowsHeld = rowsHeld
      const known = rowsHeld.flatMap(({ identifier }) => [
        source.reread('z', identifier),
        source.reread('z', identifier),
      ])
      assert.ok(known.every(it => it !== undefined))
      for (const it of known) await it
      assert.equal(source.size, 200)
      assert.deepEqual(
        database.asked.filter(({ kind }) => kind === 'pairs').map(({ pairs }) => pairs),
        [1, 100, 99],
      )
    })

    it('asks for nothing that could not be bound', async t => {
      const database = new FakeDatabase([])
      const { source } = await gateway(t, database, options)
      for (const resource of ['', ' r', 'x'.repeat(2049), 'a\0b', '\ud800']) {
        assert.equal(source.reread('z', resource), undefined)
      }
      assert.equal(database.count('pairs'), 0)
    })

    it('keeps what it has when the row is not valid', async t => {
      const database = new FakeDatabase([row('a', [GET]), row('b')])
      const { source, said } = await gateway(t, database, options)
      database.rowsHeld = [{ ...row('a'), operations: '7' }, row('b', [GET]), row('c'), row('c')]
      for (const name of ['a', 'b', 'c']) await source.reread('z', name)
      assert.equal(source.find('z', 'a')?.operation('GET', '/')?.path, '/')
      assert.equal(source.find('z', 'b')?.operation('GET', '/')?.path, '/', 'valid by itself')
      assert.equal(source.find('z', 'c'), undefined)
      assert.equal(source.stale, true)
      assert.equal(said('is not valid').length, 1)
    })

    it('keeps what it has when the database is away, says so once, and rests', async t => {
      const database = new FakeDatabase([row('a')])
      const { source, said } = await gateway(t, database, { ...options, rereadInterval: 100 })
      database.error = new Error('the database is away')
      await source.reread('z', 'b')
      assert.equal(source.reread('z', 'c'), undefined, 'the first second after a failure')
      await source.reread('y')
      assert.equal(source.size, 1)
      assert.equal(source.stale, true)
      await until(() => source.reread('z', 'c') !== undefined)
      await until(() => database.count('pairs') === 2)
      assert.equal(said('cannot be read').length, 1)
    })

    it('waits for a database that hangs no longer than its patience', async t => {
      const database = new FakeDatabase([])
      const { source } = await gateway(t, database, { ...options, patience: 20 })
      const held = Promise.withResolvers<void>()
      database.answer = () => held.promise
      database.rowsHeld = [row('a')]
      await source.reread('z', 'a')
      assert.equal(source.find('z', 'a'), undefined)
      await until(() => source.reread('z', 'b') === undefined)
      held.resolve()
      await until(() => source.find('z', 'a') !== undefined)
    })
  })

  describe('loses nothing that a reread learned', () => {
    /** A refresh that has read its rows and not yet taken them. */
    async function heldRefresh(t: TestContext, rows: readonly Row[]) {
      const database = new FakeDatabase(rows)
      const { source } = await gateway(t, database, {
        refreshInterval: OFTEN,
        rereadInterval: NEVER,
      })
      const held = Promise.withResolvers<void>()
      let holding = false
      database.answer = kind => {
        if (kind !== 'table') return undefined
        holding = true
        return held.promise
      }
      await until(() => holding)
      const seen = database.count('table')
      return {
        database,
        source,
        release: async () => {
          held.resolve()
          // The next one has begun: the one that was held is over.
          await until(() => database.count('table') > seen)
        },
      }
    }

    it('to a refresh that began before and ends after it', async t => {
      const { database, source, release } = await heldRefresh(t, [row('a'), row('gone')])
      const held = Promise.withResolvers<void>()
      database.rowsHeld = [row('a', [GET]), row('b', [], 'new')]
      await source.reread('new')
      await source.reread('z', 'a')
      await source.reread('new', 'b')
      await source.reread('z', 'gone')
      // The next refresh would find all that by itself.
      const { answer } = database
      database.answer = kind => (kind === 'table' ? held.promise : answer(kind))
      await release()
      assert.equal(source.find('z', 'a')?.operation('GET', '/')?.path, '/')
      assert.notEqual(source.find('new', 'b'), undefined)
      assert.equal(source.find('z', 'gone'), undefined)
      assert.equal(source.size, 2)
      held.resolve()
    })

    it('when it ends after a refresh that it began in', async t => {
      const { database, source, release } = await heldRefresh(t, [row('a')])
      const [heldPairs, heldTable] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
      database.rowsHeld = [row('a', [GET])]
      database.answer = kind => (kind === 'table' ? heldTable.promise : heldPairs.promise)
      const known = source.reread('z', 'a')
      await release()
      heldPairs.resolve()
      await known
      assert.equal(source.find('z', 'a')?.operation('GET', '/')?.path, '/')
      heldTable.resolve()
    })
  })
})
