// Several workers are one service: whatever is promised of one process is promised of them together, and one that ends
// harms nobody who is with another (contract section 9).
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Client } from 'undici'
import { lastFirst } from '../cleanup.ts'
import { type Cleanup, freePort, startRedis } from '../redis.ts'
import { until } from '../until.ts'
import {
  call,
  type Gateway,
  head,
  KEYS,
  RESOURCE,
  type Stack,
  startStack,
  Wire,
  ZONE,
} from './harness.ts'
import {
  arrived,
  assertAccounted,
  assertNothingLeft,
  assertSettled,
  Load,
  PATIENT,
  work,
} from './load.ts'
import { hasLogged, revoke, temporaryDirectory } from './support.ts'

const SERVER = fileURLToPath(new URL('../../dist/server.js', import.meta.url))
const TWO = { WORKERS: '2', LOG_LEVEL: 'debug' }
const LONG = 30_000

/** A connection that stays with the worker that took it. */
class Connection {
  readonly #client: Client

  constructor(t: Cleanup, { url }: Gateway) {
    this.#client = new Client(url)
    t.after(() => this.#client.destroy())
  }

  async get(
    path: string,
    headers: Record<string, string> = {},
    method: 'GET' | 'POST' = 'GET',
  ): Promise<{ status: number; json: Record<string, unknown> }> {
    const { statusCode, body } = await this.#client.request({ path, method, headers })
    const json: unknown = await body.json()
    return { status: statusCode, json: { ...Object(json) } }
  }

  /** `/metrics.json`. */
  async figures(): Promise<Record<string, number>> {
    const { json } = await this.get('/metrics.json', { authorization: 'Bearer metrics-bearer' })
    return Object.fromEntries(Object.entries(json).map(([name, value]) => [name, Number(value)]))
  }

  /** The worker that has it, by what that logs. */
  async worker({ logs }: Gateway): Promise<number> {
    const requestId = `who-${Math.random()}`
    await this.get('/who', { 'x-request-id': requestId })
    const line = () => logs.find(({ reqId, check }) => reqId === requestId && check !== undefined)
    await until(() => line() !== undefined)
    return Number(line()?.['pid'])
  }
}

/** A connection to each worker, by its process id. */
async function connections(t: Cleanup, gateway: Gateway): Promise<Map<number, Connection>> {
  const found = new Map<number, Connection>()
  await until(async () => {
    const connection = new Connection(t, gateway)
    found.set(await connection.worker(gateway), connection)
    return found.size === 2
  }, LONG)
  return found
}

/** A connection to a worker, and the process id of the other. */
async function oneAndOther(
  t: Cleanup,
  { gateway }: Stack,
): Promise<{ connection: Connection; other: number }> {
  const [[, connection] = [], [other] = []] = [...(await connections(t, gateway))]
  assert.ok(connection !== undefined && other !== undefined && other > 0)
  return { connection, other }
}

/** Never 0, which would signal the test and all that it has started. */
function workersOf({ servers }: Gateway): [number, number] {
  const [one, other, ...more] = servers()
  assert.ok(one !== undefined && one > 0 && other !== undefined && other > 0)
  assert.deepEqual(more, [])
  return [one, other]
}

/** One that has ended and that its new parent has not looked after yet does not live. */
function lives(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !existsSync('/proc') || !readFileSync(`/proc/${pid}/stat`, 'latin1').includes(') Z ')
  } catch {
    return false
  }
}

/** Resolves once a second worker has taken the place of one that ended. */
async function replaced(gateway: Gateway, ended: number): Promise<void> {
  await until(() => hasLogged(gateway, /^a worker was replaced/), LONG)
  assert.equal(gateway.servers().length, 2)
  assert.ok(!gateway.servers().includes(ended))
}

