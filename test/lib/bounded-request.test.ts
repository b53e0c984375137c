// Holds a bounded request to its word on real connections: one result, within its time and size, ended at any moment.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type RequestListener, type ServerResponse } from 'node:http'
import { describe, it, type TestContext } from 'node:test'
import { Pool } from 'undici'
import { BoundedRequest, RequestTimeout } from '../../lib/bounded-request.ts'
import { listen } from '../gateway/harness.ts'

async function connected(t: TestContext, answer: RequestListener): Promise<Pool> {
  const server = createServer(answer)
  const pool = new Pool(`http://127.0.0.1:${await listen(server)}`, { connections: 1 })
  t.after(async () => {
    await pool.destroy()
    server.close().closeAllConnections()
  })
  return pool
}

const get = (pool: Pool, bounds: { timeout?: number; limit?: number } = {}) =>
  new BoundedRequest(
    pool,
    { path: '/', method: 'GET' },
    { timeout: 10_000, limit: 1_000, ...bounds },
  )

describe('a bounded request', () => {
  it('gives back an answer whole, in however many pieces it comes', async t => {
    const pool = await connected(t, (_request, response) => {
      response.writeHead(201, { 'x-a': '1' }).write('a'.repeat(500))
      setImmediate(() => response.end('ü'))
    })
    const { status, headers, text } = await get(pool).answer
    assert.deepEqual([status, headers['x-a'], text], [201, '1', `${'a'.repeat(500)}ü`])
    assert.equal((await get(pool).answer).status, 201)
  })

  it('gives back an empty answer', async t => {
    const pool = await connected(t, (_request, response) => response.writeHead(204).end())
    assert.deepEqual((await get(pool).answer).text, '')
  })

  it('takes an answer of just the limit, and keeps nothing of a larger one', async t => {
    const pool = await connected(t, (_request, response) => response.end('a'.repeat(100)))
    assert.equal((await get(pool, { limit: 100 }).answer).text?.length, 100)
    assert.equal((await get(pool, { limit: 99 }).answer).text, undefined)
  })

  for (const [title, begin] of [
    ['says nothing', () => {}],
    ['says half', (response: ServerResponse) => response.writeHead(200).write('a')],
  ] as const) {
    it(`ends in time with a server that ${title}, and closes the connection`, async t => {
      const closed = Promise.withResolvers<void>()
      const pool = await connected(t, (_request, response) => {
        response.once('close', () => closed.resolve())
        begin(response)
      })
      await assert.rejects(get(pool, { timeout: 100 }).answer, RequestTimeout)
      await closed.promise
    })
  }

  it('ends when it is cancelled: before it is sent, while it waits, and not when it is over', async t => {
    const arrivals: ServerResponse[] = []
    const arrived = Promise.withResolvers<void>()
    const pool = await connected(t, (_request, response) => {
      arrivals.push(response)
      arrived.resolve()
    })
    const first = get(pool)
    await arrived.promise
    // There is one connection: this one waits for it.
    const second = get(pool)
    const reason = new Error('not wanted')
    second.cancel(reason)
    await assert.rejects(second.answer, error => error === reason)
    const closed = once(arrivals[0] ?? assert.fail('nothing arrived'), 'close')
    first.cancel(reason)
    first.cancel(new Error('again'))
    await assert.rejects(first.answer, error => error === reason)
    await closed
    const third = get(pool)
    await assert.doesNotReject(async () => {
      while (arrivals.length < 2) await new Promise(setImmediate)
      arrivals[1]?.end('ok')
      assert.equal((await third.answer).text, 'ok')
    })
    assert.equal(arrivals.length, 2)
    third.cancel(reason)
  })

  it('tells of a connection that breaks', async t => {
    const pool = await connected(t, request => request.socket.destroy())
    await assert.rejects(get(pool).answer, { code: 'UND_ERR_SOCKET' })
  })

  it('tells of a request that cannot be sent', async t => {
    const pool = await connected(t, () => assert.fail('it arrived'))
    const { answer } = new BoundedRequest(
      pool,
      { path: '/ ', method: 'GET' },
      { timeout: 10_000, limit: 1 },
    )
    await assert.rejects(answer, { code: 'UND_ERR_INVALID_ARG' })
  })
})
