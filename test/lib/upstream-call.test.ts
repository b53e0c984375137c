// Holds an upstream call to its word on real connections: one result, the first byte known, cut at any moment.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTcpServer, Socket } from 'node:net'
import { type Readable, Writable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { describe, it, type TestContext } from 'node:test'
import { Agent, buildConnector, Dispatcher } from 'undici'
import { RequestBody } from '../../lib/request-body.ts'
import {
  HeadersTimeout,
  UpstreamCall,
  type UpstreamRequest,
  type UpstreamResponse,
} from '../../lib/upstream-call.ts'
import { listen } from '../gateway/harness.ts'
import { freePort } from '../redis.ts'
import { stalled, until } from '../until.ts'

type Handler = (request: IncomingMessage, response: ServerResponse) => void

/** A call, and what came of it. */
interface Placed {
  readonly call: UpstreamCall
  readonly response: Promise<UpstreamResponse>
  readonly failure: Promise<Error>
  /** How often either callback was called. */
  readonly results: () => number
}

function place(
  t: TestContext,
  port: number,
  given: Partial<UpstreamRequest> = {},
  agent = new Agent(),
): Placed {
  t.after(() => agent.destroy())
  const response = Promise.withResolvers<UpstreamResponse>()
  const failure = Promise.withResolvers<Error>()
  let results = 0
  const call = new UpstreamCall(
    {
      origin: `http://127.0.0.1:${port}`,
      path: '/a?b=c',
      method: 'GET',
      headers: ['Host', 'api.test', 'X-Twice', '1', 'x-twice', '2'],
      body: null,
      headersTimeout: 10_000,
      idleTimeout: 10_000,
      ...given,
    },
    answer => {
      results += 1
      response.resolve(answer)
    },
    error => {
      results += 1
      failure.resolve(error)
    },
  )
  call.start(agent)
  return { call, response: response.promise, failure: failure.promise, results: () => results }
}

async function http(t: TestContext, handler: Handler): Promise<number> {
  const server = createServer(handler)
  t.after(() => server.close().closeAllConnections())
  return listen(server)
}

/** A server that answers each connection's first bytes with these. */
async function tcp(
  t: TestContext,
  onData: (socket: Socket, data: Buffer) => void,
): Promise<number> {
  const sockets = new Set<Socket>()
  const server = createTcpServer(socket => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.on('data', data => onData(socket, data))
  })
  t.after(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return listen(server)
}

/** Starts whatever it is given, and takes note of what is cut. */
class Starting extends Dispatcher {
  readonly aborted: (Error | undefined)[] = []

  override dispatch(
    _options: Dispatcher.DispatchOptions,
    handler: Dispatcher.DispatchHandler,
  ): boolean {
    const controller: Dispatcher.DispatchController = {
      aborted: false,
      paused: false,
      reason: null,
      rawHeaders: [],
      rawTrailers: [],
      abort: reason => {
        this.aborted.push(reason)
        handler.onResponseError?.(controller, reason)
      },
      pause() {},
      resume() {},
    }
    handler.onRequestStart?.(controller, null)
    return true
  }
}

/** A caller's body: what has come of it, and the request that the rest comes from. */
function upload(...chunks: string[]): { body: RequestBody; source: IncomingMessage } {
  const source = new IncomingMessage(new Socket())
  for (const chunk of chunks) source.push(chunk)
  return { body: new RequestBody(source, 1_000_000), source }
}

async function text(body: UpstreamResponse['body']): Promise<string> {
  const bytes = Buffer.isBuffer(body) ? body : Buffer.concat(await body.toArray())
  return bytes.toString('latin1')
}

/** The body of an answer that does not come at once. */
function stream({ body }: UpstreamResponse): Readable {
  if (Buffer.isBuffer(body)) return assert.fail('the body came at once')
  return body
}

describe('UpstreamCall', () => {
  it('sends what it was given and passes the answer on', async t => {
    let seen: IncomingMessage | undefined
    const port = await http(t, (request, response) => {
      seen = request
      response.writeHead(207, ['X-A', 'caf\xe9', 'Set-Cookie', 'a', 'set-cookie', 'b'])
      response.end('body')
    })
    const { call, response, results } = place(t, port)
    const { statusCode, headers, body } = await response
    assert.equal(statusCode, 207)
    assert.deepEqual(headers.slice(0, 6), ['X-A', 'caf\xe9', 'Set-Cookie', 'a', 'set-cookie', 'b'])
    assert.equal(await text(body), 'body')
    assert.equal(seen?.url, '/a?b=c')
    // undici writes Host and Connection itself; every other field goes out as it was given.
    assert.deepEqual(seen?.rawHeaders.slice(4), ['X-Twice', '1', 'x-twice', '2'])
    assert.equal(seen?.headers.host, 'api.test')
    assert.deepEqual(
      [call.dispatched, call.failed, call.passedBytes, results()],
      [true, false, 4, 1],
    )
  })

  it('streams a body up, on any method', async t => {
    const port = await http(t, (request, response) => request.pipe(response))
    const { body, source } = upload('up', 'load')
    source.push(null)
    const { response } = place(t, port, { body })
    assert.equal(await text((await response).body), 'upload')
  })

  it('waits for the answer behind informational ones', async t => {
    const port = await http(t, (_request, response) => {
      response.writeProcessing()
      response.writeEarlyHints({ link: '</a>; rel=preload' }, () => response.end('final'))
    })
    const { response, results } = place(t, port)
    assert.equal(await text((await response).body), 'final')
    assert.equal(results(), 1)
  })

  it('is cut in good order: its reader hears of an end, the upstream of a closed connection', async t => {
    const closed = Promise.withResolvers<void>()
    const port = await http(t, (_request, response) => {
      response.on('close', () => closed.resolve())
      response.write('part one')
    })
    const { call, response } = place(t, port)
    const body = stream(await response)
    let heard = ''
    const sink = new Writable({
      write(piece, _encoding, done) {
        heard += String(piece)
        done()
      },
    })
    const over = finished(body, { writable: false })
    body.pipe(sink, { end: false })
    await until(() => heard === 'part one')
    const cut = Promise.withResolvers<void>()
    call.cut(() => cut.resolve())
    call.close()
    await Promise.all([cut.promise, over, closed.promise])
    assert.deepEqual([call.failed, call.passedBytes, heard], [true, 8, 'part one'])
    assert.equal(sink.writableEnded, false)
  })

  it('passes nothing on while it is held, and no end', async t => {
    const answers: ServerResponse[] = []
    const port = await http(t, (_request, response) => {
      answers.push(response)
      response.write('part one')
    })
    const { call, response } = place(t, port)
    const body = stream(await response)
    let heard = ''
    body.on('data', piece => (heard += piece))
    await until(() => heard === 'part one')
    call.hold()
    await new Promise<void>(resolve => answers[0]?.end(' and two', () => resolve()))
    await stalled(() => call.passedBytes)
    assert.deepEqual([heard, body.readableEnded, call.passedBytes], ['part one', false, 8])
    const cut = Promise.withResolvers<void>()
    call.cut(() => cut.resolve())
    await cut.promise
    assert.deepEqual([heard, call.failed], ['part one', true])
  })

  it('drops what its reader did not take when it is cut, also of an answer that is whole', async t => {
    for (const whole of [true, false]) {
      const port = await http(t, (_request, response) => {
        response.write('x'.repeat(40_000))
        if (whole) response.end()
      })
      const { call, response } = place(t, port)
      const body = stream(await response)
      await until(() => body.readableLength === 40_000)
      assert.equal(String(body.read(10_000)).length, 10_000)
      assert.equal(call.passedBytes, 10_000)
      const cut = Promise.withResolvers<void>()
      call.cut(() => cut.resolve())
      await cut.promise
      assert.deepEqual([call.failed, call.passedBytes], [true, 10_000])
      call.drop(4_000)
      assert.equal(call.passedBytes, 6_000)
      call.drop(9_999)
      assert.equal(call.passedBytes, 0)
    }
  })

  it('gives back an answer that comes at once as its bytes', async t => {
    const port = await http(t, (_request, response) => {
      response.writeHead(200, { 'content-type': 'text/plain' }).end('x'.repeat(16_384))
    })
    const { call, response } = place(t, port)
    const { body } = await response
    assert.ok(Buffer.isBuffer(body))
    assert.equal(body.length, 16_384)
    assert.deepEqual([call.failed, call.passedBytes], [false, 16_384])
  })

  for (const [title, given, head, body] of [
    ['to HEAD', { method: 'HEAD' }, { 'content-type': 'text/plain', 'content-length': '5' }, ''],
    ['without a type', {}, { 'content-length': '5' }, 'whole'],
    ['without a body', {}, { 'content-type': 'text/plain' }, ''],
    ['that is large', {}, { 'content-type': 'text/plain' }, 'x'.repeat(16_385)],
  ] as const) {
    it(`gives back an answer ${title} as a stream`, async t => {
      const port = await http(t, (_request, response) => response.writeHead(200, head).end(body))
      const { response } = place(t, port, given)
      assert.equal(await text(stream(await response)), body)
    })
  }

  it('breaks off an answer that is malformed in the packet that it begins in', async t => {
    const port = await tcp(t, socket => {
      const head = 'HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked'
      socket.end(`${head}\r\n\r\nzz\r\n`)
    })
    const { call, response } = place(t, port)
    await assert.rejects(text(stream(await response)), { name: 'HTTPParserError' })
    assert.equal(call.failed, true)
  })

  it('takes no more of the answer than is read', async t => {
    const size = 16 * 1024 * 1024
    const port = await http(t, (_request, response) => response.end(Buffer.alloc(size)))
    const { call, response } = place(t, port)
    const body = stream(await response)
    await stalled(() => body.readableLength)
    assert.ok(body.readableLength <= 256 * 1024, `took ${body.readableLength} bytes`)
    assert.equal(call.passedBytes, 0)
    let read = 0
    for await (const chunk of body) read += chunk.length
    assert.equal(read, size)
    assert.equal(call.passedBytes, size)
  })

  it('fails, undispatched, where nobody listens', async t => {
    const { call, failure, results } = place(t, await freePort())
    assert.match(String(await failure), /ECONNREFUSED/)
    assert.deepEqual([call.dispatched, call.failed, results()], [false, true, 1])
  })

  it('fails, undispatched, for a header that cannot be sent, and lets the body go', async t => {
    const port = await http(t, () => assert.fail('something was sent'))
    const { body } = upload('x')
    const { call, failure, results } = place(t, port, { headers: ['X-A', 'b\r\nc'], body })
    assert.equal(Reflect.get(await failure, 'code'), 'UND_ERR_INVALID_ARG')
    assert.deepEqual([call.dispatched, results(), body.destroyed], [false, 1, true])
  })

  it('ends when no headers come in time, and hangs up', async t => {
    const hungUp = Promise.withResolvers<void>()
    const port = await http(t, request => request.socket.once('close', hungUp.resolve))
    const { call, failure, results } = place(t, port, { headersTimeout: 50 })
    assert.ok((await failure) instanceof HeadersTimeout)
    await hungUp.promise
    assert.deepEqual([call.dispatched, call.failed, results()], [true, true, 1])
  })

  it('does not charge the upstream for a caller whose body is late', async t => {
    const port = await http(
      t,
      (request, response) => void request.resume().on('end', () => response.end('ok')),
    )
    const { body, source } = upload('begins')
    const { call, response, failure } = place(t, port, { method: 'POST', body, headersTimeout: 50 })
    failure.catch(() => undefined)
    setTimeout(() => source.push(null), 200)
    assert.equal((await response).statusCode, 200)
    assert.equal(call.failed, false)
  })

  it('gives the upstream its time, and no more, behind a late body', async t => {
    const port = await http(t, request => request.resume())
    const { body, source } = upload('begins')
    const { failure, results } = place(t, port, { method: 'POST', body, headersTimeout: 50 })
    setTimeout(() => source.push(null), 120)
    assert.ok((await failure) instanceof HeadersTimeout)
    // A timer may fire a millisecond early.
    assert.ok(performance.now() - (body.endedAt ?? Number.POSITIVE_INFINITY) >= 48)
    assert.deepEqual([body.destroyed, results()], [true, 1])
  })

  it('measures an answer’s silence, not its length', async t => {
    const port = await http(t, (_request, response) => void response.write('begins'))
    const { call, response } = place(t, port, { headersTimeout: 5_000, idleTimeout: 100 })
    const { body } = await response
    await assert.rejects(text(body), /[Tt]imeout/)
    assert.equal(call.failed, true)
  })

  it('sends nothing when it is cut before its connection stands', async t => {
    const urls: string[] = []
    const port = await http(t, (request, response) => {
      urls.push(request.url ?? '')
      response.end()
    })
    const connecting = Promise.withResolvers<void>()
    const mayConnect = Promise.withResolvers<void>()
    const connector = buildConnector({})
    const agent = new Agent({
      connections: 1,
      connect(options, callback) {
        connecting.resolve()
        mayConnect.promise.then(() => connector(options, callback), assert.fail)
      },
    })
    const { call, failure, results } = place(t, port, { path: '/cut' }, agent)
    await connecting.promise
    const reason = new Error('the caller has gone')
    call.abort(reason)
    assert.equal(await failure, reason)
    call.abort(new Error('once more'))
    // What waits behind it on the same connection is sent, and it is not.
    const behind = place(t, port, { path: '/behind' }, agent)
    mayConnect.resolve()
    assert.equal((await behind.response).statusCode, 200)
    assert.deepEqual(urls, ['/behind'])
    assert.deepEqual([call.dispatched, call.failed, results()], [false, true, 1])
  })

  it('hangs up when it is cut before the answer', async t => {
    const arrived = Promise.withResolvers<Socket>()
    const port = await http(t, request => arrived.resolve(request.socket))
    const { call, failure, results } = place(t, port)
    const socket = await arrived.promise
    const reason = new Error('revoked')
    call.abort(reason)
    assert.equal(await failure, reason)
    if (!socket.closed) await once(socket, 'close')
    assert.deepEqual([call.dispatched, results()], [true, 1])
  })

  it('breaks the body off with the reason when it is cut within the answer', async t => {
    const port = await http(t, (_request, response) => void response.write('begins'))
    const { call, response, results } = place(t, port)
    const body = stream(await response)
    await once(body, 'data')
    const reason = new Error('revoked')
    call.abort(reason)
    const [error] = await once(body, 'error')
    assert.equal(error, reason)
    assert.deepEqual([call.failed, results()], [true, 1])
  })

  it('hangs up when the answer is no longer wanted', async t => {
    const hungUp = Promise.withResolvers<void>()
    const port = await http(t, (request, response) => {
      request.socket.once('close', hungUp.resolve)
      response.write('begins')
    })
    const { call, response } = place(t, port)
    const body = stream(await response)
    body.destroy()
    await hungUp.promise
    assert.equal(call.failed, true)
  })

  it('does not count as failed when it is cut after its end', async t => {
    const port = await http(t, (_request, response) => response.end('whole'))
    const { call, response } = place(t, port)
    const { body } = await response
    assert.equal(await text(body), 'whole')
    call.abort(new Error('too late'))
    assert.equal(call.failed, false)
  })

  const broken: [title: string, answer: string][] = [
    [
      'closes within a body of declared length',
      'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf',
    ],
    [
      'closes within a chunked body',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n',
    ],
    [
      'breaks its chunks',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n',
    ],
  ]
  for (const [title, answer] of broken) {
    it(`breaks the body off when the upstream ${title}`, async t => {
      const port = await tcp(t, socket => void socket.end(answer))
      const { call, response, results } = place(t, port)
      const { statusCode, body } = await response
      assert.equal(statusCode, 200)
      await assert.rejects(text(body))
      assert.deepEqual([call.failed, results()], [true, 1])
    })
  }

  for (const answer of [
    '',
    'SSH-2.0-x\r\n',
    'HTTP/1.1 999999 X\r\n\r\n',
    'HTTP/1.1 200 OK\r\nA: b',
  ]) {
    it(`fails, dispatched, when the answer is ${JSON.stringify(answer)}`, async t => {
      const port = await tcp(t, socket => void socket.end(answer))
      const { call, failure, results } = place(t, port)
      await failure
      assert.deepEqual([call.dispatched, call.failed, results()], [true, true, 1])
    })
  }

  it('fails when the upstream switches protocols unasked', async t => {
    const port = await tcp(t, socket => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n')
    })
    const { call, failure, results } = place(t, port)
    await failure
    assert.deepEqual([call.dispatched, results()], [true, 1])
  })

  it('tells the error that ended the request’s own body', async t => {
    const arrived = Promise.withResolvers<void>()
    const port = await http(t, request => void request.once('data', () => arrived.resolve()))
    const { body } = upload('begins')
    const { failure, results } = place(t, port, { method: 'POST', body })
    await arrived.promise
    const reason = new Error('body too large')
    body.destroy(reason)
    assert.equal(await failure, reason)
    assert.equal(results(), 1)
  })

  it('is cut when a dispatcher starts it a second time', () => {
    const dispatcher = new Starting()
    const failures: Error[] = []
    const call = new UpstreamCall(
      {
        origin: 'http://127.0.0.1:1',
        path: '/',
        method: 'GET',
        headers: [],
        body: null,
        headersTimeout: 1_000,
        idleTimeout: 1_000,
      },
      () => assert.fail('no response'),
      error => failures.push(error),
    )
    call.start(dispatcher)
    assert.deepEqual([call.dispatched, dispatcher.aborted.length], [true, 0])
    call.start(dispatcher)
    assert.equal(dispatcher.aborted.length, 1)
    assert.match(failures[0]?.message ?? '', /sent before/)
    assert.equal(call.failed, true)
  })
})