/** `dist/server.js` with this environment, to its end. */
async function run(
  t: Cleanup,
  env: Record<string, string>,
): Promise<{ code: unknown; errors: string; output: string }> {
  const child = spawn(process.execPath, [SERVER], {
    env: { PATH: process.env['PATH'] ?? '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.after(async () => void child.kill('SIGKILL'))
  let errors = ''
  let output = ''
  child.stderr.setEncoding('utf8').on('data', text => {
    errors += text
  })
  child.stdout.setEncoding('utf8').on('data', text => {
    output += text
  })
  const [code] = await once(child, 'close')
  return { code, errors, output }
}

const PUBLISHED = {
  STS_URL: 'http://127.0.0.1:9',
  GATEWAY_STS_HMAC_KEY: KEYS.sts,
  STREAMS_HMAC_KEY: KEYS.streams,
  AUDIT_HMAC_KEY: KEYS.audit,
}

describe('two workers', { concurrency: 2 }, () => {
  test(
    'share one port, the requests, and each mandate',
    lastFirst(async t => {
      const stack = await startStack(t, { env: TWO })
      const { gateway } = stack
      const told = gateway.logs.filter(({ msg }) => String(msg).startsWith('Server listening'))
      assert.equal(told.length, 1)
      assert.equal(new Set(gateway.servers()).size, 2)
      const token = stack.mint()
      const answers = await Promise.all(
        Array.from({ length: 8 }, () => stack.call('/x', { token })),
      )
      const refused = answers.filter(({ status }) => status === 401)
      assert.equal(answers.filter(({ status }) => status === 200).length, 1)
      assert.equal(refused.length, 7)
      for (const answer of refused) {
        assert.equal(answer.json()['error_description'], 'token replay detected')
      }
      const ids = new Set(answers.map(({ requestId }) => requestId))
      const served = () => gateway.logs.filter(({ reqId }) => ids.has(String(reqId)))
      await until(() => new Set(served().map(({ reqId }) => reqId)).size === 8)
      assert.deepEqual(new Set(served().map(({ pid }) => pid)), new Set(gateway.servers()))
    }),
  )

  test(
    'cut what is revoked, whoever has it',
    lastFirst(async t => {
      const stack = await startStack(t, { env: TWO })
      stack.upstream.handler = (_request, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: one\n\n')
      }
      const streams = Array.from({ length: 6 }, () => new Wire(stack.gateway.port))
      for (const [index, stream] of streams.entries()) {
        const token = stack.mint({ sid: 'session-1' })
        stream.send(`${head('GET /events', token, `X-Request-Id: stream-${index}`)}\r\n`)
        await stream.receives(/data: one/)
      }
      assert.equal(await stack.metric('streams_open'), 6)
      await revoke(stack.redis, { session_id: 'session-1' })
      for (const stream of streams) await stream.receives(/caracal-revoked/)
      assert.equal(await stack.metric('streams_revoked'), 6)
      for (const [index] of streams.entries()) {
        const [event, ...more] = await stack.eventsOf(`stream-${index}`)
        assert.equal(event?.metadata_json['revoked_anchor'], 'sid')
        assert.deepEqual(more, [])
      }
      for (const stream of streams) stream.close()
    }),
  )

  test(
    'read the revocations again when one of them is told to',
    lastFirst(async t => {
      const stack = await startStack(t, { env: { ...TWO, CARACAL_ADMIN_TOKEN: 'admin' } })
      await revoke(stack.redis, { session_id: 'a' })
      await until(async () => (await stack.metric('revocations_active')) === 1)
      const path = '/internal/revocations/reload'
      const admin = { method: 'POST', token: 'admin', resource: null }
      const answer = await call(stack.gateway.url, path, admin)
      assert.deepEqual(answer.json(), { ok: true, revocations: 1 })
      assert.equal(await stack.metric('revocation_reloads'), 2)
      await stack.redis.stop()
      const failed = await call(stack.gateway.url, path, admin)
      assert.equal(failed.status, 503)
      assert.equal(failed.json()['reason'], 'revocation_reload_failed')
    }),
  )

  test(
    'say the same of the service: its sums, and why it is not ready',
    lastFirst(async t => {
      const stack = await startStack(t, { env: TWO })
      const { gateway } = stack
      for (let n = 1; n <= 6; n += 1) {
        assert.equal((await stack.call()).status, 200)
        assert.equal(await stack.metric('requests_allowed'), n)
      }
      const text = await call(gateway.url, '/metrics', { token: 'metrics-bearer', resource: null })
      assert.match(text.text, /^caracal_gateway_request_duration_seconds_count 6$/m)
      assert.match(
        text.text,
        /^caracal_gateway_stage_duration_seconds_bucket\{le="\+Inf",stage="exchange"\} 6$/m,
      )
      assert.match(text.text, /^caracal_gateway_workers 2$/m)
      assert.match(text.text, /^caracal_gateway_ready 1$/m)
      assert.equal((await call(gateway.url, '/metrics', { resource: null })).status, 401)
      await stack.sts.close()
      await until(
        async () => (await call(gateway.url, '/ready', { resource: null })).status === 503,
      )
      // Whoever is asked.
      for (let n = 0; n < 10; n += 1) {
        const answer = await call(gateway.url, '/ready', { resource: null })
        assert.deepEqual(answer.json(), { ok: false, ready: false, reason: 'sts_unreachable' })
      }
    }),
  )

  test(
    'outlive one that is killed under load: it is replaced, and its evidence told by the other',
    lastFirst(async t => {
      const directory = await temporaryDirectory(t)
      const env = { ...PATIENT, WORKERS: '2', AUDIT_REPLAY_DIR: directory }
      const stack = await startStack(t, { env })
      const { gateway } = stack
      work(stack)
      const load = new Load(t, stack)
      await load.more('200', 200)
      const before = await stack.metric('requests_allowed')
      const [victim] = workersOf(gateway)
      process.kill(victim, 'SIGKILL')
      await until(() => hasLogged(gateway, /^a worker ended and is started again/), LONG)
      assert.ok((await stack.metric('requests_allowed')) >= before)
      await load.more('200', 200)
      await replaced(gateway, victim)
      await load.more('200', 200)
      await load.stop()
      const figures = await assertSettled(gateway)
      assert.equal(figures['worker_restarts'], 1)
      assert.equal(figures['workers'], 2)
      // Only what the victim had is broken off: its callers, once each.
      assert.ok(load.count('broken') <= 24, String(load.count('broken')))
      const { interrupted } = await assertAccounted(t, stack, { loads: [load], killed: true })
      assert.ok(interrupted > 0)
      assert.ok((figures['requests_allowed'] ?? 0) <= arrived(stack).length)
      await assertNothingLeft(directory, [gateway])
    }),
  )

  test(
    'go on without one that hangs, with its last figures',
    lastFirst(async t => {
      const stack = await startStack(t, { env: TWO })
      const { connection, other } = await oneAndOther(t, stack)
      for (let n = 0; n < 4; n += 1) await stack.call()
      const before = await connection.figures()
      assert.equal(before['requests_allowed'], 4)
      process.kill(other, 'SIGSTOP')
      t.after(async () => void (lives(other) && process.kill(other, 'SIGCONT')))
      const startedAt = performance.now()
      const during = await connection.figures()
      const took = performance.now() - startedAt
      assert.ok(took >= 490 && took < 1_900, String(took))
      assert.equal(during['requests_allowed'], 4)
      // When it has been silent for long enough it does not count, and the service is ready without it.
      await until(async () => (await connection.figures())['workers'] === 2)
      assert.equal((await connection.get('/ready')).status, 200)
      // Nobody but the supervisor can see that it hangs.
      await until(() => hasLogged(stack.gateway, /^a worker hangs and is ended/), 60_000)
      await replaced(stack.gateway, other)
    }),
  )

  test(
    'replace one that is told to stop by itself, which answers what it has',
    lastFirst(async t => {
      const stack = await startStack(t, { env: TWO })
      const { gateway, upstream } = stack
      const found = await connections(t, gateway)
      const answers: (() => void)[] = []
      upstream.handler = (_request, response) =>
        void answers.push(() => response.end(JSON.stringify({ late: true })))
      const asked = [...found.values()].map(connection =>
        connection.get('/late', {
          authorization: `Bearer ${stack.mint()}`,
          'x-caracal-resource': RESOURCE,
        }),
      )
      await until(() => answers.length === 2, LONG)
      const [leaver] = workersOf(gateway)
      process.kill(leaver, 'SIGTERM')
      // Again, as by a signal to all of the group: it is told nothing new.
      process.kill(leaver, 'SIGTERM')
      process.kill(leaver, 'SIGINT')
      await until(() => hasLogged(gateway, /^draining/))
      assert.equal((await call(gateway.url, '/ready', { resource: null })).status, 200)
      for (const answer of answers) answer()
      for (const { json } of await Promise.all(asked)) assert.deepEqual(json, { late: true })
      await until(() => !lives(leaver), LONG)
      await replaced(gateway, leaver)
      const line = gateway.logs.find(({ msg }) => msg === 'a worker ended and is started again')
      assert.deepEqual([line?.['worker'], line?.['code'], line?.['level']], [leaver, 0, 30])
      assert.equal(await gateway.stop(), 0)
    }),
  )

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    test(
      `drain together, when all processes hear ${signal} too, and exit with 0`,
      lastFirst(async t => {
        const env = { ...TWO, SHUTDOWN_DELAY: '400ms' }
        const stack = await startStack(t, { env })
        const { gateway, upstream } = stack
        const answers: (() => void)[] = []
        upstream.handler = (_request, response) => void answers.push(() => response.end('late'))
        const asked = Array.from({ length: 6 }, () => stack.call())
        await until(() => answers.length === 6, LONG)
        const ended = once(gateway.child, 'close')
        gateway.signal(signal)
        // A worker may hear of it first.
        const { pid: supervisor } = gateway.child
        const draining = () =>
          gateway.logs.some(({ msg, pid }) => msg === 'draining' && pid === supervisor)
        await until(draining, LONG)
        for (let n = 0; n < 4; n += 1) {
          const answer = await call(gateway.url, '/ready', { resource: null })
          assert.deepEqual(answer.json(), { ok: false, ready: false, reason: 'draining' })
        }
        for (const answer of answers) answer()
        for (const { status, text } of await Promise.all(asked)) {
          assert.deepEqual([status, text], [200, 'late'])
        }
        assert.deepEqual(await ended, [0, null])
        assert.equal((await stack.events()).length, 6)
      }),
    )
  }

  test(
    'go at once, with 1, when the service is told to stop twice',
    lastFirst(async t => {
      const stack = await startStack(t, { env: TWO })
      const { gateway, upstream } = stack
      const workers = gateway.servers()
      upstream.handler = () => undefined
      const lost = stack.call()
      await until(() => upstream.arrivals.length === 1)
      const ended = once(gateway.child, 'close')
      gateway.child.kill('SIGTERM')
      await until(() => hasLogged(gateway, /^draining/))
      gateway.child.kill('SIGTERM')
      await assert.rejects(lost)
      assert.deepEqual(await ended, [1, null])
      await until(() => !workers.some(lives))
    }),
  )

  test(
    'exit with 1 when one of them does not manage to stop',
    lastFirst(async t => {
      const stack = await startStack(t, { env: { ...TWO, SHUTDOWN_TIMEOUT: '2s' } })
      const { gateway } = stack
      const [stuck] = workersOf(gateway)
      process.kill(stuck, 'SIGSTOP')
      const ended = once(gateway.child, 'close')
      const startedAt = performance.now()
      gateway.child.kill('SIGTERM')
      assert.deepEqual(await ended, [1, null])
      const took = performance.now() - startedAt
      assert.ok(took >= 1_990 && took < 5_000, String(took))
      await until(() => !lives(stuck))
    }),
  )

  test(
    'end in order by themselves when their supervisor is killed',
    lastFirst(async t => {
      const stack = await startStack(t, { env: TWO })
      const { gateway, upstream } = stack
      const workers = gateway.servers()
      const answers: (() => void)[] = []
      upstream.handler = (_request, response) => void answers.push(() => response.end('late'))
      const asked = Array.from({ length: 4 }, () => stack.call())
      await until(() => answers.length === 4, LONG)
      gateway.child.kill('SIGKILL')
      await until(() => gateway.logs.filter(({ msg }) => msg === 'draining').length === 2, LONG)
      for (const answer of answers) answer()
      for (const { text } of await Promise.all(asked)) assert.equal(text, 'late')
      await until(() => !workers.some(lives), LONG)
      const events = await stack.events()
      assert.deepEqual(
        events.map(({ evaluation_status: status }) => status),
        Array(4).fill('executed'),
      )
    }),
  )

  test(
    'serve on while one cannot start again, which says why, and tries until it can',
    lastFirst(async t => {
      const file = `${await temporaryDirectory(t)}/bindings.json`
      const bindings = JSON.stringify({
        version: 1,
        zones: { [ZONE]: { resources: { [RESOURCE]: {} } } },
      })
      await writeFile(file, bindings)
      const stack = await startStack(t, { env: { ...TWO, BINDINGS_FILE: file } })
      const { gateway } = stack
      const { connection, other } = await oneAndOther(t, stack)
      await rm(file)
      process.kill(other, 'SIGKILL')
      await until(() => hasLogged(gateway, /^a worker cannot start/), LONG)
      const line = gateway.logs.find(({ msg }) => msg === 'a worker cannot start')
      assert.match(String(line?.['reason']), /BINDINGS_FILE names a file that cannot be read/)
      const figures = await connection.figures()
      assert.equal(figures['workers'], 1)
      assert.equal(figures['bindings_stale'], 1)
      await writeFile(file, bindings)
      await replaced(gateway, other)
      await until(async () => (await connection.get('/ready')).status === 200, LONG)
    }),
  )

  test(
    'are started again later and later while they do not last',
    lastFirst(async t => {
      const stack = await startStack(t, { env: TWO })
      const { gateway } = stack
      const [stays, first] = workersOf(gateway)
      const ends = () =>
        gateway.logs.filter(({ msg }) => msg === 'a worker ended and is started again')
      let victim = first
      for (let n = 1; n <= 3; n += 1) {
        process.kill(victim, 'SIGKILL')
        await until(() => ends().length === n && gateway.servers().length === 2, LONG)
        victim = workersOf(gateway).find(pid => pid !== stays) ?? first
      }
      const delays = ends().map(({ milliseconds }) => Number(milliseconds))
      for (const [index, delay] of delays.entries()) {
        const longest = 100 * 2 ** index
        assert.ok(delay >= longest / 2 && delay <= longest, `${index}: ${delay}`)
      }
      assert.equal(await stack.metric('worker_restarts'), 3)
    }),
  )
})

describe('workers that cannot start', { concurrency: 2 }, () => {
  test('end the service with 1, and one clear line', async t => {
    const port = await freePort()
    const directory = await temporaryDirectory({ after: end => t.after(end) })
    const { code, errors, output } = await run(
      { after: end => t.after(end) },
      {
        ...PUBLISHED,
        WORKERS: '3',
        PORT: '0',
        AUDIT_REPLAY_DIR: directory,
        REDIS_URL: `redis://127.0.0.1:${port}`,
      },
    )
    assert.equal(code, 1)
    assert.match(errors, /^the gateway cannot start: .*Redis.*\n$/)
    assert.doesNotMatch(output, /started again/)
  })

  test('cannot start on a port that is taken either, and say so once', async t => {
    const cleanup: Cleanup = { after: end => t.after(end) }
    const redis = await startRedis(cleanup)
    const { code, errors } = await run(cleanup, {
      ...PUBLISHED,
      WORKERS: '2',
      PORT: new URL(redis.url).port,
      HOST: '127.0.0.1',
      AUDIT_REPLAY_DIR: await temporaryDirectory(cleanup),
      REDIS_URL: redis.url,
    })
    assert.equal(code, 1)
    assert.match(errors, /^the gateway cannot start: HOST and PORT: .*EADDRINUSE.*\n$/)
  })

  test('are not even tried with a configuration that cannot be used', async t => {
    const { code, errors, output } = await run(
      { after: end => t.after(end) },
      { CARACAL_MODE: 'dev', STS_URL: 'http://127.0.0.1:9', WORKERS: '2' },
    )
    assert.equal(code, 1)
    assert.equal(
      errors,
      'the configuration cannot be used:\n  WORKERS needs REDIS_URL, or each worker would take a mandate once; set that, or unset this\n',
    )
    assert.equal(output, '')
  })
})

test('workers share the port that the system chooses, and keep it when none is left', async t => {
  const ends: (() => Promise<void>)[] = []
  t.after(async () => {
    for (const end of ends.toReversed()) await end()
  })
  const cleanup: Cleanup = { after: end => void ends.push(end) }
  const redis = await startRedis(cleanup)
  const child = spawn(process.execPath, [SERVER], {
    env: {
      PATH: process.env['PATH'] ?? '',
      ...PUBLISHED,
      WORKERS: '2',
      PORT: '0',
      HOST: '127.0.0.1',
      AUDIT_REPLAY_DIR: await temporaryDirectory(cleanup),
      REDIS_URL: redis.url,
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  cleanup.after(async () => {
    const gone = once(child, 'close')
    child.kill('SIGTERM')
    await gone
  })
  const lines: Record<string, unknown>[] = []
  createInterface({ input: child.stdout }).on('line', line => lines.push(JSON.parse(line)))
  const listening = () => lines.find(({ msg }) => String(msg).startsWith('Server listening at'))
  await until(() => listening() !== undefined, LONG)
  const url = String(listening()?.['msg']).replace('Server listening at ', '')
  const health = () => call(url, '/health', { resource: null }).then(({ status }) => status)
  for (let n = 0; n < 4; n += 1) assert.equal(await health(), 200)
  const workers = Object.values(Object(listening()?.['workers'])).map(Number)
  assert.equal(workers.length, 2)
  for (const pid of workers) process.kill(pid, 'SIGKILL')
  const replacements = () => lines.filter(({ msg }) => msg === 'a worker was replaced')
  await until(() => replacements().length === 2, LONG)
  for (let n = 0; n < 4; n += 1) assert.equal(await health(), 200)
})
