// Holds the house together: gateways that share nothing, a start that fails whole, and checks in the contract's order.

import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, it, type TestContext } from 'node:test'
import { promisify } from 'node:util'
import type { FastifyInstance, InjectOptions } from 'fastify'
import { DENIALS, Denial } from '../denial.ts'
import type { Claims } from '../dev/sts.ts'
import { REVOCATION_STREAM } from '../plugins/revocations/index.ts'
import { RESOURCE, ZONE } from './gateway/harness.ts'
import { createTestGateway, startWorld, type World } from './in-process.ts'
import { freePort, startRedis } from './redis.ts'

const call = (app: FastifyInstance, token: string) =>
  app.inject({
    url: '/v1/invoices?limit=2',
    headers: { authorization: `Bearer ${token}`, 'x-caracal-resource': RESOURCE },
  })

describe('a gateway in one’s own process', () => {
  it('serves by inject, without a listener', async t => {
    const world = await startWorld(t)
    const app = await createTestGateway(t, world)
    const token = world.mint()
    const answer = await call(app, token)
    assert.equal(answer.statusCode, 200, answer.body)
    assert.equal(answer.body, 'ok')
    assert.equal(world.upstream.arrivals[0]?.url, '/v1/invoices?limit=2')
    assert.equal(app.server.listening, false)
    assert.equal((await call(app, token)).json().error_description, 'token replay detected')
    assert.equal(world.upstream.arrivals.length, 1)
  })

  it('shares nothing with a second one: no figures, no spent mandates, no bindings', async t => {
    const world = await startWorld(t)
    const one = await createTestGateway(t, world)
    const other = await createTestGateway(t, world, { BINDINGS_FILE: bindingsFile(t) })
    const token = world.mint()
    assert.equal((await call(one, token)).statusCode, 200)
    assert.equal((await call(one, token)).statusCode, 401)
    // The other has its own store: there the mandate is unspent. Its bindings declare no such operation.
    const answer = await call(other, token)
    assert.equal(
      answer.json().error_description,
      `operation GET /v1/invoices is not declared for resource ${RESOURCE}`,
    )
    const [figures, others] = [await one.meters.flat(), await other.meters.flat()]
    assert.deepEqual(
      [figures['requests'], figures['denials_jti_replay'], figures['bindings_loaded']],
      [2, 1, 0],
    )
    assert.deepEqual(
      [others['requests'], others['denials_jti_replay'], others['bindings_loaded']],
      [1, 0, 2],
    )
    await one.close()
    assert.equal((await other.inject('/health')).statusCode, 200)
  })
})

describe('a process', () => {
  it('keeps nothing of a gateway that was closed', async t => {
    const world = await startWorld(t)
    const script = `
      import { createGateway, loadConfig } from './app.ts'
      const config = loadConfig({ CARACAL_MODE: 'dev', LOG_LEVEL: 'silent', STS_URL: '${world.sts.url}' })
      async function closed() {
        const app = await createGateway(config)
        await app.inject('/health')
        await app.close()
        return new WeakRef(app)
      }
      const gateways = [await closed(), await closed()]
      const kept = () => gateways.filter(gateway => gateway.deref() !== undefined).length
      for (let n = 0; n < 50 && kept() > 0; n++) {
        await new Promise(resolve => setTimeout(resolve, 100))
        gc()
      }
      console.log(kept())`
    const args = ['--expose-gc', '--input-type=module', '--eval', script]
    const { stdout } = await promisify(execFile)(process.execPath, args, {
      cwd: join(import.meta.dirname, '..'),
      timeout: 60_000,
    })
    assert.equal(stdout, '0\n')
  })

  it('ends by itself when its gateway could not start, or was closed', async t => {
    const world = await startWorld(t)
    const usual = { CARACAL_MODE: 'dev', LOG_LEVEL: 'silent', STS_URL: world.sts.url }
    const broken = join(bindingsFile(t), '..', 'broken.yaml')
    writeFileSync(broken, 'version: 2\n')
    const redis = await startRedis(t)
    // Redis is there, and the history of revocations is not: connections stand when the start fails.
    await redis.command('set', REVOCATION_STREAM, 'no stream')
    const starts = [
      usual,
      { ...usual, BINDINGS_FILE: bindingsFile(t) },
      { ...usual, BINDINGS_FILE: broken },
      {
        ...usual,
        BINDINGS_FILE: bindingsFile(t),
        REDIS_URL: `redis://127.0.0.1:${await freePort()}`,
        REDIS_DIAL_TIMEOUT: '200ms',
      },
      { ...usual, BINDINGS_FILE: bindingsFile(t), REDIS_URL: redis.url },
    ]
    const script = `
      import { createGateway, loadConfig } from './app.ts'
      for (const env of JSON.parse(process.env.STARTS)) {
        try {
          const app = await createGateway(loadConfig(env))
          await app.listen({ port: 0, host: '127.0.0.1' })
          const { port } = app.server.address()
          await fetch('http://127.0.0.1:' + port + '/health').then(answer => answer.text())
          await app.close()
          console.log('closed')
        } catch (error) {
          console.log('failed')
        }
      }`
    const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
      cwd: join(import.meta.dirname, '..'),
      env: { PATH: process.env['PATH'] ?? '', STARTS: JSON.stringify(starts) },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    t.after(() => child.kill('SIGKILL'))
    let output = ''
    child.stdout.on('data', chunk => (output += chunk))
    const { promise: late, reject } = Promise.withResolvers<never>()
    const timer = setTimeout(() => reject(new Error(`it still runs after: ${output}`)), 20_000)
    const [status] = await Promise.race([once(child, 'close'), late])
    clearTimeout(timer)
    assert.equal(status, 0)
    assert.deepEqual(output.trim().split('\n'), ['closed', 'closed', 'failed', 'failed', 'failed'])
  })
})

