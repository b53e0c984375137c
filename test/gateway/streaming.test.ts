// Bodies flow both ways, never whole in memory, and every way to break one off ends in one event (contract section 5).
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import {
  type ClientRequest,
  createServer,
  type IncomingMessage,
  request as httpRequest,
  type ServerResponse,
} from 'node:http'
import { after, test } from 'node:test'
import { freePort } from '../redis.ts'
import { until } from '../until.ts'
import { call, head, listen, RESOURCE, startGateway, startStack, Wire } from './harness.ts'
import { eventsById, send, startRawUpstream } from './raw.ts'

const MIB = 1024 * 1024
const GIB = 1024 * MIB
const MAX_RESIDENT = 180 * MIB

const stack = await startStack({ after }, { env: { MAX_REQUEST_BYTES: String(2 * GIB) } })
const hasty = await startGateway(
  { after },
  {
    ...stack.env,
    UPSTREAM_TIMEOUT: '300ms',
    STREAM_IDLE_TIMEOUT: '300ms',
    MAX_REQUEST_BYTES: '100000',
  },
)

type Handler = (request: IncomingMessage, response: ServerResponse) => void
const handlers = new Map<string, Handler>()
const upstream = createServer((request, response) => {
  request.on('error', () => undefined)
  handlers.get(String(request.headers['x-request-id']))?.(request, response)
})
const upstreamUrl = `http://127.0.0.1:${await listen(upstream)}`
after(async () => {
  upstream.closeAllConnections()
  upstream.close()
})

const directives = new Map<string, string>()
const asked = new Set<string>()
const gates = new Map<string, Promise<unknown>>()
stack.sts.respond = async exchange => {
  const id = exchange.fields['gateway_request_id'] ?? ''
  asked.add(id)
  await gates.get(id)
  return { directive: { url: directives.get(id) ?? upstreamUrl, auth_mode: 'none' } }
}

/** What each request's one event must say. */
const expected = new Map<string, string>()
let count = 0

const clients = new Set<ClientRequest>()
after(async () => {
  for (const request of clients) request.destroy()
})

interface Options {
  readonly handler?: Handler
  readonly url?: string
  readonly gate?: Promise<unknown>
  readonly port?: number
  readonly method?: string
  readonly headers?: Record<string, string>
}

/** Opens a request; its body is the test's to write. `outcome` is `evaluation_status` and `error_kind`. */
function open(outcome: string, options: Options): { id: string; request: ClientRequest } {
  const id = register(outcome, options)
  const { port = stack.gateway.port, method = 'GET', headers } = options
  const request = httpRequest({
    host: '127.0.0.1',
    port,
    method,
    path: '/stream',
    agent: false,
    headers: {
      authorization: `Bearer ${stack.mint()}`,
      'x-caracal-resource': RESOURCE,
      'x-request-id': id,
      ...headers,
    },
  })
  request.on('error', () => undefined)
  clients.add(request)
  return { id, request }
}

function register(outcome: string, { handler, url, gate }: Options): string {
  const id = `stream-${count++}`
  expected.set(id, outcome)
  if (handler !== undefined) handlers.set(id, handler)
  if (url !== undefined) directives.set(id, url)
  if (gate !== undefined) gates.set(id, gate)
  return id
}

async function responseOf(request: ClientRequest): Promise<IncomingMessage> {
  const [response] = await once(request, 'response')
  return response
}

/** Reads a body; whether it came to its end, and how many bytes there were. */
async function drain(response: IncomingMessage): Promise<{ bytes: number; complete: boolean }> {
  let bytes = 0
  response.on('data', chunk => {
    bytes += chunk.length
  })
  response.on('error', () => undefined)
  response.resume()
  // Not `once`, which would reject when the body breaks off.
  await new Promise<void>(resolve => {
    if (response.closed) resolve()
    else response.on('close', resolve)
  })
  return { bytes, complete: response.complete }
}

/** Writes so many bytes with back-pressure; calls `onWritten` with each sum. */
async function pour(
  stream: ClientRequest | ServerResponse,
  bytes: number,
  onWritten?: (sum: number) => void,
): Promise<void> {
  const chunk = Buffer.alloc(MIB, 'x')
  for (let sum = 0; sum < bytes && !stream.destroyed; ) {
    const piece = Math.min(chunk.length, bytes - sum)
    sum += piece
    const room = stream.write(piece === chunk.length ? chunk : chunk.subarray(0, piece))
    onWritten?.(sum)
    if (!room) await roomIn(stream)
  }
}

