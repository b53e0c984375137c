// The database plugin on a real PostgreSQL: what it may see and do, encrypted as asked, and up, down, hanging, pooled.
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import Fastify, { type FastifyInstance } from 'fastify'
import { Client } from 'pg'
import { DatabaseError } from '../../lib/database-error.ts'
import databasePlugin, { type Database, type DatabaseOptions } from '../../plugins/database.ts'
import { createCertificate, type TestCertificate } from '../certificate.ts'
import { startPgBouncer } from '../pgbouncer.ts'
import { PASSWORD, ROLE, startPostgres } from '../postgres.ts'
import { until } from '../until.ts'

const OPTIONS: DatabaseOptions = {
  url: undefined,
  ca: undefined,
  maxConnections: 4,
  minConnections: 0,
  connectTimeout: 5_000,
  maxLifetime: 3_600_000,
  maxIdle: 1_800_000,
  statementTimeout: 5_000,
}

interface Opened {
  readonly app: FastifyInstance
  readonly database: Database
}

async function open(
  t: TestContext,
  url: string,
  options: Partial<DatabaseOptions> = {},
): Promise<Opened> {
  const app = Fastify()
  t.after(() => app.close())
  await app.register(databasePlugin, { ...OPTIONS, url, ...options })
  const { database } = app
  assert.ok(database)
  return { app, database }
}

async function failure(work: Promise<unknown>): Promise<DatabaseError> {
  const error = await work.then(
    () => assert.fail('it worked'),
    (error: unknown) => error,
  )
  assert.ok(error instanceof DatabaseError, String(error))
  assert.ok(!JSON.stringify([error.message, error.stack, error]).includes(PASSWORD))
  assert.equal(error.cause, undefined)
  return error
}

async function milliseconds(work: Promise<unknown>): Promise<number> {
  const start = performance.now()
  await work
  return performance.now() - start
}

const works = (database: Database) =>
  database.rows('select 1', []).then(
    () => true,
    () => false,
  )

const pid = async (database: Database) =>
  (await database.rows<{ pid: number }>('select pg_backend_pid() as pid', []))[0]?.pid

test('the gateway has no database without a URL', async t => {
  const app = Fastify()
  t.after(() => app.close())
  await app.register(databasePlugin, OPTIONS)
  assert.equal(app.database, undefined)
  await assert.rejects(open(t, 'postgres://u:canary@db?ssl=0'), /^TypeError: DATABASE_URL takes/)
})

test('the gateway sees the rows of all zones, and can change none', async t => {
  const postgres = await startPostgres(t)
  await postgres.schema()
  await postgres.insert(
    'sessions',
    { id: 'a', zone_id: 'zone-1', status: 'active' },
    { id: 'b', zone_id: 'zone-2', status: 'terminated' },
  )
  const { database } = await open(t, postgres.url)
  const sessions = 'select id from sessions where status <> $1 order by id'
  assert.deepEqual(await database.rows(sessions, ['expired']), [{ id: 'a' }, { id: 'b' }])
  assert.deepEqual(await database.rows(sessions, ['active']), [{ id: 'b' }])

  // The row-level security is there, so that it was the gateway's setting that lifted it.
  const plain = new Client(postgres.url)
  await plain.connect()
  assert.deepEqual((await plain.query('select id from sessions')).rows, [])
  await plain.query("set caracal.zone_id = 'zone-2'")
  assert.deepEqual((await plain.query('select id from sessions')).rows, [{ id: 'b' }])
  await plain.end()

  for (const change of [
    'delete from sessions',
    "update sessions set status = 'active'",
    'create table x ()',
    'select * from sessions for update',
  ]) {
    assert.match((await failure(database.rows(change, []))).message, /read-only transaction/)
  }
  assert.equal((await postgres.query('select from sessions')).length, 2)
})

test('the gateway reads page by page, all of one moment', async t => {
  const postgres = await startPostgres(t)
  await postgres.schema()
  const add = (from: number, to: number) =>
    postgres.query(
      `insert into sessions select 's' || n, 'z', 'terminated' from generate_series(${from}, ${to}) n`,
    )
  await add(1, 2_500)
  const { database } = await open(t, postgres.url)
  const pages: number[] = []
  const ids = new Set<string>()
  let busy = false
  await database.pages<{ id: string }>(
    'select id from sessions where status = $1',
    ['terminated'],
    async rows => {
      assert.equal(busy, false)
      busy = true
      pages.push(rows.length)
      for (const { id } of rows) ids.add(id)
      if (pages.length === 1) await add(2_501, 3_000)
      busy = false
    },
  )
  assert.deepEqual(pages, [1_000, 1_000, 500])
  assert.equal(ids.size, 2_500)

  const lengths: number[] = []
  await database.pages('select id from sessions', [], rows => void lengths.push(rows.length))
  assert.deepEqual(lengths, [1_000, 1_000, 1_000])
  await database.pages('select id from sessions where false', [], () => assert.fail('a page'))
})