/** Bindings of two zones; the one of `RESOURCE` is enforced. */
function bindingsFile(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'gateway-bindings-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'bindings.yaml')
  writeFileSync(
    file,
    `version: 1
zones:
  ${ZONE}:
    resources:
      ${RESOURCE}:
        operations:
          - { method: POST, path: /v1/invoices, scope: billing:write }
  zone-broken:
    resources:
      resource://other:
        operation_enforcement: transport_uniform
`,
  )
  return file
}

/** A request in the making: all is wrong with it, and each fault is mended in its turn. */
interface Attempt {
  url: string
  bearer: (token: string) => string | undefined
  claims: Record<string, unknown>
  headers: Record<string, string>
  /** Whether each request has a mandate of its own. */
  fresh: boolean
}

interface Fault {
  readonly check: string
  readonly mend: (attempt: Attempt) => void
}

const claim = (check: string, claims: Record<string, unknown>): Fault => ({
  check,
  mend: attempt => void Object.assign(attempt.claims, claims),
})
const bearer = (check: string, next: Attempt['bearer']): Fault => ({
  check,
  mend: attempt => {
    attempt.bearer = next
  },
})
const target = (check: string, path: string): Fault => ({
  check,
  mend: attempt => {
    attempt.url = path
  },
})
const beside = (check: string, mend: () => void): Fault => ({ check, mend })

function faults(
  t: TestContext,
  app: FastifyInstance,
  world: World,
): { first: Attempt; order: Fault[] } {
  const pressure = t.mock.method(app, 'isUnderPressure', () => true)
  const stale = t.mock.method(app.revocations, 'isFresh', () => false)
  const full = t.mock.method(app.audit, 'accepting', () => false)
  const revoked = t.mock.method(app.revocations, 'isRevoked', () => true)
  const circuit = t.mock.method(app.sts, 'refusal', () => new Denial('sts_circuit_open'))
  world.sts.setJwks('zone-broken', { status: 500 })
  world.sts.respond = () => ({ status: 403, body: { error: 'access_denied' } })
  const direct = (directive: Claims | undefined) => {
    world.sts.respond = () => ({ answer: { upstreams: directive && { [RESOURCE]: directive } } })
  }
  const { url } = world.upstream
  const host = new URL(url).hostname
  const soon = Math.floor(Date.now() / 1000) + 10

  const first: Attempt = {
    url: '/a%2f..%2fb',
    bearer: () => undefined,
    claims: {
      zone_id: 'not a zone',
      client_id: '',
      exp: soon,
      use: 'session',
      jti: undefined,
      target: [],
      scope: '',
    },
    headers: { 'x-caracal-client-id': 'c', 'content-length': '99999999999' },
    fresh: false,
  }
  for (let i = 0; i < 100; i++) first.headers[`x-many-${i}`] = 'v'

  const order: Fault[] = [
    beside('overloaded', () => pressure.mock.restore()),
    {
      check: 'malformed_request',
      mend: ({ headers }) => {
        for (let i = 0; i < 100; i++) delete headers[`x-many-${i}`]
      },
    },
    beside('revocation_state_unavailable', () => stale.mock.restore()),
    beside('evidence_unavailable', () => full.mock.restore()),
    bearer('missing_bearer', () => 'x'.repeat(5_000)),
    bearer('oversized_bearer', () => 'x.y'),
    bearer('malformed_bearer', token => `${token.slice(0, -86)}${'A'.repeat(86)}`),
    claim('expiring_bearer', { exp: soon + 300 }),
    { check: 'client_id_header', mend: ({ headers }) => delete headers['x-caracal-client-id'] },
    {
      check: 'missing_resource_header',
      mend: ({ headers }) => {
        headers['x-caracal-resource'] = 'resource://unbound'
      },
    },
    claim('missing_zone', { zone_id: 'unknown' }),
    claim('missing_client', { client_id: 'client-1' }),
    target('path_traversal', '/undeclared'),
    claim('unknown_zone', { zone_id: 'zone-broken' }),
    claim('keys_unavailable', { zone_id: ZONE }),
    bearer('invalid_signature', token => token),
    claim('mandate_use', { use: 'gateway' }),
    claim('mandate_target', { target: ['resource://unbound', RESOURCE] }),
    claim('missing_token_id', { jti: 'spent' }),
    beside('revoked', () => revoked.mock.restore()),
    {
      check: 'unbound_resource',
      mend: ({ headers }) => {
        headers['x-caracal-resource'] = RESOURCE
      },
    },
    target('undeclared_operation', '/v1/invoices'),
    claim('missing_scope', { scope: 'billing:write' }),
    beside('sts_circuit_open', () => circuit.mock.restore()),
    { check: 'request_too_large', mend: ({ headers }) => delete headers['content-length'] },
    {
      check: 'replayed',
      mend: attempt => {
        attempt.fresh = true
      },
    },
    beside('sts_refused', () => direct(undefined)),
    beside('unrouted_resource', () =>
      direct({ url: 'http://169.254.169.254/', allowed_token_hosts: ['other.test'] }),
    ),
    beside('unsafe_upstream', () => direct({ url, allowed_token_hosts: ['other.test'] })),
    beside('credential_host', () => direct({ url, allowed_token_hosts: [host] })),
    beside('request_build_failed', () => direct({ url, auth_mode: 'none' })),
  ]
  return { first, order }
}

