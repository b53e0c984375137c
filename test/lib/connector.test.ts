// Holds the connector to what undici does, and to one thing less: no connection for a request that was aborted.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { type TestContext, test } from 'node:test'
import { Pool } from 'undici'
import { connector } from '../../lib/connector.ts'
import { listen } from '../gateway/harness.ts'
import { stalled, until } from '../until.ts'

async function start(t: TestContext) {
  const seen = { connections: 0, open: 0, requests: 0 }
  const server = createServer((request, response) => {
    seen.requests += 1
    if (request.url === '/quick') response.end('ok')
    else if (request.url === '/body') response.writeHead(200).flushHeaders()
  })
  server.on('connection', socket => {
    seen.connections += 1
    seen.open += 1
    socket.on('close', () => {
      seen.open -= 1
    })
  })
  t.after(() => server.close().closeAllConnections())
  const pool = new Pool(`http://127.0.0.1:${await listen(server)}`, {
    pipelining: 1,
    connect: connector({ timeout: 1_000 }),
  })
  t.after(() => pool.destroy())
  return { pool, seen }
}

for (const [title, path] of [
  ['in its answer', '/body'],
  ['while it waits for an answer', '/never'],
] as const) {
  test(`a request that is aborted ${title} closes its connection and opens no other`, async t => {
    const { pool, seen } = await start(t)
    const abort = new AbortController()
    const reason = new Error('no longer wanted')
    const answered = pool.request({ path, method: 'GET', signal: abort.signal })
    const failed = assert.rejects(
      answered.then(({ body }) => body.text()),
      reason,
    )
    await until(() => seen.requests === 1)
    if (path === '/body') await answered
    abort.abort(reason)
    await failed
    await until(() => seen.open === 0)
    await stalled(() => seen.connections)
    assert.equal(seen.connections, 1)
    const next = await pool.request({ path: '/quick', method: 'GET' })
    assert.equal(await next.body.text(), 'ok')
    assert.deepEqual(seen, { connections: 2, open: 1, requests: 2 })
  })
}

test('a connection that nobody aborts is used again', async t => {
  const { pool, seen } = await start(t)
  for (let i = 0; i < 3; i += 1) {
    const { body } = await pool.request({ path: '/quick', method: 'GET' })
    assert.equal(await body.text(), 'ok')
    await new Promise(setImmediate)
  }
  assert.deepEqual(seen, { connections: 1, open: 1, requests: 3 })
})