function roomIn(stream: ClientRequest | ServerResponse): Promise<void> {
  return new Promise(resolve => {
    const proceed = () => {
      stream.off('drain', proceed).off('close', proceed)
      resolve()
    }
    stream.on('drain', proceed).on('close', proceed)
  })
}

/** The high-water mark of the gateway's resident memory, in bytes; of its largest process when it has several. */
async function peakResident(): Promise<number> {
  const peaks = stack.gateway.servers().map(async pid => {
    const status = await readFile(`/proc/${pid}/status`, 'utf8')
    return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) * 1024
  })
  return Math.max(...(await Promise.all(peaks)))
}

/** Resolves once a figure has not moved for 20 looks in a row. */
async function settled(figure: () => number): Promise<number> {
  let last = -1
  let looks = 0
  await until(() => {
    looks = figure() === last ? looks + 1 : 0
    last = figure()
    return looks > 20
  }, 20_000)
  return last
}

test('the gateway carries bodies of 1 GiB both ways in under 180 MiB', async () => {
  for (const headers of [{ 'content-length': String(GIB) }, {}]) {
    let arrived = 0
    const { request } = open('executed', {
      method: 'POST',
      headers,
      handler: (incoming, response) => {
        incoming.on('data', chunk => {
          arrived += chunk.length
        })
        incoming.on('end', () => response.end('ok'))
      },
    })
    const response = responseOf(request)
    await pour(request, GIB)
    request.end()
    assert.equal((await response).statusCode, 200)
    assert((await drain(await response)).complete)
    assert.equal(arrived, GIB)
  }
  for (const headers of [{ 'content-length': String(GIB) }, {}]) {
    const { request } = open('executed', {
      handler: (_incoming, response) => {
        response.writeHead(200, headers)
        void pour(response, GIB).then(() => response.end())
      },
    })
    request.end()
    const response = await responseOf(request)
    assert.equal(response.statusCode, 200)
    assert.deepEqual(await drain(response), { bytes: GIB, complete: true })
  }
  const peak = await peakResident()
  assert(peak < MAX_RESIDENT, `${Math.round(peak / MIB)} MiB resident`)
})

test('the gateway stops reading an upstream whose caller does not read', async () => {
  let written = 0
  const total = 256 * MIB
  const { request } = open('executed', {
    handler: (_incoming, response) => {
      void pour(response, total, sum => {
        written = sum
      }).then(() => response.end())
    },
  })
  request.end()
  const response = await responseOf(request)
  response.pause()
  await until(() => written > 0)
  assert((await settled(() => written)) < 64 * MIB, `${written} bytes for nobody`)
  assert.deepEqual(await drain(response), { bytes: total, complete: true })
  assert((await peakResident()) < MAX_RESIDENT)
})

test('the gateway stops reading a caller whose upstream does not read', async () => {
  let written = 0
  const { promise: wanted, resolve: read } = Promise.withResolvers<void>()
  let arrived = 0
  const total = 256 * MIB
  const { request } = open('executed', {
    method: 'POST',
    handler: (incoming, response) => {
      incoming.on('end', () => response.end())
      void wanted.then(() =>
        incoming.on('data', chunk => {
          arrived += chunk.length
        }),
      )
    },
  })
  const response = responseOf(request)
  const poured = pour(request, total, sum => {
    written = sum
  })
  await until(() => written > 0)
  assert((await settled(() => written)) < 64 * MIB, `${written} bytes for nobody`)
  read()
  await poured
  request.end()
  assert.equal((await response).statusCode, 200)
  await drain(await response)
  assert.equal(arrived, total)
  assert((await peakResident()) < MAX_RESIDENT)
})

test('the gateway flushes headers before the first event, and each event by itself', async () => {
  let sse: ServerResponse | undefined
  const { request } = open('executed', {
    headers: { accept: 'text/event-stream' },
    handler: (_incoming, response) => {
      sse = response
      response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
    },
  })
  request.end()
  const response = await responseOf(request)
  assert.equal(response.headers['content-type'], 'text/event-stream')
  let text = ''
  response.setEncoding('utf8').on('data', chunk => {
    text += chunk
  })
  // Each event is only written once the one before it has come all the way.
  for (const index of Array.from({ length: 20 }).keys()) {
    sse?.write(`id: ${index}\ndata: event\n\n`)
    await until(() => text.endsWith(`id: ${index}\ndata: event\n\n`))
  }
  sse?.end()
  await until(() => response.complete)
})

