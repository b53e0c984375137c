// A gateway that is told to stop finishes what it can, and leaves evidence of all that it let through.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Client } from 'undici'
import { createCertificate } from '../certificate.ts'
import { lastFirst } from '../cleanup.ts'
import { until } from '../until.ts'
import {
  call,
  type Gateway,
  head,
  listen,
  RESOURCE,
  type Stack,
  startGateway,
  startStack,
  Wire,
} from './harness.ts'
import { filesIn, hasLogged, temporaryDirectory } from './support.ts'

const SERVER = fileURLToPath(new URL('../../dist/server.js', import.meta.url))

interface Stopped {
  readonly code: number | null
  readonly milliseconds: number
}

async function stop({ child }: Gateway, signal: NodeJS.Signals = 'SIGTERM'): Promise<Stopped> {
  const startedAt = performance.now()
  const ended = once(child, 'exit')
  child.kill(signal)
  const [code] = await ended
  return { code, milliseconds: performance.now() - startedAt }
}

/** A request whose answer is the test's to give, once it has arrived. */
function held({ upstream }: Stack): Promise<() => void> {
  return new Promise(arrived => {
    upstream.handler = (_request, response) => arrived(() => response.end('late'))
  })
}

/** What became of a request; an event that came twice counts once. */
async function statusOf(stack: Stack, id: string): Promise<string[]> {
  const events = new Map((await stack.eventsOf(id)).map(event => [event.id, event]))
  return [...events.values()].map(event => event.evaluation_status)
}

