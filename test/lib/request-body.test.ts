// Holds a request's body to what it promises: streamed, bounded, complete, and harmless to the caller's connection.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import { describe, it, type TestContext } from 'node:test'
import { BodyTooLarge, hasBody, RequestBody } from '../../lib/request-body.ts'
import { listen } from '../gateway/harness.ts'
import { stalled, until } from '../until.ts'

type Handler = (request: IncomingMessage, response: ServerResponse) => void | Promise<void>

/** A client's request that the handler takes; its answer, read whole. */
async function server(t: TestContext, handler: Handler) {
  const listener = createServer((message, response) => void handler(message, response))
  const port = await listen(listener)
  t.after(() => listener.close().closeAllConnections())
  const open = (headers: Record<string, string> = {}) => {
    const client = request({ port, host: '127.0.0.1', method: 'POST', headers, agent: false })
    client.on('error', () => undefined)
    return client
  }
  return { open }
}

async function answerOf(client: ReturnType<typeof request>): Promise<[number, string]> {
  const [response]: IncomingMessage[] = await once(client, 'response')
  let text = ''
  for await (const chunk of response ?? []) text += chunk
  return [response?.statusCode ?? 0, text]
}

describe('hasBody', () => {
  const cases: [headers: Record<string, string>, has: boolean][] = [
    [{}, false],
    [{ 'content-length': '0' }, false],
    [{ 'content-length': '1' }, true],
    [{ 'transfer-encoding': 'chunked' }, true],
    [{ 'content-type': 'text/plain' }, false],
  ]
  for (const [headers, has] of cases) {
    it(`is ${has} with ${JSON.stringify(headers)}`, async t => {
      let found: boolean | undefined
      const { open } = await server(t, (message, response) => {
        found = hasBody(message)
        response.end()
      })
      const client = open(headers)
      client.end(has ? 'x' : undefined)
      await answerOf(client)
      assert.equal(found, has)
    })
  }
})

describe('RequestBody', () => {
  it('gives every byte in order, and takes no more than is read', async t => {
    const sent = Buffer.alloc(16 * 1024 * 1024, 'abcdefghijklmnopqrstuvwxyz')
    let held = 0
    const received: Buffer[] = []
    const { open } = await server(t, async (message, response) => {
      const body = new RequestBody(message, sent.length)
      await once(body, 'readable')
      await stalled(() => message.socket.bytesRead)
      held = body.readableLength
      for await (const chunk of body) received.push(chunk)
      response.end('whole')
    })
    const client = open()
    client.end(sent)
    assert.deepEqual(await answerOf(client), [200, 'whole'])
    assert.ok(Buffer.concat(received).equals(sent))
    assert.ok(held > 0 && held <= 256 * 1024, `held ${held} bytes`)
  })

  it('leaves the body unread until somebody reads', async t => {
    let message: IncomingMessage | undefined
    let body: RequestBody | undefined
    const { open } = await server(t, (incoming, response) => {
      message = incoming
      body = new RequestBody(incoming, 1_000)
      response.writeHead(200).flushHeaders()
    })
    const client = open()
    client.write('early')
    await once(client, 'response')
    assert.equal(message?.readableFlowing, null)
    assert.equal(body?.readableLength, 0)
    client.end()
    assert.equal(String(await body?.toArray()), 'early')
  })

  it('knows whether it waits for its caller, and when the last byte came', async t => {
    const arrived = Promise.withResolvers<RequestBody>()
    const { open } = await server(t, async (message, response) => {
      const body = new RequestBody(message, 1_000)
      assert.equal(body.awaitsCaller, false)
      body.once('data', () => arrived.resolve(body))
      body.once('end', () => response.end())
    })
    const client = open()
    client.write('begins')
    const body = await arrived.promise
    await until(() => body.awaitsCaller)
    assert.equal(body.endedAt, undefined)
    client.end()
    await answerOf(client)
    assert.equal(body.awaitsCaller, false)
    assert.ok((body.endedAt ?? Number.POSITIVE_INFINITY) <= performance.now())
  })

  for (const [size, limit, fits] of [
    [1_000, 1_000, true],
    [1_001, 1_000, false],
    [1, 0, false],
  ] as const) {
    it(`${fits ? 'admits' : 'refuses'} ${size} bytes of ${limit}, and the caller gets an answer`, async t => {
      let failure: unknown
      const { open } = await server(t, (message, response) => {
        const body = new RequestBody(message, limit)
        body.on('error', error => {
          failure = error
          response.writeHead(413).end('too large')
        })
        body.on('end', () => response.end('fits'))
        body.resume()
      })
      const client = open()
      client.end('x'.repeat(size))
      assert.deepEqual(await answerOf(client), fits ? [200, 'fits'] : [413, 'too large'])
      assert.equal(failure instanceof BodyTooLarge, !fits)
    })
  }

  it('fails, once, when the caller breaks its body off', async t => {
    const failed = Promise.withResolvers<Error>()
    const { open } = await server(t, message => {
      const body = new RequestBody(message, 1_000)
      body.on('error', failed.resolve)
      body.on('end', () => failed.reject(new Error('it ended as if it were whole')))
      body.once('data', () => client.destroy())
    })
    const client = open({ 'content-length': '100' })
    client.write('half')
    const error = await failed.promise
    assert.match(error.message, /broke its body off/)
    assert.ok(!(error instanceof BodyTooLarge))
  })

  it('fails for whoever begins to read after the caller has gone', async t => {
    const failed = Promise.withResolvers<Error>()
    const { open } = await server(t, message => {
      message.on('error', () => undefined)
      message.once('close', () => {
        const body = new RequestBody(message, 1_000)
        body.on('error', failed.resolve)
        body.resume()
      })
      client.destroy()
    })
    const client = open({ 'content-length': '100' })
    client.write('half')
    assert.match((await failed.promise).message, /broke its body off/)
  })

  it('can be destroyed while the caller’s connection lives on', async t => {
    let listeners = 0
    const { open } = await server(t, (message, response) => {
      const before = message.listenerCount('data') + message.listenerCount('close')
      const body = new RequestBody(message, 1_000)
      body.once('data', () => {
        body.destroy(new Error('the upstream is gone'))
        body.once('close', () => {
          listeners = message.listenerCount('data') + message.listenerCount('close') - before
          response.writeHead(502).end('sorry')
        })
      })
    })
    const client = open({ 'content-length': '100' })
    client.write('half')
    assert.deepEqual(await answerOf(client), [502, 'sorry'])
    assert.equal(listeners, 0)
    client.destroy()
  })
})