test('the gateway passes an upload on chunk by chunk, and an answer before the upload ends', async () => {
  let arrived = ''
  const { request } = open('executed', {
    method: 'POST',
    handler: (incoming, response) => {
      response.writeHead(200)
      incoming.setEncoding('utf8').on('data', chunk => {
        arrived += chunk
        response.write(`echo ${chunk}`)
      })
      incoming.on('end', () => response.end('done'))
    },
  })
  let echoed = ''
  void responseOf(request).then(response =>
    response.setEncoding('utf8').on('data', chunk => {
      echoed += chunk
    }),
  )
  for (const index of [1, 2, 3, 4, 5]) {
    request.write(`part ${index};`)
    await until(() => arrived.endsWith(`part ${index};`) && echoed.endsWith(`part ${index};`))
  }
  request.end()
  await until(() => echoed.endsWith('done'))
})

test('the gateway dispatches nothing for a caller that goes while the STS is asked', async () => {
  const { promise, resolve } = Promise.withResolvers<void>()
  let reached = false
  const { id, request } = open('upstream_error transport_error', {
    gate: promise,
    handler: () => {
      reached = true
    },
  })
  request.end()
  await until(() => asked.has(id))
  request.destroy()
  await until(() => request.closed)
  // The gateway has seen it go once it counts the request no more.
  await until(async () => (await stack.metric('requests_in_flight')) === 0)
  resolve()
  await eventsById(stack, [id])
  assert.equal(reached, false)
})

test('the gateway aborts the upstream when the caller goes before the headers', async () => {
  let aborted = false
  let reached = false
  const { request } = open('upstream_error transport_error', {
    handler: (_incoming, response) => {
      reached = true
      response.on('close', () => {
        aborted = true
      })
    },
  })
  request.end()
  await until(() => reached)
  request.destroy()
  await until(() => aborted)
})

test('the gateway aborts the upstream when the caller goes mid-body', async () => {
  for (const headers of [
    {},
    { 'content-length': '1000' },
    { 'content-type': 'text/event-stream' },
  ]) {
    let aborted = false
    const { request } = open('upstream_error response_copy_failed', {
      handler: (_incoming, response) => {
        response.writeHead(200, headers).write('some')
        response.on('close', () => {
          aborted = true
        })
      },
    })
    request.end()
    const response = await responseOf(request)
    await once(response, 'data')
    request.destroy()
    await until(() => aborted)
  }
})

test('the gateway aborts the upstream when the caller goes mid-upload', async () => {
  for (const headers of [{ 'content-length': '1000' }, {}]) {
    let arrived = 0
    let broken = false
    const { request } = open('upstream_error transport_error', {
      method: 'POST',
      headers,
      handler: incoming => {
        incoming.on('data', chunk => {
          arrived += chunk.length
        })
        incoming.on('close', () => {
          broken = !incoming.complete
        })
      },
    })
    request.write('some')
    await until(() => arrived === 4)
    request.destroy()
    await until(() => broken)
  }
})

test('the gateway aborts the upstream when the caller goes while both bodies flow', async () => {
  let aborted = false
  const { request } = open('upstream_error response_copy_failed', {
    method: 'POST',
    handler: (incoming, response) => {
      response.writeHead(200)
      void pour(response, GIB)
      incoming.resume()
      response.on('close', () => {
        aborted = true
      })
    },
  })
  void pour(request, GIB)
  const response = await responseOf(request)
  await once(response, 'data')
  request.destroy()
  await until(() => aborted)
})

test('the gateway shows the caller a broken body when the upstream dies in the middle', async t => {
  const answers = [
    'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\nzz\r\n',
    'HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\nsome',
    'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n',
  ]
  for (const reset of [false, true]) {
    for (const answer of answers) {
      const malformed = answer.includes('zz')
      // It breaks off at once: with bytes of the caller unread, the reset could overtake the beginning.
      if (reset && malformed) continue
      const raw = await startRawUpstream(t, socket => {
        if (reset) socket.pause()
        socket.write(answer)
        // The death comes once the beginning has arrived; with bytes unread it is a reset.
        void began.promise.then(() => (reset ? socket.destroy() : socket.end()))
      })
      const began = Promise.withResolvers<void>()
      const { request } = open('upstream_error response_copy_failed', {
        url: raw.url,
        method: 'POST',
      })
      request.end(Buffer.alloc(reset ? MIB : 0))
      const response = await responseOf(request)
      if (malformed) response.on('data', () => undefined)
      else await once(response, 'data')
      began.resolve()
      assert.equal((await drain(response)).complete, false, answer)
    }
  }
})

