// Holds the gateway to the bindings of a real `resources` table: what it declares is let through, what is new there is
// let through at its first request, and nothing else is (contract sections 10 and 14).
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { before, describe, test } from 'node:test'
import { startPostgres, type TestPostgres } from '../postgres.ts'
import { freePort } from '../redis.ts'
import { until } from '../until.ts'
import { ALONE, call, RESOURCE, type Stack, startGateway, startStack, ZONE } from './harness.ts'
import { assertRefusal, metricsOf } from './refusal.ts'
import { hasLogged, suiteCleanup, temporaryDirectory } from './support.ts'

const UNIFORM = 'resource://uniform'
const CLOSED = 'resource://closed'
const GROWING = 'resource://growing'
const RESCOPED = 'resource://rescoped'
const NEW_ZONE = 'zone-2'

const INVOICES = { method: 'GET', path: '/v1/invoices', scope: 'billing:read' }
const NOT_CONFIGURED = {
  status: 403,
  error: 'access_denied',
  description: 'resource not configured',
}

describe('the gateway', () => {
  const suite = suiteCleanup()
  let postgres: TestPostgres
  let stack: Stack

  /** Adds a resource, and has the STS know it. */
  async function bind(identifier: string, members: Readonly<Record<string, unknown>> = {}) {
    stack?.sts.setResource(identifier, { url: stack.upstream.url, auth_mode: 'none' })
    await postgres.insert('resources', {
      zone_id: ZONE,
      identifier,
      upstream_url: 'https://upstream.test',
      ...members,
    })
  }

  const change = (identifier: string, column: string, value: unknown) =>
    postgres.query(`update resources set ${column} = $2 where identifier = $1`, [
      identifier,
      Array.isArray(value) ? JSON.stringify(value) : value,
    ])

  before(async () => {
    postgres = await startPostgres(suite)
    await postgres.schema()
    await bind(RESOURCE, {
      operations: [INVOICES, { ...INVOICES, path: '/v1/invoices/:id' }],
    })
    await bind(UNIFORM, { operation_enforcement: 'transport_uniform' })
    await bind(CLOSED)
    await bind(GROWING, { operations: [INVOICES] })
    await bind(RESCOPED, { operations: [INVOICES] })
    await bind('resource://archived', { archived_at: new Date() })
    await bind('resource://nowhere', { upstream_url: null })
    stack = await startStack(suite, {
      zones: [NEW_ZONE],
      env: { ...ALONE, DATABASE_URL: postgres.url },
    })
    for (const name of [
      UNIFORM,
      CLOSED,
      GROWING,
      RESCOPED,
      'resource://archived',
      'resource://nowhere',
    ]) {
      stack.sts.setResource(name, { url: stack.upstream.url, auth_mode: 'none' })
    }
  })

  interface Asked {
    readonly resource?: string
    readonly scope?: string
    readonly zone?: string
    readonly method?: string
  }

  function ask(path: string, asked: Asked = {}) {
    const { resource = RESOURCE, scope = 'billing:read', zone = ZONE, method = 'GET' } = asked
    const token = stack.mint({ scope, zone_id: zone, target: [resource] })
    return stack.call(path, { token, resource, method })
  }

  const statusOf = async (path: string, asked: Asked) => (await ask(path, asked)).status
  const traces = () => [stack.upstream.arrivals.length, stack.sts.exchanges.length]
  const gauge = async (name: string) =>
    (await metricsOf(stack.gateway.url)).get(`caracal_gateway_${name}`)

  test('knows the resources of the table from the start', async () => {
    assert.equal(await gauge('bindings_loaded'), 5)
    assert.equal(await statusOf('/v1/invoices', {}), 200)
    assert.equal(await statusOf('/v1/%69nvoices', {}), 200)
    for (const [method, path] of [
      ['GET', '/any/path/'],
      ['DELETE', '//x'],
    ] as const) {
      assert.equal(await statusOf(path, { resource: UNIFORM, method }), 200)
    }
  })

  test('compares every path exactly: a colon is a colon', async () => {
    assert.equal(await statusOf('/v1/invoices/:id', {}), 200)
    assert.equal(await statusOf('/v1/invoices/%3Aid', {}), 200)
    const reached = traces()
    for (const path of ['/v1/invoices/7', '/v1/invoices/:ID', '/v1/invoices/', '/v1/invoices/:']) {
      assertRefusal(await ask(path), {
        status: 403,
        error: 'operation_not_permitted',
        description: `operation GET ${path} is not declared for resource ${RESOURCE}`,
      })
    }
    assert.deepEqual(traces(), reached)
  })

  test('refuses what the table refuses, and spends nothing on it', async () => {
    const reached = traces()
    assertRefusal(await ask('/v1/invoices', { scope: 'billing' }), {
      status: 403,
      error: 'operation_not_permitted',
      description: 'scope billing:read is missing',
    })
    assertRefusal(await ask('/', { resource: CLOSED }), {
      status: 403,
      error: 'operation_not_permitted',
      description: `operation GET / is not declared for resource ${CLOSED}`,
    })
    for (const resource of [
      'resource://archived',
      'resource://nowhere',
      'constructor',
      `${UNIFORM} x`,
    ]) {
      assertRefusal(await ask('/', { resource }), NOT_CONFIGURED)
    }
    assert.deepEqual(traces(), reached)
  })

  describe('admits at its first request', () => {
    test('a zone that is new in the table', async () => {
      await bind('resource://zoned', { zone_id: NEW_ZONE, operations: [INVOICES] })
      const asked = { zone: NEW_ZONE, resource: 'resource://zoned' }
      assert.equal(await statusOf('/v1/invoices', asked), 200)
      assertRefusal(await ask('/v1/invoices', { ...asked, resource: UNIFORM }), NOT_CONFIGURED)
    })

    test('a resource', async () => {
      await bind('resource://new', { operations: [INVOICES] })
      assert.equal(await statusOf('/v1/invoices', { resource: 'resource://new' }), 200)
    })

    test('an operation', async () => {
      await change(GROWING, 'operations', [INVOICES, { ...INVOICES, method: 'POST' }])
      const posted = { resource: GROWING, method: 'POST' }
      assert.equal(await statusOf('/v1/invoices', posted), 200)
    })

    test('a scope in the place of another', async () => {
      await change(RESCOPED, 'operations', [{ ...INVOICES, scope: 'billing:view' }])
      const viewed = { resource: RESCOPED, scope: 'billing:view' }
      assert.equal(await statusOf('/v1/invoices', viewed), 200)
      assert.equal(await statusOf('/v1/invoices', { resource: RESCOPED }), 403)
    })

    test('each of two hundred resources that come at once', async () => {
      const names = Array.from({ length: 200 }, (_, i) => `resource://burst-${i}`)
      for (const name of names) {
        stack.sts.setResource(name, { url: stack.upstream.url, auth_mode: 'none' })
      }
      await postgres.query(
        `insert into resources (zone_id, identifier, upstream_url, operation_enforcement)
         select $1, name, 'https://upstream.test', 'transport_uniform' from unnest($2::text[]) name`,
        [ZONE, names],
      )
      const statuses = await Promise.all(names.map(resource => statusOf('/', { resource })))
      assert.deepEqual([...new Set(statuses)], [200])
    })
  })

  test('forgets an archived resource with the first miss that reads it', async () => {
    const resource = 'resource://leaves'
    await bind(resource, { operations: [INVOICES] })
    assert.equal(await statusOf('/v1/invoices', { resource }), 200)
    await change(resource, 'archived_at', new Date())
    await until(async () => {
      const answer = await ask('/v1/other', { resource })
      return answer.json()['error_description'] === 'resource not configured'
    })
    const reached = traces()
    assertRefusal(await ask('/v1/invoices', { resource }), NOT_CONFIGURED)
    assert.deepEqual(traces(), reached)
  })

  test('fetches no keys for strangers, whatever zones they name', async () => {
    const fetched = stack.sts.jwksRequests.length
    const strangers = Array.from({ length: 50 }, (_, i) => ask('/', { zone: `stranger-${i}` }))
    for (const answer of await Promise.all(strangers)) assertRefusal(answer, NOT_CONFIGURED)
    assert.equal(stack.sts.jwksRequests.length, fetched)
  })

  test('refuses in bounded time while the database hangs, and admits what the copy knows', async () => {
    await bind('resource://meanwhile', { operations: [INVOICES] })
    const reached = traces()
    postgres.pause()
    try {
      const startedAt = performance.now()
      const refused = await Promise.all([
        ask('/v1/invoices', { resource: 'resource://meanwhile' }),
        ask('/', { resource: 'resource://never' }),
        ask('/', { zone: 'stranger' }),
      ])
      const took = performance.now() - startedAt
      for (const answer of refused) assertRefusal(answer, NOT_CONFIGURED)
      // A second, and what a busy machine takes on top; a statement would take ten.
      assert.ok(took < 6_000, `${took} ms`)
      assert.deepEqual(traces(), reached)
      assert.equal(await statusOf('/v1/invoices', {}), 200)
    } finally {
      postgres.resume()
    }
    await until(
      async () => (await statusOf('/v1/invoices', { resource: 'resource://meanwhile' })) === 200,
      30_000,
    )
  })

  test('serves the last good set while a row is not valid, says so, and recovers', async () => {
    const resource = 'resource://breaks'
    await bind(resource, { operations: [INVOICES] })
    assert.equal(await statusOf('/v1/invoices', { resource }), 200)
    await change(resource, 'operations', [{ ...INVOICES, method: 'get', path: '/v1/secret' }])
    const told = /^resources table is not valid/
    await until(async () => {
      assert.equal(await statusOf('/v1/secret', { resource }), 403)
      return hasLogged(stack.gateway, told)
    }, 60_000)
    assert.equal(await gauge('bindings_stale'), 1)
    assert.equal(await statusOf('/v1/invoices', { resource }), 200)
    const { logs } = stack.gateway
    const line = logs.find(({ msg }) => told.test(String(msg)))
    assert.match(
      JSON.stringify(line?.['problems']),
      /zone \\"zone-1\\", resource \\"resource:\/\/breaks\\": operations\[0\]\.method: must be/,
    )
    assert.doesNotMatch(JSON.stringify(line), /v1\/secret/)
    assert.equal((await call(stack.gateway.url, '/ready', { resource: null })).status, 200)

    // The table is read every 30 s: it is valid again, and one more resource has left it.
    await change(resource, 'operations', [INVOICES])
    await change(UNIFORM, 'archived_at', new Date())
    await until(async () => (await gauge('bindings_stale')) === 0, 60_000)
    assertRefusal(await ask('/', { resource: UNIFORM }), NOT_CONFIGURED)
    assert.equal(await statusOf('/v1/invoices', { resource }), 200)
  })

  test('looks at no table where there is a file', async t => {
    const file = `${await temporaryDirectory(t)}/bindings.json`
    const resource = 'resource://filed'
    const zones = { [ZONE]: { resources: { [resource]: {} } } }
    await writeFile(file, JSON.stringify({ version: 1, zones }))
    stack.sts.setResource(resource, { url: stack.upstream.url, auth_mode: 'none' })
    const gateway = await startGateway(t, { ...stack.env, BINDINGS_FILE: file })
    const statuses = [resource, RESOURCE].map(async name => {
      const token = stack.mint({ target: [name], scope: 'billing:read' })
      return (await call(gateway.url, '/v1/invoices', { token, resource: name })).status
    })
    assert.deepEqual(await Promise.all(statuses), [200, 403])
    assert.equal(hasLogged(gateway, /bindings loaded/), false)
  })

  describe('does not start', () => {
    /** The URL with a search path that begins with this schema. */
    const through = (schema: string) =>
      `${postgres.url}?options=${encodeURIComponent(`-c search_path=${schema},public`)}`
    const start = (t: Parameters<typeof startGateway>[0], url: string) =>
      startGateway(t, { ...stack.env, DATABASE_URL: url })

    async function schemaWith(name: string, columns: string, ...rows: readonly string[]) {
      await postgres.query(`
        create schema ${name};
        create table ${name}.resources as select ${columns} from public.resources limit 0;
        grant usage on schema ${name} to public;
        grant select on ${name}.resources to public;
        ${rows.join(';')}`)
    }

    test('with a row that is not valid, and names it', async t => {
      await schemaWith(
        'invalid',
        '*',
        `insert into invalid.resources (zone_id, identifier, upstream_url, operations, operation_enforcement)
         values ('zone-1', 'resource://odd', 'https://upstream.test', '[{"method":"GET","path":"v1"}]', 'enforced')`,
      )
      await assert.rejects(
        start(t, through('invalid')),
        /zone "zone-1", resource "resource:\/\/odd": operations\[0\]\.path: must begin with "\/"/,
      )
    })

    test('without a column, and names it', async t => {
      await schemaWith(
        'narrow',
        'zone_id, identifier, upstream_url, operation_enforcement, archived_at',
      )
      await assert.rejects(start(t, through('narrow')), /resources\.operations/)
    })

    test('without a database, and says so', async t => {
      const url = new URL(postgres.url)
      url.port = String(await freePort())
      await assert.rejects(
        start(t, url.href),
        /cannot start: the database .*cannot be read: .*ECONNREFUSED/,
      )
    })
  })
})