test('the gateway frees a connection whose reader fails, and uses it again', async t => {
  const postgres = await startPostgres(t)
  const { database } = await open(t, postgres.url, { maxConnections: 1 })
  const before = await pid(database)
  const mine = new Error('mine')
  const read = database.pages('select generate_series(1, 3000) as n', [], () => {
    assert.equal(database.acquiredConnections, 1)
    throw mine
  })
  await assert.rejects(read, error => error === mine)
  assert.equal(database.acquiredConnections, 0)
  assert.match((await failure(database.rows('select nothing', []))).message, /"nothing".*42703/)
  assert.match((await failure(database.pages('selec', [], () => undefined))).message, /42601/)
  assert.equal(await pid(database), before)
})

test('the gateway opens no more connections than it may, and lets reads wait', async t => {
  const postgres = await startPostgres(t)
  const { database } = await open(t, postgres.url, {
    maxConnections: 2,
    connectTimeout: 500,
  })
  let most = 0
  const reads = Array.from({ length: 12 }, async () => {
    await database.pages('select 1', [], () => {
      most = Math.max(most, database.acquiredConnections)
    })
    return pid(database)
  })
  assert.ok(new Set(await Promise.all(reads)).size <= 2)
  assert.equal(most, 2)
  assert.deepEqual([database.maxConnections, database.acquiredConnections], [2, 0])

  // A read that finds all of them in use waits as long as a connection may take.
  const { promise: held, resolve: letGo } = Promise.withResolvers<void>()
  const holders = [1, 2].map(() => database.pages('select 1', [], () => held))
  await until(() => database.acquiredConnections === 2)
  assert.match((await failure(database.rows('select 1', []))).message, /timeout exceeded/)
  letGo()
  await Promise.all(holders)
  assert.ok(await works(database))
})

test('the gateway replaces a connection that is old', async t => {
  const postgres = await startPostgres(t)
  const { database } = await open(t, postgres.url, { maxLifetime: 50 })
  const first = await pid(database)
  await until(async () => (await pid(database)) !== first)
})

test('the gateway closes connections that nobody uses, down to those that stay', async t => {
  const postgres = await startPostgres(t)
  const open4 = async (url: string, minConnections: number) => {
    const { database } = await open(t, url, { maxIdle: 50, minConnections })
    await Promise.all([1, 2, 3, 4].map(() => database.rows('select pg_sleep(0.1)', [])))
  }
  await open4(`${postgres.url}?application_name=none`, 0)
  await open4(`${postgres.url}?application_name=two`, 2)
  const count = async (name: string) =>
    (await postgres.query('select from pg_stat_activity where application_name = $1', [name]))
      .length
  await until(async () => (await count('none')) === 0 && (await count('two')) === 2)
})

test('the gateway names what a table lacks', async t => {
  const postgres = await startPostgres(t)
  await postgres.schema()
  const { database } = await open(t, postgres.url)
  const columns = {
    id: 'any',
    zone_id: 'text',
    updated_at: 'timestamp',
    operations: 'jsonb',
  } as const
  const said = async (table: string, needed: Parameters<Database['requireTable']>[1]) =>
    (await failure(database.requireTable(table, needed))).message.replace(/^.*does not fit: /, '')

  await database.requireTable('resources', columns)
  assert.equal(await said('grants', columns), "there is no table grants on the role's search_path")
  assert.equal(
    await said('resources', { ...columns, zone_id: 'jsonb', owner: 'text' }),
    'the column resources.zone_id is text, not jsonb; there is no column resources.owner',
  )
  await postgres.query(`revoke select on resources from ${ROLE};
    grant select (id, zone_id, updated_at) on resources to ${ROLE}`)
  assert.equal(
    await said('resources', columns),
    'the role may not select resources.operations; grant it',
  )
  // Other shapes that serve as well: a domain, an enumeration, a view, another schema.
  await postgres.query(`create schema other; create domain other.name as varchar(20);
    create type other.state as enum ('active');
    create table other.base (id uuid, name other.name, state other.state, operations json);
    create view other.resources as select * from other.base;
    grant usage on schema other to ${ROLE}; grant select on other.resources to ${ROLE};
    alter role ${ROLE} set search_path = other`)
  const elsewhere = await open(t, postgres.url)
  const other = { id: 'any', name: 'text', state: 'text', operations: 'jsonb' } as const
  await elsewhere.database.requireTable('resources', other)
  await postgres.query(`revoke usage on schema other from ${ROLE}`)
  assert.match(await said('base', { id: 'any' }), /^there is no table base/)
})