test('the gateway takes an answer that ends with its connection for whole', async t => {
  const raw = await startRawUpstream(t, socket => {
    socket.end('HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it')
  })
  const { request } = open('executed', { url: raw.url })
  request.end()
  assert.deepEqual(await drain(await responseOf(request)), { bytes: 9, complete: true })
})

test('the gateway answers 502 when the upstream dies before its headers', async t => {
  for (const die of ['end', 'destroy'] as const) {
    const raw = await startRawUpstream(t, socket => socket.pause()[die]())
    for (const [method, body] of [
      ['GET', undefined],
      ['POST', 'body'],
      // Bytes that nobody read make it a reset.
      ['POST', Buffer.alloc(MIB)],
    ] as const) {
      const id = register('upstream_error transport_error', { url: raw.url })
      const answer = await send(stack.gateway.port, {
        token: stack.mint(),
        id,
        method,
        ...(body !== undefined && { body }),
      })
      assert.equal(answer.status, 502)
      assert.equal(answer.json()['error_description'], 'upstream unreachable')
      assert.equal(answer.json()['dispatched'], 'unknown')
      assert.deepEqual(answer.values('x-caracal-dispatched'), ['unknown'])
      assert.deepEqual(answer.values('x-should-retry'), ['false'])
    }
  }
})

test('the gateway says that nothing was dispatched when no connection stood', async () => {
  const url = `http://127.0.0.1:${await freePort()}`
  const id = register('upstream_error transport_error', { url })
  const answer = await send(stack.gateway.port, {
    token: stack.mint(),
    id,
    method: 'POST',
    body: 'x',
  })
  assert.equal(answer.status, 502)
  assert.equal(answer.json()['dispatched'], 'no')
  assert.deepEqual(answer.values('x-caracal-dispatched'), ['no'])
  assert.deepEqual(answer.values('x-should-retry'), [])
})

test('the gateway asks an upstream once, whatever it answers', async () => {
  for (const status of [500, 502, 503, 504, 429, 408, 425]) {
    let times = 0
    const id = register('executed', {
      handler: (incoming, response) => {
        times += 1
        incoming.resume()
        response.writeHead(status, { 'retry-after': '0' }).end()
      },
    })
    const answer = await send(stack.gateway.port, { token: stack.mint(), id })
    assert.equal(answer.status, status)
    assert.equal(times, 1)
    assert.deepEqual(answer.values('x-caracal-dispatched'), [], 'the answer is the upstream’s')
  }
})

test('the gateway gives up on an upstream that sends no headers in time', async () => {
  let aborted = 0
  const handler: Handler = (incoming, response) => {
    incoming.resume()
    response.on('close', () => {
      aborted += 1
    })
  }
  for (const options of [{ method: 'GET' }, { method: 'POST', body: 'body' }]) {
    const id = register('upstream_error transport_error', { handler })
    const answer = await send(hasty.port, { token: stack.mint(), id, ...options })
    assert.equal(answer.status, 504)
    const { error, error_description: description, dispatched } = answer.json()
    assert.deepEqual(
      [error, description, dispatched],
      ['internal_error', 'upstream timeout', 'unknown'],
    )
    assert.deepEqual(answer.values('x-should-retry'), ['false'])
  }
  await until(() => aborted === 2)
})

test('the gateway breaks off an answer that falls silent', async () => {
  let aborted = false
  const { request } = open('upstream_error response_copy_failed', {
    port: hasty.port,
    handler: (_incoming, response) => {
      response.writeHead(200).write('some')
      response.on('close', () => {
        aborted = true
      })
    },
  })
  request.end()
  const response = await responseOf(request)
  assert.deepEqual(await drain(response), { bytes: 4, complete: false })
  await until(() => aborted)
})

