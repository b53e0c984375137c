// Holds the log to lines of JSON, one for each denial and each error, that tell who, what and how long, and no secret.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { before, describe, test } from 'node:test'
import { until } from '../until.ts'
import {
  ALONE,
  type Answer,
  call,
  type CallOptions,
  type LogLine,
  RESOURCE,
  type Stack,
  startGateway,
  startStack,
  Wire,
  ZONE,
} from './harness.ts'
import { suiteCleanup } from './support.ts'

const DENIED = 'request denied'

async function linesOf(logs: readonly LogLine[], id: string): Promise<LogLine[]> {
  await until(() => logs.some(({ reqId }) => reqId === id))
  return logs.filter(({ reqId }) => reqId === id)
}

describe('the gateway logs', { concurrency: 1 }, () => {
  const suite = suiteCleanup()
  const tokens: string[] = []
  let stack: Stack

  before(async () => {
    stack = await startStack(suite, { env: { LOG_LEVEL: 'trace', UPSTREAM_TIMEOUT: '500ms' } })
    stack.direct({ auth_mode: 'provider_oauth', provider_token: 'canary-provider-token' })
  })

  const mint = (claims = {}) => {
    const token = stack.mint(claims)
    tokens.push(token)
    return token
  }

  async function ask(options: CallOptions = {}): Promise<{ answer: Answer; lines: LogLine[] }> {
    const id = randomUUID()
    const answer = await call(stack.gateway.url, '/v1/pay?card=canary-query', {
      method: 'POST',
      body: 'canary-body',
      token: mint(),
      ...options,
      headers: { cookie: 'canary-cookie', 'x-request-id': id, ...options.headers },
    })
    return { answer, lines: await linesOf(stack.gateway.logs, id) }
  }

  function assertDenial(lines: readonly LogLine[], members: Record<string, unknown>): void {
    const denials = lines.filter(({ msg }) => msg === DENIED)
    assert.equal(denials.length, 1)
    const { ms, ...line } = denials[0] ?? {}
    assert.ok(Number.isInteger(ms) && Number(ms) >= 0 && Number(ms) < 60_000)
    assert.equal(typeof line['time'], 'number')
    for (const [name, value] of Object.entries(members)) assert.deepEqual(line[name], value, name)
  }

  test('one line for a denial, with what was verified of it', async () => {
    const { lines } = await ask({ token: mint({ target: ['resource://other'] }) })
    assertDenial(lines, {
      level: 30,
      check: 'mandate_target',
      status: 403,
      error: 'access_denied',
      dispatched: 'no',
      zone: ZONE,
      client: 'dev-client',
      resource: RESOURCE,
      method: 'POST',
    })
  })

  test('nothing that is not verified yet as if it were', async () => {
    const { lines } = await ask({ token: `${mint().slice(0, -8)}AAAAAAAA` })
    assertDenial(lines, { check: 'invalid_signature', zone: undefined, client: undefined })
  })

  test('a warning for what is not the caller’s fault, with the reason', async () => {
    stack.upstream.handler = () => undefined
    const late = await ask()
    assertDenial(late.lines, {
      level: 40,
      check: 'upstream_timeout',
      status: 504,
      dispatched: 'unknown',
      zone: ZONE,
      resource: RESOURCE,
    })
    stack.upstream.handler = request => request.socket.destroy()
    const gone = await ask()
    assertDenial(gone.lines, { level: 40, check: 'upstream_unreachable', dispatched: 'unknown' })
    const denial = gone.lines.find(({ msg }) => msg === DENIED)
    const stages = Object.entries(Object(denial?.['stages']))
    assert.deepEqual(
      stages.map(([stage, ms]) => [stage, typeof ms]),
      ['verify', 'replay', 'exchange', 'upstream'].map(stage => [stage, 'number']),
    )
    assert.match(JSON.stringify(denial?.['reason']), /"message":"[^"]+"/)
  })

  test('one line for an answer that broke off', async () => {
    stack.upstream.handler = (_request, response) => {
      response.writeHead(200, { 'content-length': '100' }).write('canary-answer')
      setTimeout(() => response.destroy(), 50)
    }
    const id = randomUUID()
    const broken = stack.call('/v1/pay?canary-query', { headers: { 'x-request-id': id } })
    await assert.rejects(broken)
    const lines = (await linesOf(stack.gateway.logs, id)).filter(({ level }) => level !== 20)
    assert.equal(lines.length, 1)
    const [line = {}] = lines
    assert.equal(line['msg'], 'answer broken off')
    assert.equal(line['level'], 40)
    assert.equal(line['status'], 200)
    assert.equal(line['bytes'], 'canary-answer'.length)
    assert.deepEqual(
      [line['zone'], line['client'], line['resource']],
      [ZONE, 'dev-client', RESOURCE],
    )
    assert.match(JSON.stringify(line['reason']), /other side closed|aborted|ECONNRESET/)
  })

  test('a request that went well at `debug` alone', async () => {
    stack.upstream.handler = (_request, response) => response.end('canary-answer')
    const { lines } = await ask()
    assert.deepEqual(
      lines.map(({ level, msg }) => [level, msg]),
      [[20, 'request']],
    )
  })

  test('no line that a caller wrote', async () => {
    const forged = '{"level":60,"msg":"forged"}'
    const headers = { 'x-request-id': forged }
    await call(stack.gateway.url, '/', { resource: forged, headers, token: mint() })
    assertDenial(await linesOf(stack.gateway.logs, forged), { resource: forged })
    const wire = new Wire(stack.gateway.port)
    const id = randomUUID()
    // What no client sends: bare line ends, and the line separators of other alphabets.
    wire.send(
      `GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: ${id}\r\nX-Caracal-Resource: a\x0b\x85\xe2\x80\xa8${forged}\r\n\r\n`,
    )
    await wire.receives(/^HTTP\/1\.1 4/)
    wire.close()
    const bare = new Wire(stack.gateway.port)
    bare.send(`GET / HTTP/1.1\r\nHost: x\r\nX-Caracal-Resource: a\r${forged}\r\n\r\n`)
    bare.send(`GET / HTTP/1.1\r\nHost: x\r\nX-Caracal-Resource: a\n${forged}\r\n\r\n`)
    await bare.ended()
    for (const line of stack.gateway.logs) {
      assert.notEqual(line['msg'], 'forged')
      assert.notEqual(line['level'], 60)
    }
  })

  test('a token sent in the wrong place without the token', async () => {
    for (const place of ['x-request-id', 'x-caracal-resource']) {
      const token = mint()
      const id = place === 'x-request-id' ? token.slice(0, 100) : randomUUID()
      const resource = place === 'x-caracal-resource' ? token : RESOURCE
      await call(stack.gateway.url, `/${token}`, {
        token: mint({ use: 'session' }),
        resource,
        headers: { 'x-request-id': id },
      })
    }
  })

  test('every line as JSON, under load, and no secret in any', async () => {
    const work = Array.from({ length: 12 }, async (_, worker) => {
      for (let n = 0; n < 15; n++) {
        const kinds: CallOptions[] = [
          {},
          { token: null },
          { token: 'canary-token' },
          { resource: null },
          { token: mint({ zone_id: 'unknown' }) },
          { headers: { 'x-caracal-client-id': 'canary-id' } },
        ]
        await ask({ ...kinds[(worker + n) % kinds.length] })
      }
    })
    await Promise.all(work)
    const { logs } = stack.gateway
    assert.ok(logs.length > 180)
    for (const line of logs) {
      assert.equal(typeof line['level'], 'number', JSON.stringify(line))
      assert.equal(typeof line['time'], 'number')
      assert.equal(typeof line['msg'], 'string')
      if (line['msg'] !== DENIED) continue
      assert.equal(typeof line['check'], 'string')
      assert.equal(typeof line['status'], 'number')
      assert.match(String(line['reqId']), /./)
    }
    const output = stack.gateway.output()
    assert.doesNotMatch(output, /canary/)
    assert.ok(tokens.length > 50)
    for (const token of tokens) {
      for (const part of token.split('.')) assert.equal(output.includes(part), false)
    }
  })

  test('at LOG_LEVEL and above, and nothing at `silent`', async t => {
    const outcomes = [
      { level: 'info', denials: 1, last: 'stopped' },
      { level: 'warn', denials: 0, last: undefined },
      { level: 'silent', denials: 0, last: undefined },
    ]
    await Promise.all(
      outcomes.map(async ({ level, denials, last }) => {
        const gateway = await startGateway(t, { ...stack.env, LOG_LEVEL: level })
        await call(gateway.url, '/', { token: null })
        assert.equal((await call(gateway.url, '/', { token: mint() })).status, 200)
        assert.equal(await gateway.stop(), 0)
        const messages = gateway.logs.map(({ msg }) => msg)
        assert.equal(messages.filter(msg => msg === DENIED).length, denials, level)
        assert.equal(messages.includes('request'), false)
        assert.equal(messages.at(-1), last)
        if (level === 'silent') assert.equal(gateway.output(), '')
      }),
    )
  })
})

test('the gateway serves on, and stops in time, whatever becomes of who reads its log', async t => {
  const stack = await startStack(t, { env: ALONE })
  const { stdout } = stack.gateway.child
  assert.ok(stdout !== null)
  const denied = async (count: number) => {
    const resource = 'x'.repeat(2_000)
    const ask = () => call(stack.gateway.url, '/', { resource, token: stack.mint() })
    for (let n = 0; n < count; n += 20) {
      const answers = await Promise.all(Array.from({ length: 20 }, ask))
      for (const { status } of answers) assert.equal(status, 403)
    }
  }
  stdout.pause()
  // More than may wait for it.
  await denied(700)
  assert.ok((await stack.metric('log_lines_dropped')) > 0)
  const startedAt = performance.now()
  assert.equal((await call(stack.gateway.url, '/health', { resource: null })).status, 200)
  assert.ok(performance.now() - startedAt < 1_000)
  stdout.destroy()
  await denied(40)
  assert.equal((await stack.call()).status, 200)
  const stoppedAt = performance.now()
  assert.equal(await stack.gateway.stop(), 0)
  assert.ok(performance.now() - stoppedAt < 5_000)
})