test('the gateway gives up a statement that takes too long, and keeps its connection', async t => {
  const postgres = await startPostgres(t)
  const { database } = await open(t, postgres.url, { maxConnections: 1, statementTimeout: 300 })
  const before = await pid(database)
  const error = await failure(database.rows('select pg_sleep(60)', []))
  assert.equal(error.code, '57014')
  assert.equal(error.answered, true)
  assert.equal(await pid(database), before)
})

test('the gateway fails at once while the server is down, and recovers by itself', async t => {
  const postgres = await startPostgres(t)
  const { database } = await open(t, postgres.url)
  assert.ok(await works(database))
  const { promise: begun, resolve: begin } = Promise.withResolvers<void>()
  const { promise: stopped, resolve: stop } = Promise.withResolvers<void>()
  const cut = database.pages('select generate_series(1, 3000)', [], () => {
    begin()
    return stopped
  })
  await begun
  await postgres.stop()
  stop()
  await failure(cut)
  const error = await failure(database.rows('select 1', []))
  assert.equal(error.code, 'ECONNREFUSED')
  assert.equal(error.answered, false)
  assert.equal(database.acquiredConnections, 0)
  await postgres.start()
  await until(() => works(database))
})

test('the gateway survives connections that are ended from the other side', async t => {
  const postgres = await startPostgres(t)
  const { database } = await open(t, postgres.url, { statementTimeout: 60_000 })
  const end = (id: number | undefined) => postgres.query('select pg_terminate_backend($1)', [id])
  await end(await pid(database))
  await until(() => works(database))
  const backends = (id: number | undefined) =>
    postgres.query('select from pg_stat_activity where pid = $1', [id])
  const read = database.pages<{ pid: number }>(
    'select pg_backend_pid() as pid',
    [],
    async ([row]) => {
      await end(row?.pid)
      await until(async () => (await backends(row?.pid)).length === 0)
    },
  )
  assert.equal((await failure(read)).answered, false)
  const cut = failure(database.rows('select pg_sleep(60)', []))
  const asleep = 'select pid from pg_stat_activity where wait_event = $1'
  await until(async () => {
    const [row] = await postgres.query(asleep, ['PgSleep'])
    if (row !== undefined) await end(Number(row['pid']))
    return row !== undefined
  })
  assert.equal((await cut).code, '57P01')
  await until(() => works(database))
})

test('the gateway waits in bounded time for a server that hangs, and recovers by itself', async t => {
  const postgres = await startPostgres(t)
  const { database } = await open(t, postgres.url, {
    connectTimeout: 700,
    statementTimeout: 500,
  })
  assert.ok(await works(database))
  postgres.pause()
  // On the connection that is there: the statement's time, and a second for the answer.
  const inUse = await milliseconds(failure(database.rows('select 1', [])))
  assert.ok(inUse > 1_400 && inUse < 10_000, `${inUse}`)
  // It was thrown away: a new one is opened.
  const anew = await milliseconds(failure(database.rows('select 1', [])))
  assert.ok(anew > 600 && anew < 10_000, `${anew}`)
  assert.equal(database.acquiredConnections, 0)
  postgres.resume()
  await until(() => works(database))
})

test('the gateway stops quickly, whatever the server does', async t => {
  const postgres = await startPostgres(t)
  const { app, database } = await open(t, postgres.url, {
    connectTimeout: 60_000,
    statementTimeout: 60_000,
  })
  await Promise.all([works(database), works(database)])
  postgres.pause()
  // One hangs in a statement, one idles, one is being opened.
  const reads = [1, 2, 3].map(() => failure(database.rows('select 1', [])))
  const took = await milliseconds(app.close())
  assert.ok(took < 10_000, `${took}`)
  await Promise.all(reads)
  await failure(database.rows('select 1', []))
})