test('the gateway keeps an answer that is slow but not silent', async () => {
  const { request } = open('executed', {
    port: hasty.port,
    handler: (_incoming, response) => {
      response.writeHead(200)
      let left = 8
      // Longer in all than the idle timeout, each silence shorter.
      const timer = setInterval(() => {
        response.write('x')
        left -= 1
        if (left > 0) return
        clearInterval(timer)
        response.end()
      }, 60)
    },
  })
  request.end()
  assert.deepEqual(await drain(await responseOf(request)), { bytes: 8, complete: true })
})

test('the gateway refuses a body that grows over its limit while it streams', async () => {
  let broken = false
  const { request } = open('upstream_error transport_error', {
    port: hasty.port,
    method: 'POST',
    handler: incoming => {
      incoming.resume()
      incoming.on('close', () => {
        broken = !incoming.complete
      })
    },
  })
  const response = responseOf(request)
  void pour(request, MIB)
  const answer = await response
  assert.equal(answer.statusCode, 413)
  assert.equal(answer.headers['x-caracal-dispatched'], 'unknown')
  assert.equal(answer.headers['x-should-retry'], 'false')
  await until(() => broken)
  await drain(answer)
  request.destroy()

  const exact = open('executed', {
    port: hasty.port,
    method: 'POST',
    handler: (incoming, reply) => {
      incoming.resume().on('end', () => reply.end())
    },
  })
  exact.request.end(Buffer.alloc(100_000))
  assert.equal((await responseOf(exact.request)).statusCode, 200)
})

test('the gateway breaks off an answer whose request grows over its limit', async () => {
  let broken = false
  const { request } = open('upstream_error response_copy_failed', {
    port: hasty.port,
    method: 'POST',
    handler: (incoming, response) => {
      response.writeHead(200).write('some')
      incoming.resume().on('close', () => {
        broken = !incoming.complete
      })
    },
  })
  request.write('some')
  const response = await responseOf(request)
  void pour(request, MIB)
  assert.deepEqual(await drain(response), { bytes: 4, complete: false })
  await until(() => broken)
})

test('the gateway passes on the answer of an upstream that does not read the body', async t => {
  const refusal = 'HTTP/1.1 403 No\r\nContent-Length: 6\r\nConnection: close\r\n\r\nbriefly'.slice(
    0,
    -1,
  )
  for (const close of [false, true]) {
    const raw = await startRawUpstream(t, socket => {
      socket.pause()
      if (close) socket.end(refusal)
      else socket.write(refusal)
    })
    for (const headers of [
      {},
      { 'content-length': String(32 * MIB) },
      { connection: 'keep-alive' },
      { connection: 'keep-alive', 'content-length': String(32 * MIB) },
    ]) {
      const { request } = open('executed', { url: raw.url, method: 'POST', headers })
      const response = responseOf(request)
      void pour(request, 32 * MIB)
      const answer = await response
      assert.equal(answer.statusCode, 403)
      assert.deepEqual(await drain(answer), { bytes: 6, complete: true })
      request.destroy()
    }
  }
})

test('the gateway lets a caller send its body before it reads the answer', async t => {
  const raw = await startRawUpstream(t, socket => {
    socket.end('HTTP/1.1 403 No\r\nContent-Length: 6\r\n\r\nbriefl')
  })
  for (const connection of ['close', 'keep-alive']) {
    const id = register('executed', { url: raw.url })
    const wire = new Wire(stack.gateway.port)
    wire.socket.pause()
    const lines = [
      `X-Request-Id: ${id}`,
      `Connection: ${connection}`,
      `Content-Length: ${16 * MIB}`,
    ]
    wire.send(`${head('POST /', stack.mint(), ...lines)}\r\n`)
    let failed: Error | undefined
    for (const chunk of Array.from({ length: 16 }, () => Buffer.alloc(MIB))) {
      await new Promise<void>(resolve => {
        wire.socket.write(chunk, error => {
          failed ??= error ?? undefined
          resolve()
        })
      })
    }
    assert.equal(failed, undefined, connection)
    wire.socket.resume()
    await wire.receives(/403 Forbidden[^]*\r\n\r\nbriefl/)
    wire.close()
  }
})

