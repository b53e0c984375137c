// Holds the gateway's own endpoints, its start and its refusal to start to contract sections 1, 9 and 11.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { METHODS } from 'node:http'
import { connect } from 'node:net'
import { before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { freePort } from '../redis.ts'
import { until } from '../until.ts'
import { COUNTERS, GAUGES } from '../counters.ts'
import {
  ALONE,
  call,
  type CallOptions,
  type Gateway,
  KEYS,
  type Stack,
  startGateway,
  startStack,
} from './harness.ts'
import { assertRefusal, metricsOf } from './refusal.ts'
import { revoke, suiteCleanup, temporaryDirectory } from './support.ts'

const RELOAD = '/internal/revocations/reload'
const SERVER = fileURLToPath(new URL('../../dist/server.js', import.meta.url))

// Readiness is a matter of waiting: it does so beside the rest, on a stack of its own.
describe('the gateway', { concurrency: 2 }, () => {
  describe('says why it is not ready', { concurrency: 1 }, () => {
    const suite = suiteCleanup()
    let stack: Stack

    before(async () => {
      stack = await startStack(suite, { env: { REDIS_READ_TIMEOUT: '500ms' } })
    })

    const own = (path: string, options: CallOptions = {}, { url }: Gateway = stack.gateway) =>
      call(url, path, { resource: null, ...options })

    const readiness = async (gateway?: Gateway) => {
      const startedAt = performance.now()
      const answer = await own('/ready', {}, gateway)
      return { answer, took: performance.now() - startedAt }
    }
    const becomes = (reason: string | undefined) =>
      until(async () => {
        const { answer } = await readiness()
        if (answer.status === 200) return reason === undefined
        assert.equal(answer.status, 503)
        const { reason: told, ...rest } = answer.json()
        assert.deepEqual(rest, { ok: false, ready: false })
        return told === reason
      }, 6_000)

    test('the STS away, and Redis, and answers at once whatever hangs', async t => {
      stack.sts.setHealth({ status: 500 })
      await becomes('sts_unreachable')
      const headed = await own('/ready', { method: 'HEAD' })
      assert.deepEqual([headed.status, headed.text], [503, ''])
      assert.equal((await stack.call()).status, 200, 'it serves all the same')

      let letGo = () => {}
      const delay = new Promise<void>(resolve => {
        letGo = resolve
      })
      stack.sts.setHealth({ delay })
      stack.redis.pause()
      t.after(() => {
        stack.redis.resume()
        letGo()
      })
      await becomes('redis_unreachable')
      const times: number[] = []
      for (let i = 0; i < 10; i++) times.push((await readiness()).took)
      for (let i = 0; i < 10; i++) {
        const startedAt = performance.now()
        assert.equal((await own('/health')).status, 200)
        times.push(performance.now() - startedAt)
      }
      times.sort((a, b) => a - b)
      // The slowest may have waited for a busy machine.
      assert.ok((times[15] ?? Infinity) < 200, String(times))

      stack.redis.resume()
      stack.sts.setHealth({ status: 204, body: '' })
      letGo()
      await becomes(undefined)
      stack.sts.setHealth(undefined)
    })

    test('that it is about to stop, while it still serves', async t => {
      const gateway = await startGateway(t, { ...stack.env, SHUTDOWN_DELAY: '700ms' })
      const exit = once(gateway.child, 'exit')
      gateway.child.kill('SIGTERM')
      await until(async () => (await readiness(gateway)).answer.status === 503)
      const { answer } = await readiness(gateway)
      assert.deepEqual(answer.json(), { ok: false, ready: false, reason: 'draining' })
      const served = await call(gateway.url, '/', { token: stack.mint() })
      assert.equal(served.status, 200)
      assert.deepEqual(await exit, [0, null])
    })
  })

  describe('at its own endpoints', { concurrency: 1 }, () => {
    const suite = suiteCleanup()
    let stack: Stack
    /** Knows neither secret of an operator. */
    let without: Gateway

    before(async () => {
      stack = await startStack(suite, {
        env: { ...ALONE, CARACAL_ADMIN_TOKEN: 'admin-token', REDIS_READ_TIMEOUT: '500ms' },
      })
      const { METRICS_BEARER: _, CARACAL_ADMIN_TOKEN: __, ...env } = stack.env
      without = await startGateway(suite, env)
    })

    const own = (path: string, options: CallOptions = {}, { url }: Gateway = stack.gateway) =>
      call(url, path, { resource: null, ...options })

    describe('answers by itself', () => {
      for (const path of ['/health', '/health?deep=1', '/ready', '/ready?x']) {
        test(`GET and HEAD ${path}`, async () => {
          const arrived = stack.upstream.arrivals.length
          const answer = await own(path)
          assert.equal(answer.status, 200)
          const ready = path.startsWith('/ready')
          assert.deepEqual(answer.json(), ready ? { ok: true, ready: true } : { ok: true })
          assert.match(String(answer.headers['content-type']), /^application\/json/)
          const headed = await own(path, { method: 'HEAD' })
          assert.deepEqual([headed.status, headed.text], [200, ''])
          assert.equal(stack.upstream.arrivals.length, arrived)
        })
      }

      test('405 to every other method that Node knows, with what is allowed', async () => {
        for (const path of ['/health', '/ready', '/metrics', '/metrics.json']) {
          for (const method of METHODS) {
            if (['GET', 'HEAD', 'CONNECT'].includes(method)) continue
            const answer = await own(path, { method })
            assertRefusal(answer, {
              status: 405,
              error: 'invalid_request',
              description: 'method not allowed',
              headers: { allow: 'GET, HEAD' },
            })
          }
          for (const type of ['application/json', 'application/x-www-form-urlencoded', 'x']) {
            const headers = { 'content-type': type }
            const answer = await own(path, { method: 'POST', headers, body: '{' })
            assert.equal(answer.status, 405, `${path} ${type}`)
          }
        }
      })

      test('no path beside these: they are proxied', async () => {
        const proxied: readonly (readonly [method: string, path: string])[] = [
          ['GET', '/health/'],
          ['GET', '/Health'],
          ['GET', '//health'],
          ['GET', '/metrics.json/x'],
          ['GET', RELOAD],
          ['PUT', RELOAD],
          ['HEAD', RELOAD],
          ['POST', `${RELOAD}/`],
          ['POST', '/internal/revocations'],
        ]
        for (const [method, path] of proxied) {
          const answer = await own(path, { method, token: null })
          assert.equal(answer.status, 401, `${method} ${path}`)
          const passed = await stack.call(path, { method })
          assert.equal(passed.status, 200, `${method} ${path}`)
          assert.deepEqual(
            [stack.upstream.arrivals.at(-1)?.method, stack.upstream.arrivals.at(-1)?.url],
            [method, path],
          )
        }
      })
    })

    describe('shows its metrics', () => {
      test('to whom METRICS_BEARER names, and to nobody else', async () => {
        for (const path of ['/metrics', '/metrics.json']) {
          const refused: readonly CallOptions[] = [
            {},
            { token: 'metrics-beare' },
            { token: 'metrics-bearer2' },
            { token: 'Metrics-Bearer' },
            { headers: { authorization: 'metrics-bearer' } },
            { headers: { authorization: 'Basic metrics-bearer' } },
          ]
          for (const options of refused) {
            const answer = await own(path, options)
            assert.equal(answer.status, 401, JSON.stringify(options))
            assert.equal(answer.json()['error'], 'invalid_token')
            assert.match(String(answer.headers['www-authenticate']), /^Bearer\b/)
            assert.doesNotMatch(answer.text, /requests_total/)
          }
          assert.equal((await own(path, { token: 'metrics-bearer' })).status, 200)
        }
      })

      test('to everybody in dev, and to nobody in a published mode, where none is named', async t => {
        const { METRICS_BEARER: _, ...env } = stack.env
        const dev = await startGateway(t, { ...env, CARACAL_MODE: 'dev' })
        const stable = without
        for (const path of ['/metrics', '/metrics.json']) {
          assert.equal((await own(path, {}, dev)).status, 200)
          assert.equal((await own(path, {}, stable)).status, 401)
          assert.equal((await own(path, { token: 'metrics-bearer' }, stable)).status, 401)
          // The empty text is no token.
          assert.equal((await own(path, { token: '' }, stable)).status, 401)
        }
      })

      test('under the names of the alert rules, as text and as JSON alike', async () => {
        const text = await own('/metrics', { token: 'metrics-bearer' })
        assert.match(String(text.headers['content-type']), /^text\/plain/)
        const answer = await own('/metrics.json', { token: 'metrics-bearer' })
        assert.match(String(answer.headers['content-type']), /^application\/json/)
        const figures = answer.json()
        const series = await metricsOf(stack.gateway.url)
        const names = [
          ...COUNTERS.map(name => [name, `caracal_gateway_${name}_total`] as const),
          ...GAUGES.map(name => [name, `caracal_gateway_${name}`] as const),
        ]
        for (const [name, inText] of names) {
          const inJson = figures[name === 'audit_queue_capacity' ? 'audit_queue_cap' : name]
          assert.equal(typeof inJson, 'number', name)
          if (/_ms$|_seconds$/.test(name)) assert.equal(typeof series.get(inText), 'number', name)
          else assert.equal(series.get(inText), inJson, name)
        }
        for (const [name, value] of Object.entries(figures)) {
          assert.match(name, /^[a-z_]+(?<!_total)$/)
          assert.equal(typeof value, 'number')
        }
        assert.equal(figures['audit_queue_capacity'], undefined)
        for (const stage of ['verify', 'replay', 'exchange', 'upstream']) {
          const name = `caracal_gateway_stage_duration_seconds_count{stage="${stage}"}`
          assert.ok((series.get(name) ?? 0) > 0, name)
        }
        assert.equal(series.get('caracal_gateway_jwks_refetch_total{reason="first"}'), 1)
        assert.equal(series.get('caracal_gateway_denials_total{check="revoked"}'), 0)
      })
    })

    describe('rereads the revocations', () => {
      const post = (options: CallOptions = {}, gateway = stack.gateway) =>
        own(RELOAD, { method: 'POST', ...options }, gateway)

      test('for nobody who does not hold CARACAL_ADMIN_TOKEN', async () => {
        const answers = await Promise.all([
          post(),
          post({ token: 'admin-toke' }),
          post({ token: 'admin-token2' }),
          post({ token: 'metrics-bearer' }),
          post({ headers: { authorization: 'Basic admin-token' } }),
          post({ token: 'no', body: '{', headers: { 'content-type': 'application/json' } }),
          post({ token: 'admin-token' }, without),
          post({ token: '' }, without),
          post({}, without),
        ])
        for (const { status, headers, json } of answers) {
          assert.equal(status, 404)
          assert.match(String(headers['content-type']), /^application\/json/)
          assert.match(String(headers['x-request-id']), /./)
          assert.equal(headers['www-authenticate'], undefined)
          assert.deepEqual(json(), answers[0]?.json())
        }
        assert.equal(await stack.metric('revocation_reloads'), 0)
      })

      test('for who does, whatever else is sent', async () => {
        await revoke(stack.redis, { session_id: 'one' })
        await revoke(stack.redis, { agent_session_id: 'two' })
        const sent: readonly CallOptions[] = [
          {},
          { body: '' },
          { body: '{}', headers: { 'content-type': 'application/json' } },
          { body: '{', headers: { 'content-type': 'application/json' } },
          { body: 'a=b', headers: { 'content-type': 'application/x-www-form-urlencoded' } },
          { body: 'x', headers: { 'content-type': 'no type' } },
          { body: 'x' },
          { headers: { 'content-type': 'application/json' } },
        ]
        for (const options of sent) {
          const answer = await post({ token: 'admin-token', ...options })
          assert.equal(answer.status, 200, `${JSON.stringify(options)}: ${answer.text}`)
          assert.deepEqual(answer.json(), { ok: true, revocations: 2 })
        }
        assert.equal(await stack.metric('revocation_reloads'), sent.length)
        assert.equal(await stack.metric('revocation_reload_errors'), 0)
      })

      test('and says when it cannot', async t => {
        stack.redis.pause()
        t.after(() => stack.redis.resume())
        const answer = await post({ token: 'admin-token' })
        assert.equal(answer.status, 503)
        assert.deepEqual(answer.json(), {
          ok: false,
          ready: false,
          reason: 'revocation_reload_failed',
        })
        assert.equal(await stack.metric('revocation_reload_errors'), 1)
        stack.redis.resume()
        await until(async () => (await post({ token: 'admin-token' })).status === 200)
      })
    })

    describe('does not start', () => {
      interface End {
        readonly code: number | null
        readonly stderr: string
        readonly stdout: string
        /** Whether anything listened on its port at any time that was looked at. */
        readonly listened: boolean
      }

      async function run(env: Readonly<Record<string, string>>): Promise<End> {
        const port = Number(env['PORT']) || (await freePort())
        const child = spawn(process.execPath, [SERVER], {
          env: { PATH: process.env['PATH'] ?? '', HOST: '127.0.0.1', PORT: `${port}`, ...env },
          stdio: ['ignore', 'pipe', 'pipe'],
        })
        let [stdout, stderr, listened] = ['', '', false]
        child.stdout.setEncoding('utf8').on('data', text => {
          stdout += text
        })
        child.stderr.setEncoding('utf8').on('data', text => {
          stderr += text
        })
        const knock = () => {
          if (child.exitCode !== null) return
          const socket = connect(port, '127.0.0.1')
          socket.on('connect', () => {
            listened = true
            socket.destroy()
          })
          socket.on('error', () => setTimeout(knock, 20))
        }
        knock()
        const [code] = await once(child, 'close')
        return { code, stderr, stdout, listened }
      }

      test('with a configuration that has problems, and names each of them', async () => {
        const { code, stderr, stdout, listened } = await run({
          CARACAL_MODE: 'stable',
          STS_URL: 'http://sts.example.com/canary-1',
          REDIS_URL: 'canary-2',
          AUDIT_HMAC_KEY: 'canary-3',
          STREAMS_HMAC_KEY: 'ab'.repeat(31),
          GATEWAY_STS_HMAC_KEY_FILE: '/nowhere/canary-4',
          STS_TIMEOUT: '5',
          MAX_REQUEST_BYTES: '-1',
          JTI_FAIL_OPEN: 'true',
          INSECURE_STS: 'yes',
          INSECURE_HTTP: '1',
          TLS_CERT_FILE: '/nowhere/canary-5',
          READ_TIMEOUT: '20s',
          UPSTREAM_TIMEOUT: '30s',
          AUDIT_DURABILITY: 'fsync',
          BINDINGS_FILE: '/nowhere/canary-6',
          LOG_LEVEL: 'loud',
        })
        assert.equal(code, 1)
        for (const name of [
          'STS_URL',
          'REDIS_URL',
          'AUDIT_HMAC_KEY',
          'STREAMS_HMAC_KEY',
          'GATEWAY_STS_HMAC_KEY_FILE',
          'STS_TIMEOUT',
          'MAX_REQUEST_BYTES',
          'JTI_FAIL_OPEN',
          'INSECURE_STS',
          'INSECURE_HTTP',
          'TLS_CERT_FILE',
          'TLS_KEY_FILE',
          'AUDIT_DURABILITY',
          'BINDINGS_FILE',
          'LOG_LEVEL',
        ]) {
          const lines = stderr.split('\n').filter(line => new RegExp(`\\b${name} `).test(line))
          assert.ok(lines.length >= 1, `${name} in ${stderr}`)
        }
        assert.doesNotMatch(stdout + stderr, /canary|^\s+at |node:internal/m)
        assert.equal(listened, false)
      })

      test('with an empty environment, or a part of it', async () => {
        const { CARACAL_MODE: _, ...whole } = stack.env
        const required = ['STS_URL', 'REDIS_URL', 'GATEWAY_STS_HMAC_KEY', 'STREAMS_HMAC_KEY']
        const { code, stderr } = await run({})
        assert.equal(code, 1)
        for (const name of [...required, 'AUDIT_HMAC_KEY']) assert.ok(stderr.includes(name), name)
        // The empty text means unset.
        const empty = await run({ ...whole, AUDIT_HMAC_KEY: '' })
        assert.equal(empty.code, 1)
        assert.match(empty.stderr, /AUDIT_HMAC_KEY /)
        assert.doesNotMatch(empty.stderr, /STREAMS_HMAC_KEY/)
      })

      test('without Redis, with broken bindings, or on a port that is taken, and says which', async t => {
        const file = `${await temporaryDirectory(t)}/bindings.yaml`
        await writeFile(file, 'version: 1\nzones:\n  zone-1:\n    resource: {}\n')
        const [redis, bindings, port] = await Promise.all([
          run({
            ...stack.env,
            REDIS_URL: `redis://:canary@127.0.0.1:${await freePort()}`,
            REDIS_DIAL_TIMEOUT: '300ms',
          }),
          run({ ...stack.env, BINDINGS_FILE: file }),
          run({ ...stack.env, PORT: String(stack.gateway.port) }),
        ])
        assert.match(redis.stderr, /REDIS_URL/)
        assert.match(bindings.stderr, /zones\.zone-1\.resource \(4:5\)/)
        assert.match(port.stderr, /EADDRINUSE|in use/)
        for (const { code, stderr, stdout } of [redis, bindings, port]) {
          assert.equal(code, 1, stderr)
          assert.doesNotMatch(stdout + stderr, /canary|^\s+at |node:internal/m)
        }
        assert.equal(redis.listened || bindings.listened, false)
      })
    })

    test('reads its secrets from files', async t => {
      const directory = await temporaryDirectory(t)
      const env: Record<string, string> = { ...stack.env }
      for (const name of [
        'REDIS_URL',
        'STREAMS_HMAC_KEY',
        'AUDIT_HMAC_KEY',
        'GATEWAY_STS_HMAC_KEY',
        'CARACAL_ADMIN_TOKEN',
        'METRICS_BEARER',
      ]) {
        await writeFile(`${directory}/${name}`, `${env[name]}\n\n`)
        env[`${name}_FILE`] = `${directory}/${name}`
        delete env[name]
      }
      // A value wins over its file.
      env['AUDIT_HMAC_KEY'] = KEYS.audit
      env['AUDIT_HMAC_KEY_FILE'] = '/nowhere'
      const gateway = await startGateway(t, { ...env, NOT_OURS_FILE: '/nowhere' })
      const answer = await call(gateway.url, '/', { token: stack.mint() })
      assert.equal(answer.status, 200, answer.text)
      const { status } = await own('/metrics', { token: 'metrics-bearer' }, gateway)
      assert.equal(status, 200)
      const reload = await own(RELOAD, { method: 'POST', token: 'admin-token' }, gateway)
      assert.equal(reload.status, 200)
      assert.equal(gateway.output().includes(KEYS.audit), false)
    })
  })
})
