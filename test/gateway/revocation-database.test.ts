// Holds the gateway to what PostgreSQL says is revoked, with the role and the row-level security of contract section 14.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { randomUUID } from 'node:crypto'
import { before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Client } from 'pg'
import type { Claims } from '../../dev/sts.ts'
import { startPostgres, type TestPostgres } from '../postgres.ts'
import { until } from '../until.ts'
import { type MovableClock, movableClock } from './clock.ts'
import {
  ALONE,
  call,
  head,
  RESOURCE,
  type Stack,
  startGateway,
  startStack,
  Wire,
  ZONE,
} from './harness.ts'
import { assertRefusal, type Refusal } from './refusal.ts'
import { hasLogged, revoke, suiteCleanup } from './support.ts'

const SERVER = fileURLToPath(new URL('../../dist/server.js', import.meta.url))
const REVOKED: Refusal = { status: 401, error: 'invalid_token', description: 'session revoked' }
const SOON = 15_000

const hoursAgo = (hours: number) => new Date(Date.now() - hours * 60 * 60 * 1000)
const served = { sid: randomUUID() }

describe('the gateway with a database', () => {
  const suite = suiteCleanup()
  let postgres: TestPostgres
  let clock: MovableClock
  let stack: Stack

  const present = (claims: Claims = served) =>
    call(stack.gateway.url, '/v1/invoices', { token: stack.mint(claims) })
  const reload = () =>
    call(stack.gateway.url, '/internal/revocations/reload', {
      method: 'POST',
      token: 'admin-token',
      resource: null,
    })

  before(async () => {
    ;[postgres, clock] = await Promise.all([startPostgres(suite), movableClock(suite)])
    await postgres.schema()
    await postgres.insert('resources', {
      zone_id: ZONE,
      identifier: RESOURCE,
      upstream_url: 'http://upstream.test',
      operation_enforcement: 'transport_uniform',
    })
    await postgres.insert(
      'authority_records',
      { id: 'r-revoked', zone_id: 'zone-1', status: 'revoked', revoked_at: hoursAgo(100) },
      { id: 'r-other-zone', zone_id: 'zone-2', status: 'revoked' },
      { id: 'r-over', zone_id: 'zone-1', status: 'revoked', expires_at: hoursAgo(25) },
      { id: 'r-ending', zone_id: 'zone-1', status: 'revoked', expires_at: hoursAgo(23) },
      { id: 'r-active', zone_id: 'zone-1', status: 'active' },
      { id: 'r-expired', zone_id: 'zone-1', status: 'expired' },
    )
    // The contract does not rule it out, and what has no end has not ended.
    await postgres.query('alter table authority_records alter column expires_at drop not null')
    await postgres.insert('authority_records', {
      id: 'r-endless',
      zone_id: 'zone-1',
      status: 'revoked',
      expires_at: null,
      revoked_at: hoursAgo(100),
    })
    await postgres.insert(
      'sessions',
      { id: 's-terminated', zone_id: 'zone-1', status: 'terminated', updated_at: hoursAgo(23) },
      { id: 's-old', zone_id: 'zone-1', status: 'terminated', updated_at: hoursAgo(25) },
      { id: 's-active', zone_id: 'zone-1', status: 'active' },
      { id: 's-expired', zone_id: 'zone-1', status: 'expired' },
      { id: 's-suspended', zone_id: 'zone-1', status: 'suspended' },
    )
    await postgres.insert(
      'delegation_edges',
      { id: 'd-revoked', zone_id: 'zone-1', status: 'revoked', revoked_at: hoursAgo(23) },
      { id: 'd-old', zone_id: 'zone-1', status: 'revoked', revoked_at: hoursAgo(25) },
      { id: 'd-active', zone_id: 'zone-1', status: 'active' },
    )
    stack = await startStack(suite, {
      env: {
        ...ALONE,
        DATABASE_URL: postgres.url,
        CARACAL_ADMIN_TOKEN: 'admin-token',
        ...clock.env,
      },
    })
  })

  test('denies from its start on what the tables say, and nothing else', async () => {
    const revoked: readonly Claims[] = [
      { sid: 'r-revoked' },
      { root_sid: 'r-revoked' },
      { sid: 'r-other-zone' },
      { sid: 'r-ending' },
      { sid: 'r-endless' },
      { agent_session_id: 's-terminated' },
      { delegation_edge_id: 'd-revoked' },
    ]
    for (const claims of revoked) assertRefusal(await present(claims), REVOKED)
    const others: readonly Claims[] = [
      { sid: 'r-over' },
      { sid: 'r-active' },
      { sid: 'r-expired' },
      { sid: 's-terminated', agent_session_id: 'r-revoked', delegation_edge_id: 's-terminated' },
      { agent_session_id: 's-old' },
      { agent_session_id: 's-active' },
      { agent_session_id: 's-expired' },
      { agent_session_id: 's-suspended' },
      { delegation_edge_id: 'd-old' },
      { delegation_edge_id: 'd-active' },
    ]
    for (const claims of others) {
      assert.equal((await present(claims)).status, 200, JSON.stringify(claims))
    }
    assert.equal(await stack.metric('revocations_active'), 6)
    assert.equal(await stack.metric('revocation_history_incomplete'), 0)
  })

  test('reads them again every 30 s', async () => {
    const id = randomUUID()
    await postgres.insert('authority_records', { id, zone_id: ZONE, status: 'active' })
    assert.equal((await present({ sid: id })).status, 200)
    await postgres.query(`update authority_records set status = 'revoked' where id = $1`, [id])
    await clock.advance(31_000)
    await until(async () => (await present({ sid: id })).status === 401, SOON)
    assert.equal(await stack.metric('revocation_reloads'), 0)
  })

  test('cuts a stream by what a snapshot says, and tells how long ago that was', async t => {
    const [id, anchor] = [randomUUID(), randomUUID()]
    const { handler } = stack.upstream
    t.after(() => {
      stack.upstream.handler = handler
    })
    const left = Promise.withResolvers<void>()
    stack.upstream.handler = (_request, response) => {
      response.on('close', left.resolve)
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write('data: 1\n\n')
    }
    const wire = new Wire(stack.gateway.port)
    t.after(() => wire.close())
    const token = stack.mint({ delegation_edge_id: anchor })
    wire.send(`${head('GET /sse', token, `X-Request-Id: ${id}`)}\r\n`)
    await wire.receives(/data: 1/)
    const revokedAt = new Date(Date.now() - 10 * 60 * 1000)
    await postgres.insert('delegation_edges', {
      id: anchor,
      zone_id: ZONE,
      status: 'revoked',
      revoked_at: revokedAt,
    })
    assert.equal((await reload()).status, 200)
    await wire.receives(/event: caracal-revoked\n[^]*X-Caracal-Revoked: true\r\n\r\n$/)
    await left.promise
    const [event, ...others] = await stack.eventsOf(id)
    assert.equal(others.length, 0)
    const metadata = event?.metadata_json ?? {}
    assert.equal(event?.evaluation_status, 'upstream_error')
    assert.equal(metadata['revocation_interrupted'], true)
    assert.equal(metadata['revoked_anchor'], 'delegation_edge_id')
    assert.equal(metadata['response_bytes'], 'data: 1\n\n'.length)
    const latency = Number(metadata['revocation_latency_ms'])
    const elapsed = Date.now() - revokedAt.getTime()
    assert.ok(latency >= 10 * 60 * 1000 && latency <= elapsed, `${latency} of ${elapsed}`)
  })

  test('lets a resumed session come back with the next snapshot', async () => {
    const [terminated, suspended] = [randomUUID(), randomUUID()]
    await postgres.insert(
      'sessions',
      { id: terminated, zone_id: ZONE, status: 'terminated' },
      { id: suspended, zone_id: ZONE, status: 'suspended' },
    )
    await revoke(stack.redis, { agent_session_id: suspended })
    await until(async () => (await present({ agent_session_id: suspended })).status === 401)
    assert.equal((await reload()).status, 200)
    assertRefusal(await present({ agent_session_id: terminated }), REVOKED)
    await postgres.query(`update sessions set status = 'active' where id = any($1)`, [
      [terminated, suspended],
    ])
    assert.equal((await reload()).status, 200)
    for (const id of [terminated, suspended]) {
      assert.equal((await present({ agent_session_id: id })).status, 200)
    }
  })

  /** Runs while a snapshot waits for one of its tables. */
  async function duringSnapshot(work: () => Promise<void>): Promise<void> {
    const owner = new Client({ connectionString: postgres.adminUrl })
    owner.on('error', () => undefined)
    await owner.connect()
    await owner.query('begin; lock table delegation_edges in access exclusive mode')
    try {
      await work()
    } finally {
      await owner.end().catch(() => undefined)
    }
  }

  /** Once the snapshots of this many gateways wait for the table. */
  const snapshotWaits = (gateways = 1) =>
    until(async () => {
      const [row] = await postgres.query(
        `select count(*)::int as waiting from pg_locks where not granted`,
      )
      return row?.['waiting'] === gateways
    }, SOON)

  test('keeps a message that arrives while a snapshot is read that does not hold it', async () => {
    const sid = randomUUID()
    let reloaded: ReturnType<typeof reload> | undefined
    await duringSnapshot(async () => {
      reloaded = reload()
      await snapshotWaits()
      await revoke(stack.redis, { session_id: sid })
      await until(async () => (await present({ sid })).status === 401)
    })
    assert.equal((await reloaded)?.status, 200)
    assertRefusal(await present({ sid }), REVOKED)
    assert.equal((await reload()).status, 200)
    assert.equal((await present({ sid })).status, 200, 'the next one replaces it')
  })

  test('forgets nothing when the database dies in the middle of a snapshot', async () => {
    const sid = randomUUID()
    await duringSnapshot(async () => {
      const reloaded = [reload(), reload()]
      await snapshotWaits()
      await revoke(stack.redis, { session_id: sid })
      await until(async () => (await present({ sid })).status === 401)
      await postgres.stop()
      for (const { status } of await Promise.all(reloaded)) assert.equal(status, 503)
    })
    for (const claims of [{ sid }, { sid: 'r-revoked' }, { agent_session_id: 's-terminated' }]) {
      assertRefusal(await present(claims), REVOKED)
    }
    await postgres.start()
    assert.equal((await reload()).status, 200)
    assertRefusal(await present({ sid: 'r-revoked' }), REVOKED)
    assert.equal((await present({ sid })).status, 200)
  })

  test('stops in the middle of a snapshot', async t => {
    const gateway = await startGateway(t, stack.env)
    await duringSnapshot(async () => {
      await clock.advance(31_000)
      await snapshotWaits(2)
      const startedAt = performance.now()
      assert.equal(await gateway.stop(), 0)
      const took = performance.now() - startedAt
      assert.ok(took < 8_000, `as long as a statement may take: ${took}`)
    })
    assert.ok(!gateway.logs.some(({ level }) => Number(level) >= 50), gateway.output())
  })

  test('goes by what it knew for 70 s when the database is away, and on when it is back', async () => {
    assert.equal((await reload()).status, 200)
    const errors = await stack.metric('revocation_reload_errors')
    await postgres.stop()
    assert.equal((await reload()).status, 503)
    assert.equal(await stack.metric('revocation_reload_errors'), errors + 1)
    await clock.advance(60_000)
    await until(() => hasLogged(stack.gateway, /^the revocation snapshot cannot be read$/), SOON)
    assertRefusal(await present({ sid: 'r-revoked' }), REVOKED)
    assert.equal((await present()).status, 200)
    await clock.advance(10_000)
    assertRefusal(await present(), {
      status: 503,
      error: 'sts_unavailable',
      description: 'revocation state unavailable',
    })
    assert.equal(await stack.metric('revocation_snapshot_fresh'), 0)
    await postgres.start()
    await until(async () => (await present()).status === 200, SOON)
    assertRefusal(await present({ sid: 'r-revoked' }), REVOKED)
    await until(() => hasLogged(stack.gateway, /^the revocation snapshot is read again$/))
  })

  describe('does not start', () => {
    async function startFails(): Promise<string> {
      const child = spawn(process.execPath, [SERVER], {
        env: { ...stack.env, HOST: '127.0.0.1', PORT: '0' },
        stdio: ['ignore', 'ignore', 'pipe'],
      })
      let stderr = ''
      child.stderr.on('data', text => (stderr += text))
      const [code] = await once(child, 'close')
      assert.equal(code, 1)
      return stderr
    }

    test('with a table that lacks a column', async t => {
      await postgres.query('alter table sessions rename column updated_at to changed_at')
      t.after(() => postgres.query('alter table sessions rename column changed_at to updated_at'))
      assert.match(await startFails(), /cannot start: .*sessions.*updated_at/)
    })

    test('with one that it may not read', async t => {
      await postgres.query('revoke select on delegation_edges from caracal_gateway')
      t.after(() => postgres.query('grant select on delegation_edges to caracal_gateway'))
      assert.match(await startFails(), /cannot start: .*delegation_edges/)
    })

    test('without the database', async () => {
      await postgres.stop()
      const stderr = await startFails()
      assert.match(stderr, /cannot start: .*DATABASE_URL/)
      assert.equal(stderr.trim().split('\n').length, 1)
    })
  })
})