test('the gateway serves on when an upstream answered without reading a body that was there', async t => {
  const raw = await startRawUpstream(t, socket => {
    socket.end('HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno')
  })
  const id = register('executed', { url: raw.url })
  const next = register('executed', { handler: (_incoming, response) => void response.end('ok') })
  const wire = new Wire(stack.gateway.port)
  const body = 'x'.repeat(MIB)
  wire.send(
    `${head('POST /', stack.mint(), `X-Request-Id: ${id}`, `Content-Length: ${MIB}`)}\r\n${body}`,
  )
  await wire.receives(/403 Forbidden[^]*\r\n\r\nno/)
  if (!wire.closed) {
    wire.send(`${head('GET /', stack.mint(), `X-Request-Id: ${next}`)}\r\n`)
    await until(() => wire.closed || wire.text.endsWith('ok'))
  }
  if (!wire.text.endsWith('ok')) {
    expected.delete(next)
    assert(wire.closed)
  }
  wire.close()
})

test('the gateway sends 100 Continue after the exchange and not before', async () => {
  const { promise, resolve } = Promise.withResolvers<void>()
  let body = ''
  const id = register('executed', {
    gate: promise,
    handler: (incoming, response) => {
      incoming.setEncoding('utf8').on('data', chunk => {
        body += chunk
      })
      incoming.on('end', () => response.end('ok'))
    },
  })
  const wire = new Wire(stack.gateway.port)
  const lines = [`X-Request-Id: ${id}`, 'Expect: 100-continue', 'Content-Length: 4']
  wire.send(`${head('POST /', stack.mint(), ...lines)}\r\n`)
  await until(() => asked.has(id))
  assert.equal(wire.text, '', 'not while the STS is asked')
  resolve()
  await wire.receives(/^HTTP\/1\.1 100 Continue\r\n\r\n$/)
  wire.send('body')
  await wire.receives(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK\r\n[^]*\r\n\r\nok$/)
  assert.equal(body, 'body')
  wire.close()

  const refused = new Wire(stack.gateway.port)
  refused.send(`${head('POST /..', stack.mint(), 'Expect: 100-continue', 'Content-Length: 4')}\r\n`)
  assert.match(await refused.ended(), /^HTTP\/1\.1 400 /, 'no 100 for what is refused')
})

test('the gateway takes a caller that half-closes for gone', async () => {
  for (const phase of ['upload', 'wait', 'body'] as const) {
    let reached = false
    let aborted = false
    const outcome = phase === 'body' ? 'response_copy_failed' : 'transport_error'
    const id = register(`upstream_error ${outcome}`, {
      handler: (incoming, response) => {
        reached = true
        incoming.resume()
        if (phase === 'body') response.writeHead(200).write('some')
        response.on('close', () => {
          aborted = true
        })
      },
    })
    const wire = new Wire(stack.gateway.port)
    const lines = phase === 'upload' ? ['Content-Length: 100'] : []
    const text = head('POST /', stack.mint(), `X-Request-Id: ${id}`, ...lines)
    wire.send(`${text}\r\n${phase === 'upload' ? 'some' : ''}`)
    await until(() => reached)
    if (phase === 'body') await wire.receives(/some/)
    wire.socket.end()
    await wire.ended()
    await until(() => aborted)
  }
  const wire = new Wire(stack.gateway.port)
  wire.socket.end(head('POST /', stack.mint()))
  assert.match(await wire.ended(), /^(?:HTTP\/1\.1 400 |$)/, 'half a request')
})

test('the gateway left one event for each request, and nothing in flight', async () => {
  const found = await eventsById(stack, [...expected.keys()])
  const wrong = [...expected].flatMap(([id, outcome]) => {
    const events = found.get(id) ?? []
    const got = events.map(({ event_type: type, evaluation_status: status, metadata_json: data }) =>
      [type, status, ...Object.values({ kind: data['error_kind'] })].join(' ').trim(),
    )
    return got.join() === `gateway_resource_request ${outcome}` ? [] : [[id, outcome, got]]
  })
  assert.deepEqual(wrong, [])
  for (const [id, events] of found) assert.equal(events.length, 1, id)

  for (const gateway of [stack.gateway, hasty]) {
    await until(async () => {
      const answer = await call(gateway.url, '/metrics.json', {
        token: 'metrics-bearer',
        resource: null,
      })
      return answer.json()['requests_in_flight'] === 0
    })
    assert.equal(gateway.child.exitCode, null)
    assert.equal((await call(gateway.url, '/health', { resource: null })).status, 200)
    assert.doesNotMatch(gateway.output(), /unhandled|uncaught|warning|"level":[56]0/i)
  }
})
