// A gateway that is asked for more than it can do says no at once, before any work, and recovers by itself.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test, type TestContext } from 'node:test'
import { until } from '../until.ts'
import { call, head, type Stack, startStack, Wire } from './harness.ts'

/** A gateway with room for two, and both places taken. */
async function fullStack(t: TestContext) {
  const stack = await startStack(t, { env: { MAX_IN_FLIGHT: '2' } })
  const held: (() => void)[] = []
  const { handler } = stack.upstream
  stack.upstream.handler = (_request, response) => void held.push(() => response.end('late'))
  const slow = [stack.call(), stack.call()]
  await until(() => held.length === 2, 30_000)
  return {
    stack,
    release: async () => {
      stack.upstream.handler = handler
      for (const answer of held) answer()
      for (const { text } of await Promise.all(slow)) assert.equal(text, 'late')
    },
  }
}

async function untouched(stack: Stack): Promise<void> {
  assert.equal(stack.upstream.arrivals.length, 2)
  assert.equal(stack.sts.exchanges.length, 2)
}

test('the gateway says no to what it has no room for, whole and before any work', async t => {
  const { stack, release } = await fullStack(t)
  const token = stack.mint({ jti: randomUUID() })
  for (const method of ['GET', 'POST', 'HEAD']) {
    const refused = await stack.call('/v1/invoices?q=1', {
      method,
      token,
      headers: { 'x-request-id': `refused-${method}` },
      ...(method === 'POST' && { body: 'x'.repeat(100_000) }),
    })
    assert.equal(refused.status, 503)
    assert.equal(refused.headers['content-type'], 'application/json')
    assert.equal(refused.headers['cache-control'], 'no-store')
    assert.equal(refused.headers['retry-after'], '1')
    assert.equal(refused.headers['x-should-retry'], 'true')
    assert.equal(refused.headers['x-caracal-dispatched'], 'no')
    assert.equal(refused.requestId, `refused-${method}`)
    if (method === 'HEAD') assert.equal(refused.text, '')
    else {
      assert.deepEqual(refused.json(), {
        error: 'overloaded',
        error_description: 'gateway overloaded',
        requestId: `refused-${method}`,
        dispatched: 'no',
      })
    }
  }
  await untouched(stack)
  assert.equal(await stack.metric('requests'), 5)
  assert.equal(await stack.metric('requests_denied'), 3)
  const metrics = await call(stack.gateway.url, '/metrics', {
    token: 'metrics-bearer',
    resource: null,
  })
  assert.match(metrics.text, /denials_total\{check="overloaded"\} 3\n/)
  const told = () => stack.gateway.logs.filter(({ check }) => check === 'overloaded')
  const count = () => told().reduce((sum, line) => sum + Number(line['count']), 0)
  await until(() => count() === 3, 30_000)
  assert.equal(told()[0]?.['cause'], 'requests in flight')
  await release()
  // Its mandate was not spent.
  assert.equal((await stack.call('/v1/invoices', { token })).status, 200)
  assert.deepEqual(
    (await stack.events()).filter(event => event.request_id.startsWith('refused-')),
    [],
  )
})

test('the gateway answers for itself while it has no room, whatever form the target has', async t => {
  const { stack, release } = await fullStack(t)
  const { url, port } = stack.gateway
  for (const [path, status] of [
    ['/health', 200],
    ['/health?probe=1', 200],
    ['/%68ealth', 200],
    ['/ready', 200],
    ['/metrics', 401],
    ['/metrics.json', 401],
    ['/health/', 503],
    ['/v1/%68ealth', 503],
  ] as const) {
    assert.equal((await call(url, path, { resource: null })).status, status, path)
  }
  const reload = { method: 'POST', resource: null }
  assert.equal((await call(url, '/internal/revocations/reload', reload)).status, 404)
  const absolute = new Wire(port)
  absolute.send('GET http://gateway.test/health HTTP/1.1\r\nHost: gateway.test\r\n\r\n')
  await absolute.receives(/^HTTP\/1\.1 200 /)
  absolute.close()
  await untouched(stack)
  await release()
})

test('the gateway keeps the connection of a caller that it says no to', async t => {
  const { stack, release } = await fullStack(t)
  const wire = new Wire(stack.gateway.port)
  const body = 'x'.repeat(200_000)
  wire.send(`${head('POST /a', stack.mint(), `Content-Length: ${body.length}`)}\r\n`)
  await wire.receives(/^HTTP\/1\.1 503 /)
  // Whoever has an answer already may still send the rest of the body.
  wire.send(body)
  wire.send(`${head('GET /b', stack.mint())}\r\n${head('GET /c', stack.mint())}\r\n`)
  await until(() => wire.text.match(/HTTP\/1\.1 503 /g)?.length === 3, 30_000)
  const waiting = new Wire(stack.gateway.port)
  waiting.send(`${head('POST /d', stack.mint(), 'Content-Length: 1', 'Expect: 100-continue')}\r\n`)
  const refused = await waiting.ended()
  assert.match(refused, /^HTTP\/1\.1 503 /)
  assert.match(refused, /connection: close/i)
  await release()
  wire.send(`${head('GET /e', stack.mint())}\r\n`)
  await wire.receives(/HTTP\/1\.1 200 /, 30_000)
  wire.close()
  assert.deepEqual(
    stack.upstream.arrivals.map(({ url }) => url),
    ['/v1/invoices', '/v1/invoices', '/e'],
  )
})

test('the gateway does not count a stream that is open', async t => {
  const stack = await startStack(t, { env: { MAX_IN_FLIGHT: '2' } })
  stack.upstream.handler = ({ url }, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: one\n\n')
    if (url !== '/stream') response.end()
  }
  const streams = Array.from({ length: 5 }, () => new Wire(stack.gateway.port))
  for (const stream of streams) {
    stream.send(`${head('GET /stream', stack.mint())}\r\n`)
    await stream.receives(/data: one/)
  }
  assert.equal((await stack.call()).status, 200)
  assert.equal(await stack.metric('requests_in_flight'), 0)
  assert.equal(await stack.metric('streams_open'), 5)
  for (const stream of streams) stream.close()
})

test('the gateway says no while its event loop is late, and yes when it no longer is', async t => {
  const stack = await startStack(t, { env: { MAX_EVENT_LOOP_DELAY: '20ms' } })
  const { signal, url } = stack.gateway
  const stalls = setInterval(() => {
    signal('SIGSTOP')
    setTimeout(() => signal('SIGCONT'), 100)
  }, 110)
  try {
    await until(async () => (await call(url, '/x', { resource: null })).status === 503, 30_000)
  } finally {
    clearInterval(stalls)
  }
  await until(async () => (await stack.call()).status === 200, 30_000)
})