test('the gateway says what is wrong with its credentials, without them', async t => {
  const postgres = await startPostgres(t)
  const to = (credentials: string) => open(t, postgres.url.replace(/\/\/.*@/, `//${credentials}@`))
  const refused = async (credentials: string) => {
    const { database } = await to(credentials)
    const error = await failure(database.rows('select 1', []))
    assert.doesNotMatch(error.message, /canary/)
    return error.message
  }
  assert.match(await refused(`${ROLE}:canary-1`), /password authentication failed.*\(28P01\)/)
  process.env['PGPASSWORD'] = PASSWORD
  t.after(() => delete process.env['PGPASSWORD'])
  assert.match(await refused(ROLE), /asks for a password, and DATABASE_URL has none/)
  await postgres.query(`alter role ${ROLE} connection limit 0`)
  const { database } = await open(t, postgres.url)
  assert.match((await failure(database.rows('select 1', []))).message, /too many connections/)
})

test('the gateway reads through a pooler in transaction mode, and leaves nothing there', async t => {
  const postgres = await startPostgres(t)
  await postgres.schema()
  const revoked = Array.from({ length: 1_500 }, (_, n) => ({
    id: `r${n}`,
    zone_id: `zone-${n % 3}`,
    status: 'revoked',
  }))
  await postgres.insert('authority_records', ...revoked)
  const pooled = await startPgBouncer(t, postgres, 1)
  const { database } = await open(t, pooled)
  const { database: second } = await open(t, pooled)
  // A client that is no gateway, on the same server connection between the gateways' transactions.
  const other = new Client(pooled)
  await other.connect()
  const look = async () => {
    const { rows } = await other.query(`select current_setting('caracal.zone_id', true) as zone,
      current_setting('statement_timeout') as timeout, current_setting('transaction_read_only') as mode,
      (select count(*)::int from authority_records) as visible, (select count(*)::int from pg_cursors) as cursors,
      (select count(*)::int from pg_prepared_statements where name <> '') as statements`)
    const [{ zone, ...rest }] = rows
    assert.notEqual(zone, '*')
    assert.deepEqual(rest, { timeout: '0', mode: 'off', visible: 0, cursors: 0, statements: 0 })
  }
  const read = async (from: Database) => {
    let seen = 0
    await from.pages('select id from authority_records where status = $1', ['revoked'], rows => {
      seen += rows.length
    })
    assert.equal(seen, 1_500)
    const few = 'select id from authority_records where id = $1'
    assert.deepEqual(await from.rows(few, ['r7']), [{ id: 'r7' }])
  }
  await look()
  const looks = async () => {
    for (let left = 4; left > 0; left--) await look()
  }
  await Promise.all([...[1, 2, 3, 4].flatMap(() => [read(database), read(second)]), looks()])
  await failure(database.rows('select 1/0', []))
  await look()
  await database.requireTable('sessions', { id: 'any', status: 'text' })
  await other.end()
})

/** How the gateway's connection came to be, or why not. */
async function outcome(t: TestContext, url: string, ca?: string): Promise<string> {
  const { app, database } = await open(t, url, { ca })
  const ssl = 'select ssl from pg_stat_ssl where pid = pg_backend_pid()'
  const said = await database.rows<{ ssl: boolean }>(ssl, []).then(
    ([row]) => (row?.ssl ? 'encrypted' : 'plain'),
    (error: Error) => error.message,
  )
  await app.close()
  return said
}

/** Checks what each `sslmode` comes to at one server. */
async function judgeModes(
  t: TestContext,
  url: string,
  expected: readonly (readonly [query: string, ca: TestCertificate | undefined, outcome: RegExp])[],
): Promise<void> {
  for (const [query, ca, words] of expected) {
    // Its text is read by the configuration; here it only has to be there.
    const named = ca === undefined ? query : `${query}&sslrootcert=/ca.pem`
    assert.match(await outcome(t, `${url}?${named}`, ca?.cert), words, query)
  }
}

const OURS = createCertificate(['127.0.0.1'])
const OTHER = createCertificate(['127.0.0.1'])