describe('told to stop, the gateway', { concurrency: 3 }, () => {
  test('ends what is still under way in time, leaves its evidence, and exits with 0', async t => {
    const stack = await startStack(t, { env: { SHUTDOWN_TIMEOUT: '10s' } })
    stack.upstream.handler = (_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: one\n\n')
    }
    const wire = new Wire(stack.gateway.port)
    wire.send(`${head('GET /events', stack.mint(), 'X-Request-Id: stream-1')}\r\n`)
    await wire.receives(/data: one/)
    const arrived = held(stack)
    const headers = { 'x-request-id': 'never-1' }
    const answered = stack.call('/never', { method: 'POST', headers })
    await arrived
    const { code, milliseconds } = await stop(stack.gateway)
    assert.equal(code, 0)
    // Not before three quarters of the time were over.
    assert.ok(milliseconds >= 7_490 && milliseconds < 11_000, String(milliseconds))
    await wire.ended()
    const [event, ...more] = await stack.eventsOf('stream-1')
    assert.equal(event?.evaluation_status, 'upstream_error')
    assert.equal(event.metadata_json['error_kind'], 'response_copy_failed')
    assert.deepEqual(more, [])
    // Who has no answer yet is told that its request may have been executed.
    const refusal = await answered
    assert.equal(refusal.status, 504)
    assert.equal(refusal.json()['error_description'], 'upstream timeout')
    assert.equal(refusal.json()['dispatched'], 'unknown')
    assert.equal(refusal.headers['x-should-retry'], 'false')
    assert.equal(refusal.headers['connection'], 'close')
    assert.deepEqual(await statusOf(stack, 'never-1'), ['upstream_error'])
  })

  test('loses no request with TLS either, and waits for no handshake', async t => {
    const directory = await temporaryDirectory(t)
    const { cert, key } = createCertificate(['127.0.0.1'])
    await writeFile(`${directory}/cert.pem`, cert)
    await writeFile(`${directory}/key.pem`, key)
    const stack = await startStack(t, {
      env: {
        TLS_CERT_FILE: `${directory}/cert.pem`,
        TLS_KEY_FILE: `${directory}/key.pem`,
        SHUTDOWN_TIMEOUT: '10s',
        READ_HEADER_TIMEOUT: '30s',
      },
    })
    const client = new Client(stack.gateway.url, { connect: { rejectUnauthorized: false } })
    t.after(() => client.destroy())
    const health = async () => {
      const { statusCode, headers, body } = await client.request({ method: 'GET', path: '/health' })
      await body.dump()
      return [statusCode, headers['connection']]
    }
    assert.deepEqual(await health(), [200, 'keep-alive'])
    const silent = new Wire(stack.gateway.port)
    await until(() => silent.socket.readyState === 'open')
    const stopped = stop(stack.gateway)
    await pause(300)
    assert.deepEqual(await health(), [200, 'close'])
    const { code, milliseconds } = await stopped
    assert.equal(code, 0)
    assert.ok(milliseconds < 11_000, String(milliseconds))
    await silent.ended()
  })

  test('answers what is under way, and says that it is the last answer', async t => {
    const stack = await startStack(t)
    const arrived = held(stack)
    const wire = new Wire(stack.gateway.port)
    wire.send(`${head('GET /late', stack.mint(), 'X-Request-Id: late-1')}\r\n`)
    const answer = await arrived
    const stopped = stop(stack.gateway, 'SIGINT')
    await until(() => hasLogged(stack.gateway, /draining/))
    answer()
    await wire.receives(/late/)
    assert.match(wire.text, /^HTTP\/1\.1 200 /)
    assert.match(wire.text, /\r\nconnection: close\r\n/i)
    await wire.ended()
    assert.equal((await stopped).code, 0)
    assert.deepEqual(await statusOf(stack, 'late-1'), ['executed'])
  })

  test('loses no request of a connection that is in use, and executes none unanswered', async t => {
    const stack = await startStack(t)
    const clients = Array.from({ length: 60 }, () => new Client(stack.gateway.url))
    t.after(async () => void (await Promise.all(clients.map(client => client.destroy()))))
    const ask = (client: Client, id: string) =>
      client.request({
        method: 'POST',
        path: '/kept',
        headers: {
          authorization: `Bearer ${stack.mint()}`,
          'x-caracal-resource': RESOURCE,
          'x-request-id': id,
        },
      })
    for (const [index, client] of clients.entries()) {
      await (await ask(client, `before-${index}`)).body.dump()
    }
    const stopped = stop(stack.gateway)
    // All through the time in which idle connections would be closed at once, and that in which they may be used.
    const answers = await Promise.all(
      clients.map(async (client, index) => {
        await pause(index * 12)
        const { statusCode, headers, body } = await ask(client, `after-${index}`)
        await body.dump()
        return { statusCode, connection: headers['connection'] }
      }),
    )
    for (const answer of answers) assert.deepEqual(answer, { statusCode: 200, connection: 'close' })
    assert.equal((await stopped).code, 0)
    assert.equal(stack.upstream.arrivals.length, 120)
    const executed = (await stack.events()).filter(event => event.evaluation_status === 'executed')
    assert.equal(new Set(executed.map(event => event.request_id)).size, 120)
  })

  test('answers what comes on a connection whose answer had begun before', async t => {
    const stack = await startStack(t)
    const { upstream, gateway } = stack
    let finish = () => {}
    upstream.handler = (_request, response) => {
      response.writeHead(200, { 'content-length': '8' }).write('half')
      finish = () => response.end('rest')
    }
    const wire = new Wire(gateway.port)
    wire.send(`${head('GET /long', stack.mint())}\r\n`)
    await wire.receives(/half/)
    assert.match(wire.text, /connection: keep-alive/i)
    const stopped = stop(gateway)
    await until(() => hasLogged(gateway, /draining/))
    // Longer than an idle connection is left open.
    await pause(1_500)
    finish()
    await wire.receives(/rest/)
    upstream.handler = (_request, response) => response.end('again')
    await pause(300)
    wire.send(`${head('GET /again', stack.mint())}\r\n`)
    await wire.receives(/again/)
    assert.match(wire.text, /connection: close/i)
    assert.equal((await stopped).code, 0)
  })

  test('answers what was pipelined before, and executes nothing behind a last answer', async t => {
    const stack = await startStack(t, { env: { SHUTDOWN_DELAY: '500ms' } })
    const { upstream, gateway } = stack
    const answers: (() => void)[] = []
    upstream.handler = (_request, response) => void answers.push(() => response.end('late'))
    const request = () => `${head('POST /piped', stack.mint(), 'Content-Length: 0')}\r\n`
    const before = new Wire(gateway.port)
    before.send(request() + request())
    await until(() => answers.length === 2)
    const stopped = stop(gateway)
    await until(() => hasLogged(gateway, /draining/))
    for (const answer of answers.splice(0)) answer()
    const text = await before.ended()
    assert.equal(text.match(/HTTP\/1\.1 200 /g)?.length, 2)
    const during = new Wire(gateway.port)
    during.send(request() + request())
    await until(() => answers.length === 1)
    for (const answer of answers.splice(0)) answer()
    assert.equal((await during.ended()).match(/HTTP\/1\.1 200 /g)?.length, 1)
    assert.equal((await stopped).code, 0)
    assert.equal(upstream.arrivals.length, 3)
  })

  test('ends a connection that nobody uses, after a moment, and takes no new ones', async t => {
    const stack = await startStack(t)
    const wire = new Wire(stack.gateway.port)
    wire.send('GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await wire.receives(/"ok":true/)
    const silent = new Wire(stack.gateway.port)
    const stopped = stop(stack.gateway)
    await until(async () => {
      const fresh = call(stack.gateway.url, '/health', { resource: null })
      return fresh.then(
        () => false,
        error => error.code === 'ECONNREFUSED',
      )
    })
    assert.equal(wire.closed, false)
    await Promise.all([wire.ended(), silent.ended()])
    const { code, milliseconds } = await stopped
    assert.equal(code, 0)
    assert.ok(milliseconds >= 990 && milliseconds < 5_000, String(milliseconds))
  })

  test('serves on until SHUTDOWN_DELAY is over', async t => {
    const stack = await startStack(t, { env: { SHUTDOWN_DELAY: '700ms' } })
    const stopped = stop(stack.gateway)
    await until(() => hasLogged(stack.gateway, /draining/))
    const ready = await call(stack.gateway.url, '/ready', { resource: null })
    assert.equal(ready.status, 503)
    assert.deepEqual(ready.json(), { ok: false, ready: false, reason: 'draining' })
    const alive = await call(stack.gateway.url, '/health', { resource: null })
    assert.equal(alive.status, 200)
    const served = await stack.call()
    assert.equal(served.status, 200)
    assert.equal(served.headers['connection'], 'close')
    const { code, milliseconds } = await stopped
    assert.equal(code, 0)
    assert.ok(milliseconds >= 690, String(milliseconds))
  })

  for (const [what, trouble] of [
    ['is away', (stack: Stack) => stack.redis.stop()],
    ['hangs', async (stack: Stack) => stack.redis.pause()],
  ] as const) {
    test(
      `keeps its evidence on disk when Redis ${what}, and exits with 0 in time`,
      lastFirst(async t => {
        const directory = await temporaryDirectory(t)
        const env = { AUDIT_REPLAY_DIR: directory, SHUTDOWN_TIMEOUT: '5s' }
        const stack = await startStack(t, { env, redis: { durable: true } })
        t.after(async () => stack.redis.resume())
        const arrived = held(stack)
        const answered = stack.call('/kept', { headers: { 'x-request-id': 'kept-1' } })
        const answer = await arrived
        await trouble(stack)
        const stopped = stop(stack.gateway)
        answer()
        assert.equal((await answered).status, 200)
        const { code, milliseconds } = await stopped
        assert.equal(code, 0)
        assert.ok(milliseconds < 7_000, String(milliseconds))
        const kept = [...filesIn(directory)].filter(([, text]) => text.includes('kept-1'))
        assert.ok(kept.length > 0)
        if (what === 'is away') await stack.redis.restart()
        else stack.redis.resume()
        const next = await startGateway(t, stack.env)
        assert.deepEqual(await statusOf(stack, 'kept-1'), ['executed'])
        assert.equal(await next.stop(), 0)
      }),
    )
  }

  test(
    'goes at once, with 1, when it is told again, and its next start tells the rest',
    lastFirst(async t => {
      const directory = await temporaryDirectory(t)
      const stack = await startStack(t, { env: { AUDIT_REPLAY_DIR: directory } })
      const arrived = held(stack)
      const wire = new Wire(stack.gateway.port)
      wire.send(`${head('GET /late', stack.mint(), 'X-Request-Id: cut-1')}\r\n`)
      await arrived
      stack.gateway.child.kill('SIGTERM')
      await until(() => hasLogged(stack.gateway, /draining/))
      const { code, milliseconds } = await stop(stack.gateway)
      assert.equal(code, 1)
      assert.ok(milliseconds < 2_000, String(milliseconds))
      await wire.ended()
      await until(() => hasLogged(stack.gateway, /second SIGTERM/))
      await startGateway(t, stack.env)
      assert.deepEqual(await statusOf(stack, 'cut-1'), ['interrupted'])
    }),
  )
})

test('the gateway stops after an unexpected error, with 1, a last line, and its evidence', async t => {
  const preload = new URL('./unexpected-error.ts', import.meta.url).href
  const stack = await startStack(t, { env: { NODE_OPTIONS: `--import=${preload}` } })
  const arrived = held(stack)
  const answered = stack.call('/late', { headers: { 'x-request-id': 'error-1' } })
  const answer = await arrived
  const stopped = stop(stack.gateway, 'SIGUSR2')
  await until(() => hasLogged(stack.gateway, /unexpected error/))
  answer()
  assert.equal((await answered).status, 200)
  assert.equal((await stopped).code, 1)
  const [line] = stack.gateway.logs.filter(({ level }) => level === 60)
  assert.equal(line?.['msg'], 'stopping after an unexpected error')
  assert.match(JSON.stringify(line['err']), /"type":"RangeError".*what nobody had thought of/)
  assert.deepEqual(await statusOf(stack, 'error-1'), ['executed'])
})

test('the gateway goes at once, with 0, when it is told to stop before it has started', async t => {
  const redis = createServer(socket => socket.on('error', () => undefined))
  const port = await listen(redis)
  t.after(() => void redis.close())
  const key = 'ab'.repeat(32)
  const child = spawn(process.execPath, [SERVER], {
    env: {
      PATH: process.env['PATH'] ?? '',
      STS_URL: 'http://127.0.0.1:9',
      REDIS_URL: `redis://127.0.0.1:${port}`,
      GATEWAY_STS_HMAC_KEY: key,
      STREAMS_HMAC_KEY: key,
      AUDIT_HMAC_KEY: key,
    },
    stdio: 'ignore',
  })
  t.after(() => void child.kill('SIGKILL'))
  const ended = once(child, 'exit')
  await once(redis, 'connection')
  child.kill('SIGTERM')
  assert.deepEqual(await ended, [0, null])
})