describe('the order of the checks', () => {
  it('is the contract’s: of all that is wrong with a request, the first is told', async t => {
    const world = await startWorld(t)
    const app = await createTestGateway(t, world, {
      BINDINGS_FILE: bindingsFile(t),
      MAX_REQUEST_BYTES: '1000',
    })
    const denied = t.mock.method(app.meters, 'denied')
    const spent = t.mock.method(app.replay, 'claim')
    await app.replay.claim('spent', 'r-0', 60_000)
    spent.mock.resetCalls()
    const { first: attempt, order } = faults(t, app, world)

    const send = () => {
      const jti = attempt.fresh ? crypto.randomUUID() : attempt.claims['jti']
      const claims = { ...attempt.claims, jti }
      const token = world.sts.sign(
        { kid: world.sts.keys(ZONE).at(-1)?.kid },
        { iss: world.sts.issuer, aud: world.sts.issuer, sub: 's', ...claims },
      )
      const bearer = attempt.bearer(token)
      const headers = {
        host: 'gateway.test',
        ...(bearer !== undefined && { authorization: `Bearer ${bearer}` }),
        ...attempt.headers,
      }
      const options: InjectOptions = { method: 'POST', url: attempt.url, headers }
      return app.inject(options)
    }

    const names = Object.keys(DENIALS)
    const beforeClaim = names.indexOf('replayed')
    const beforeExchange = names.indexOf('sts_refused')
    for (const { check, mend } of order) {
      const before = { exchanges: world.sts.exchanges.length, claims: spent.mock.callCount() }
      denied.mock.resetCalls()
      const answer = await send()
      assert.deepEqual(
        denied.mock.calls.map(({ arguments: [name] }) => name),
        [check],
        answer.body,
      )
      const index = names.indexOf(check)
      assert.equal(spent.mock.callCount() - before.claims, index < beforeClaim ? 0 : 1, check)
      assert.equal(
        world.sts.exchanges.length - before.exchanges,
        index < beforeExchange ? 0 : 1,
        check,
      )
      assert.equal(world.upstream.arrivals.length, 0, check)
      mend(attempt)
    }
    const answer = await send()
    assert.equal(answer.statusCode, 200, answer.body)
    assert.equal(world.upstream.arrivals.length, 1)

    const judged = order.map(({ check }) => check)
    assert.deepEqual(
      judged,
      names.filter(name => judged.includes(name)),
    )
    // What is not in the list above needs no order: each excludes, or follows from, one that is.
    assert.deepEqual(
      names.filter(name => !judged.includes(name)),
      [
        'method_not_allowed',
        'request_timeout',
        'replay_state_unavailable',
        'sts_unreachable',
        'sts_timeout',
        'sts_response_invalid',
        'upstream_unreachable',
        'upstream_timeout',
        'internal_error',
      ],
    )
  })
})
