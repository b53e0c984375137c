// The echo upstream tells exactly what reached it.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { type TestContext, test } from 'node:test'
import { createEcho } from '../../dev/echo.ts'

async function startEcho(
  t: TestContext,
  onRequest?: (request: IncomingMessage) => void,
): Promise<{ url: string; port: number }> {
  const echo = createEcho(onRequest ? { onRequest } : {})
  echo.listen(0, '127.0.0.1')
  await once(echo, 'listening')
  t.after(() => {
    echo.close()
    echo.closeAllConnections()
  })
  const address = echo.address()
  assert.ok(address !== null && typeof address === 'object')
  return { url: `http://127.0.0.1:${address.port}`, port: address.port }
}

test('the echo upstream answers method, target, headers and body', async t => {
  const { url } = await startEcho(t)
  const answer = await fetch(`${url}/a%2Fb?c=d`, {
    method: 'PATCH',
    headers: { 'x-one': '1' },
    body: 'grüße',
  })
  const echoed = JSON.parse(await answer.text())
  assert.equal(answer.status, 200)
  assert.equal(echoed['method'], 'PATCH')
  assert.equal(echoed['url'], '/a%2Fb?c=d')
  assert.equal(echoed['headers']['x-one'], '1')
  assert.equal(echoed['body'], 'grüße')
  assert.equal(echoed['body_bytes'], 7)
})

test('the echo upstream takes a long body whole and gives back 64 KiB of it', async t => {
  const { url } = await startEcho(t)
  const answer = await fetch(url, { method: 'POST', body: 'x'.repeat(1_000_000) })
  const echoed = JSON.parse(await answer.text())
  assert.equal(echoed['body'].length, 64 * 1024)
  assert.equal(echoed['body_bytes'], 1_000_000)
})

test('the echo upstream answers with the status that is asked for', async t => {
  const { url } = await startEcho(t)
  assert.equal((await fetch(`${url}/_status/418`)).status, 418)
  assert.equal((await fetch(`${url}/_status/204`)).status, 204)
  assert.equal((await fetch(`${url}/_status/99`)).status, 400)
})

test('the echo upstream streams as many bytes as asked for', async t => {
  const { url } = await startEcho(t)
  for (const count of [0, 1, 200_000]) {
    const answer = await fetch(`${url}/_bytes/${count}`)
    assert.equal(answer.headers.get('content-length'), String(count))
    assert.equal((await answer.arrayBuffer()).byteLength, count)
  }
})

test('the echo upstream streams events', async t => {
  const { url } = await startEcho(t)
  const answer = await fetch(`${url}/_sse?count=2&interval=1`)
  assert.equal(answer.headers.get('content-type'), 'text/event-stream')
  assert.equal(await answer.text(), 'id: 1\ndata: event 1\n\nid: 2\ndata: event 2\n\n')
})

test('the echo upstream outlives clients that leave in the middle', async t => {
  const closed: Promise<unknown>[] = []
  const { url, port } = await startEcho(t, ({ socket }) => {
    closed.push(new Promise(resolve => socket.on('close', resolve)))
  })
  for (const path of ['/_sse?count=9&interval=60000', '/_bytes/100000000']) {
    const socket = connect(port, '127.0.0.1')
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
    await once(socket, 'data')
    socket.destroy()
  }
  assert.equal(closed.length, 2)
  await Promise.all(closed)
  assert.equal((await fetch(url)).status, 200)
})