test('the gateway talks to a server without TLS unless sslmode asks for it', async t => {
  const { url } = await startPostgres(t)
  await judgeModes(t, url, [
    ['', undefined, /^plain$/],
    ['sslmode=disable', undefined, /^plain$/],
    ['sslmode=allow', undefined, /^plain$/],
    ['sslmode=prefer', undefined, /^plain$/],
    ['sslmode=require', undefined, /does not support SSL/],
    ['sslmode=require', OURS, /does not support SSL/],
    ['sslmode=verify-ca', OURS, /does not support SSL/],
    ['sslmode=verify-full', undefined, /does not support SSL/],
  ])
})

test('the gateway verifies of a server with TLS what sslmode asks for', async t => {
  const { url, dir, port } = await startPostgres(t, { certificate: OURS })
  await judgeModes(t, url, [
    ['', undefined, /^encrypted$/],
    ['sslmode=disable', undefined, /^plain$/],
    ['sslmode=allow', undefined, /^plain$/],
    ['sslmode=prefer', undefined, /^encrypted$/],
    ['sslmode=prefer', OTHER, /^encrypted$/],
    ['sslmode=require', undefined, /^encrypted$/],
    ['sslmode=require', OURS, /^encrypted$/],
    ['sslmode=require', OTHER, /self-signed certificate/],
    ['sslmode=verify-ca', OURS, /^encrypted$/],
    ['sslmode=verify-ca', OTHER, /self-signed certificate/],
    ['sslmode=verify-full', OURS, /^encrypted$/],
    ['sslmode=verify-full', OTHER, /self-signed certificate/],
    ['sslmode=verify-full', undefined, /self-signed certificate/],
  ])
  const socket = `postgres://${ROLE}@/caracal?host=${encodeURIComponent(dir)}&port=${port}`
  assert.equal(await outcome(t, `${socket}&sslmode=verify-full`), 'plain')
})

test('the gateway verifies the name of a server with sslmode=verify-full alone', async t => {
  const misnamed = createCertificate(['elsewhere.example'])
  const { url } = await startPostgres(t, { certificate: misnamed })
  await judgeModes(t, url, [
    ['sslmode=require', misnamed, /^encrypted$/],
    ['sslmode=verify-ca', misnamed, /^encrypted$/],
    [
      'sslmode=verify-full',
      misnamed,
      /127\.0\.0\.1.*elsewhere\.example|ERR_TLS_CERT_ALTNAME_INVALID/,
    ],
  ])
})

test('the gateway tries the other way that sslmode=allow and prefer leave', async t => {
  const rule = (type: string) => `${type} all ${ROLE} 127.0.0.1/32 reject`
  const [onlyTls, onlyPlain] = await Promise.all([
    startPostgres(t, { certificate: OURS, access: [rule('hostnossl')] }),
    startPostgres(t, { certificate: OURS, access: [rule('hostssl')] }),
  ])
  await judgeModes(t, onlyTls.url, [
    ['sslmode=disable', undefined, /\(28000\)/],
    ['sslmode=allow', undefined, /^encrypted$/],
    ['sslmode=prefer', undefined, /^encrypted$/],
  ])
  await judgeModes(t, onlyPlain.url, [
    ['sslmode=allow', undefined, /^plain$/],
    ['sslmode=prefer', undefined, /^plain$/],
    ['sslmode=require', undefined, /\(28000\)/],
  ])
  // Several at once: each finds out, and none undoes what another found.
  const { database } = await open(t, onlyPlain.url, { maxConnections: 3 })
  assert.deepEqual(await Promise.all([1, 2, 3].map(() => works(database))), [true, true, true])
  // A wrong password is not tried again in the clear.
  const wrong = onlyTls.url.replace(/:[^:@]*@/, ':canary@')
  assert.match(await outcome(t, `${wrong}?sslmode=prefer`), /28P01/)
})

test('the gateway encrypts again once a server offers it again', async t => {
  const postgres = await startPostgres(t, { certificate: OURS })
  const { database } = await open(t, postgres.url)
  const encrypted = async () => {
    const ssl = 'select ssl from pg_stat_ssl where pid = pg_backend_pid()'
    return (await database.rows<{ ssl: boolean }>(ssl, []))[0]?.ssl
  }
  const restart = async (setting: string) => {
    await postgres.query(`alter system set ssl = ${setting}`)
    await postgres.stop()
    await postgres.start()
    await until(() => works(database))
  }
  assert.equal(await encrypted(), true)
  await restart('off')
  assert.equal(await encrypted(), false)
  await restart('on')
  assert.equal(await encrypted(), true)
})
