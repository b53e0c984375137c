// Holds the gateway to its bindings file: what it declares is let through, nothing else is, and a change is noticed
// (contract section 10).
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { before, describe, test } from 'node:test'
import { Client } from 'undici'
import { until } from '../until.ts'
import {
  ALONE,
  type CallOptions,
  call,
  head,
  RESOURCE,
  type Stack,
  startGateway,
  startStack,
  Wire,
  ZONE,
} from './harness.ts'
import { assertRefusal, metricsOf, risen } from './refusal.ts'
import { suiteCleanup, temporaryDirectory } from './support.ts'

const UNIFORM = 'resource://uniform'
const OBSERVED = 'resource://observed'
const CLOSED = 'resource://closed'
const IMPATIENT = 'resource://impatient'
const ADDED = 'resource://added'
const OTHER_ZONE = 'zone-2'

const BINDINGS = `
version: 1
zones:
  ${ZONE}:
    resources:
      ${RESOURCE}:
        operations:
          - { method: GET,    path: /v1/invoices,            scope: billing:read }
          - { method: GET,    path: /v1/invoices/:id,        scope: billing:read }
          - { method: GET,    path: /v1/invoices/latest,     scope: billing:latest }
          - { method: POST,   path: "/v1/models:generate",   scope: models:run }
          - { method: DELETE, path: /v1/free }
          - { method: GET,    path: /v1/über uns }
      ${UNIFORM}:
        operation_enforcement: transport_uniform
        preserve_encoded_slash: true
      ${OBSERVED}:
        operation_enforcement: observe
        operations:
          - { method: GET, path: /v1/invoices, scope: billing:read }
      ${CLOSED}:
        operation_enforcement: enforced
      ${IMPATIENT}:
        stream_idle_timeout: 250ms
`

describe('the gateway', () => {
  const suite = suiteCleanup()
  let stack: Stack

  const directive = () => ({ url: stack.upstream.url, auth_mode: 'none' })

  before(async () => {
    const file = `${await temporaryDirectory(suite)}/bindings.yaml`
    await writeFile(file, BINDINGS)
    stack = await startStack(suite, { zones: [OTHER_ZONE], env: { BINDINGS_FILE: file } })
    for (const name of [UNIFORM, OBSERVED, CLOSED, IMPATIENT, ADDED]) {
      stack.sts.setResource(name, directive())
    }
  })

  interface Asked extends CallOptions {
    readonly scope?: string
    readonly url?: string
    readonly zone?: string
    readonly jti?: string
  }

  async function ask(path: string, { scope = '', zone = ZONE, jti, ...options }: Asked = {}) {
    const resource = options.resource ?? RESOURCE
    const claims = { scope, zone_id: zone, target: [resource], ...(jti !== undefined && { jti }) }
    return stack.call(path, { token: stack.mint(claims), ...options, resource })
  }

  const traces = () => [stack.upstream.arrivals.length, stack.sts.exchanges.length]

  describe('lets through what an enforced resource declares', () => {
    const cases: readonly (readonly [method: string, path: string, scope: string])[] = [
      ['GET', '/v1/invoices', 'billing:read'],
      ['GET', '/v1/invoices?x=/v2', 'billing:read'],
      ['GET', '/v1/%69nvoices', 'billing:read'],
      ['GET', '/v1/invoices/7', 'a billing:read b'],
      ['GET', '/v1/invoices/a%20b', 'billing:read'],
      ['GET', '/v1/invoices/latest', 'billing:latest'],
      ['POST', '/v1/models:generate', 'models:run'],
      ['POST', '/v1/models%3Agenerate', 'models:run'],
      ['DELETE', '/v1/free', ''],
      ['GET', '/v1/%C3%BCber%20uns', ''],
    ]
    for (const [method, path, scope] of cases) {
      test(`${method} ${path}`, async () => {
        const answer = await ask(path, { method, scope })
        assert.equal(answer.status, 200, answer.text)
      })
    }
  })

  describe('refuses on an enforced resource', () => {
    const undeclared: readonly (readonly [method: string, path: string, decoded?: string])[] = [
      ['HEAD', '/v1/invoices'],
      ['POST', '/v1/invoices'],
      ['OPTIONS', '/v1/invoices'],
      ['GET', '/v1/Invoices'],
      ['GET', '/V1/invoices'],
      ['GET', '/v1/invoices/'],
      ['GET', '/v1//invoices'],
      ['GET', '//v1/invoices'],
      ['GET', '/v1/invoices/7/lines'],
      ['GET', '/v1/invoices/7%2Flines', '/v1/invoices/7/lines'],
      ['GET', '/v1/invoices/7/'],
      ['GET', '/v1/invoices;x=1'],
      ['GET', '/v1/invoices%3Fx', '/v1/invoices?x'],
      ['GET', '/'],
      ['POST', '/v1/models/generate'],
      ['POST', '/v1/modelsXgenerate'],
      ['DELETE', '/v1/free/'],
    ]
    for (const [method, path, decoded = path] of undeclared) {
      test(`${method} ${path}`, async () => {
        const reached = traces()
        const jti = randomUUID()
        const answer = await ask(path, { method, jti, scope: 'billing:read billing:latest' })
        assert.equal(answer.status, 403)
        assert.deepEqual(traces(), reached)
        if (method === 'HEAD') return
        assertRefusal(answer, {
          status: 403,
          error: 'operation_not_permitted',
          description: `operation ${method} ${decoded} is not declared for resource ${RESOURCE}`,
        })
        assert.equal((await ask('/v1/free', { method: 'DELETE', jti })).status, 200)
      })
    }

    for (const [path, scope, missing] of [
      ['/v1/invoices', '', 'billing:read'],
      ['/v1/invoices', 'billing billing:reads Billing:read', 'billing:read'],
      ['/v1/invoices', 'billing:read,billing:write', 'billing:read'],
      ['/v1/invoices/latest', 'billing:read', 'billing:latest'],
    ] as const) {
      test(`${path} with scope '${scope}'`, async () => {
        const reached = traces()
        assertRefusal(await ask(path, { scope }), {
          status: 403,
          error: 'operation_not_permitted',
          description: `scope ${missing} is missing`,
        })
        assert.deepEqual(traces(), reached)
      })
    }

    test('everything, where it declares nothing', async () => {
      const reached = traces()
      const answer = await ask('/', { resource: CLOSED, scope: 'billing:read' })
      assertRefusal(answer, {
        status: 403,
        error: 'operation_not_permitted',
        description: `operation GET / is not declared for resource ${CLOSED}`,
      })
      assert.deepEqual(traces(), reached)
    })
  })

  test('knows a resource by its exact name, in its own zone', async () => {
    const refused = { status: 403, error: 'access_denied', description: 'resource not configured' }
    const reached = traces()
    for (const resource of [ADDED, 'RESOURCE://uniform', `${UNIFORM}/`, 'constructor']) {
      assertRefusal(await ask('/', { resource }), refused)
    }
    const fetched = stack.sts.jwksRequests.length
    assertRefusal(await ask('/', { resource: UNIFORM, zone: OTHER_ZONE }), refused)
    for (let i = 0; i < 20; i++) {
      assertRefusal(await ask('/', { resource: UNIFORM, zone: `stranger-${i}` }), refused)
    }
    assert.equal(stack.sts.jwksRequests.length, fetched, 'an unknown zone costs no key fetch')
    assert.deepEqual(traces(), reached)
  })

  test('leaves operations and scopes of a transport_uniform resource alone', async () => {
    for (const [method, path] of [
      ['GET', '/any/path/'],
      ['PROPFIND', '//x'],
      ['DELETE', '/v1/invoices'],
    ] as const) {
      const answer = await ask(path, { method, resource: UNIFORM })
      assert.equal(answer.status, 200, answer.text)
      assert.equal(stack.upstream.arrivals.at(-1)?.url, path)
    }
  })

  test('forwards an encoded slash as it came where the resource says so, and only there', async () => {
    const path = '/files/a%2Fb%2fc%20d'
    assert.equal((await ask(path, { resource: UNIFORM })).status, 200)
    assert.equal(stack.upstream.arrivals.at(-1)?.url, path)
    assert.equal(stack.sts.exchanges.at(-1)?.fields['request_path'], '/files/a/b/c d')
    assert.equal((await ask(path, { resource: OBSERVED })).status, 200)
    assert.equal(stack.upstream.arrivals.at(-1)?.url, '/files/a/b/c%20d')
    const climbs = await ask('/files/..%2Fb', { resource: UNIFORM })
    assert.equal(climbs.json()['error_description'], 'path traversal not permitted')
  })

  test('lets pass on an observed resource what it would refuse, and tells', async () => {
    for (const [path, scope, check] of [
      ['/v1/invoices', 'billing:read', undefined],
      ['/v1/invoices', 'billing:write', 'missing_scope'],
      ['/v1/secrets', 'billing:read', 'undeclared_operation'],
    ] as const) {
      const counted = await metricsOf(stack.gateway.url)
      const answer = await ask(path, { scope, resource: OBSERVED })
      assert.equal(answer.status, 200)
      const rise = risen(counted, await metricsOf(stack.gateway.url))
      assert.deepEqual(rise, {
        requests_total: 1,
        requests_allowed_total: 1,
        ...(check !== undefined && { [`would_deny_total{check="${check}"}`]: 1 }),
      })
      const [event] = await stack.eventsOf(answer.requestId)
      assert.equal(event?.event_type, 'gateway_resource_request')
      assert.equal(event?.evaluation_status, 'executed')
      assert.equal(event?.metadata_json['would_deny'], check)
    }
  })

  test('tells it of what a later check refuses as well', async () => {
    const wire = new Wire(stack.gateway.port)
    const token = stack.mint({ target: [OBSERVED] })
    const framing = ['X-Request-Id: observed-1', `Content-Length: ${11 * 1024 * 1024}`]
    const request = head('PUT /v1/secrets', token, ...framing).replace(RESOURCE, OBSERVED)
    wire.send(`${request}\r\n`)
    await wire.receives(/^HTTP\/1\.1 413 /)
    wire.close()
    const [event] = await stack.eventsOf('observed-1')
    assert.equal(event?.evaluation_status, 'request_too_large')
    assert.equal(event.metadata_json['would_deny'], 'undeclared_operation')
  })

  test('takes the patience with a silent upstream from the resource', async t => {
    const { handler } = stack.upstream
    t.after(() => {
      stack.upstream.handler = handler
    })
    const held: (() => void)[] = []
    stack.upstream.handler = (_request, response) => {
      response.write('first,')
      held.push(() => response.end('last'))
    }
    const patient = ask('/', { resource: UNIFORM })
    await until(() => held.length === 1)
    const client = new Client(stack.gateway.url)
    const token = stack.mint({ target: [IMPATIENT] })
    const { body, statusCode } = await client.request({
      path: '/',
      method: 'GET',
      headers: { authorization: `Bearer ${token}`, 'x-caracal-resource': IMPATIENT },
    })
    assert.equal(statusCode, 200)
    await assert.rejects(body.text(), 'the body is cut')
    for (const release of held) release()
    assert.equal((await patient).text, 'first,last')
    await client.destroy()
  })

  describe('notices a change of the file', () => {
    /** A file of one zone that binds these resources, each without operations. */
    const fileOf = (...resources: string[]) =>
      JSON.stringify({
        version: 1,
        zones: { [ZONE]: { resources: Object.fromEntries(resources.map(name => [name, {}])) } },
      })

    test('that is renamed over, written in place, broken, mended, gone and back', async t => {
      const directory = await temporaryDirectory(t)
      const file = `${directory}/bindings.json`
      await writeFile(file, fileOf(UNIFORM))
      const gateway = await startGateway(t, { ...stack.env, ...ALONE, BINDINGS_FILE: file })
      const statusOf = async (resource: string) => {
        const token = stack.mint({ target: [resource] })
        return (await call(gateway.url, '/', { token, resource })).status
      }
      const gauge = async (name: string) =>
        (await metricsOf(gateway.url)).get(`caracal_gateway_${name}`)
      const invalid = () =>
        gateway.logs.filter(({ msg }) => String(msg).startsWith('bindings file is not valid'))

      assert.deepEqual([await statusOf(UNIFORM), await statusOf(ADDED)], [200, 403])
      assert.equal(await gauge('bindings_loaded'), 1)

      await writeFile(`${file}.new`, fileOf(UNIFORM, ADDED))
      await rename(`${file}.new`, file)
      await until(async () => (await statusOf(ADDED)) === 200)
      assert.equal(await statusOf(UNIFORM), 200)
      assert.equal(await gauge('bindings_loaded'), 2)

      await writeFile(file, fileOf(ADDED))
      await until(async () => (await statusOf(UNIFORM)) === 403)
      assert.equal(await statusOf(ADDED), 200)

      // Broken behind a binding that would be valid by itself: nothing of it may be taken.
      const broken = `{"version":1,"zones":{"${ZONE}":{"resources":{"${UNIFORM}":{},"x":{"operation":[]}}}}}`
      await writeFile(file, broken)
      await until(() => invalid().length === 1)
      assert.deepEqual([await statusOf(UNIFORM), await statusOf(ADDED)], [403, 200])
      assert.equal(await gauge('bindings_stale'), 1)
      const [line] = invalid()
      assert.match(JSON.stringify(line), /zones\.\S*x.*operation/)
      const ready = await call(gateway.url, '/ready', { resource: null })
      assert.equal(ready.status, 200, 'the last good set serves')

      await writeFile(file, fileOf(UNIFORM))
      await until(async () => (await statusOf(UNIFORM)) === 200)
      assert.equal(await statusOf(ADDED), 403)
      assert.equal(await gauge('bindings_stale'), 0)

      await rm(file)
      await until(() => invalid().length === 2)
      assert.equal(await statusOf(UNIFORM), 200)
      await writeFile(file, fileOf(ADDED))
      await until(async () => (await statusOf(ADDED)) === 200)
    })

    test('that Kubernetes swaps by symbolic link', async t => {
      const directory = await temporaryDirectory(t)
      const release = async (name: string, ...resources: string[]) => {
        await mkdir(`${directory}/${name}`)
        await writeFile(`${directory}/${name}/bindings.json`, fileOf(...resources))
        await symlink(name, `${directory}/..data_tmp`)
        await rename(`${directory}/..data_tmp`, `${directory}/..data`)
      }
      await release('..2026_01', UNIFORM)
      const file = `${directory}/bindings.json`
      await symlink('..data/bindings.json', file)
      const gateway = await startGateway(t, { ...stack.env, BINDINGS_FILE: file })
      await release('..2026_02', ADDED)
      await until(async () => {
        const token = stack.mint({ target: [ADDED] })
        return (await call(gateway.url, '/', { token, resource: ADDED })).status === 200
      })
    })
  })

  test('lets the STS alone decide where no source is configured', async t => {
    const { BINDINGS_FILE: _, ...env } = stack.env
    const gateway = await startGateway(t, env)
    const ok = await call(gateway.url, '/any', {
      method: 'PUT',
      token: stack.mint({ target: [ADDED] }),
      resource: ADDED,
    })
    assert.equal(ok.status, 200)
    const unknown = 'resource://nobody'
    const refused = await call(gateway.url, '/any', {
      token: stack.mint({ target: [unknown] }),
      resource: unknown,
    })
    assert.equal(refused.json()['error_description'], 'resource is not known')
  })
})
