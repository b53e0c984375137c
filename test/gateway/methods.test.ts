// Every method, body, content type and status goes through, whatever a framework would make of it (contract section 5).
import assert from 'node:assert/strict'
import { METHODS } from 'node:http'
import { after, test } from 'node:test'
import { until } from '../until.ts'
import { call, head, startStack, Wire } from './harness.ts'
import { eventsById, inParallel, send, startRawUpstream, valuesOf } from './raw.ts'

const stack = await startStack({ after })
const raw = await startRawUpstream({ after }, (socket, received) => {
  const answer = rawAnswers.get(/^x-request-id: (.*)\r$/im.exec(received)?.[1] ?? '')
  socket.end(Buffer.from(answer ?? '', 'latin1'))
})
const rawAnswers = new Map<string, string>()
/** Where requests go that do not go to the stack's own upstream. */
const urls = new Map<string, string>()
stack.sts.respond = exchange => {
  const url = urls.get(exchange.fields['gateway_request_id'] ?? '')
  return url === undefined ? undefined : { directive: { url, auth_mode: 'none' } }
}

let count = 0
const nextId = () => `method-${count++}`

function arrivalOf(id: string) {
  const arrivals = stack.upstream.arrivals.filter(({ headers }) => headers['x-request-id'] === id)
  assert.equal(arrivals.length, 1, `${id} arrives once`)
  return arrivals[0] ?? assert.fail()
}

/** Has an upstream answer these bytes, and then close. */
function answered(bytes: string, method = 'GET', body?: string) {
  const id = nextId()
  rawAnswers.set(id, bytes)
  urls.set(id, raw.url)
  const options = { token: stack.mint(), id, method, ...(body !== undefined && { body }) }
  return send(stack.gateway.port, options).then(answer => ({ ...answer, id }))
}

const PROXIED = METHODS.filter(method => method !== 'CONNECT')

test('the gateway proxies every method, with and without a body', async () => {
  assert(PROXIED.includes('QUERY') && PROXIED.includes('M-SEARCH') && PROXIED.length > 30)
  const cases = PROXIED.flatMap(method => [
    { method, body: undefined, headers: [] },
    { method, body: 'body', headers: [] },
    { method, body: 'body', headers: ['Transfer-Encoding', 'chunked'] },
    { method, body: 'body', headers: ['Content-Type', 'application/json'] },
  ])
  await inParallel(cases, 8, async ({ method, body, headers }) => {
    const id = nextId()
    const answer = await send(stack.gateway.port, {
      token: stack.mint(),
      id,
      method,
      headers,
      ...(body !== undefined && { body }),
    })
    const what = `${method} ${body} ${headers.join(' ')}`
    assert.equal(answer.status, 200, `${what}: ${answer.text}`)
    assert.equal(answer.text, method === 'HEAD' ? '' : 'ok', what)
    const arrival = arrivalOf(id)
    assert.equal(arrival.method, method)
    assert.equal((await arrival.body).toString(), body ?? '', what)
    const { rawHeaders } = arrival
    if (headers[0] === 'Transfer-Encoding') {
      assert.deepEqual(valuesOf(rawHeaders, 'transfer-encoding'), ['chunked'], what)
      assert.deepEqual(valuesOf(rawHeaders, 'content-length'), [], what)
    } else if (body !== undefined) {
      assert.deepEqual(valuesOf(rawHeaders, 'content-length'), ['4'], what)
      assert.deepEqual(valuesOf(rawHeaders, 'transfer-encoding'), [], what)
    }
    const exchange = stack.sts.exchanges.find(({ fields }) => fields['gateway_request_id'] === id)
    assert.equal(exchange?.fields['request_method'], method)
  })
})

test('the gateway refuses CONNECT and methods that are none', async () => {
  const arrived = stack.upstream.arrivals.length
  const exchanged = stack.sts.exchanges.length
  for (const [line, status] of [
    ['CONNECT evil.test:443', 405],
    ['CONNECT 127.0.0.1:80', 405],
    ['BREW /pot', 400],
    ['get /', 400],
    ['PRI *', 400],
  ] as const) {
    const wire = new Wire(stack.gateway.port)
    wire.send(`${head(line, stack.mint())}\r\n`)
    const text = await wire.ended()
    assert.match(text, new RegExp(`^HTTP/1\\.1 ${status} `), line)
    assert.match(text, /"dispatched":"no"/, line)
  }
  assert.equal(stack.upstream.arrivals.length, arrived)
  assert.equal(stack.sts.exchanges.length, exchanged)
})

test('the gateway forwards a body of any content type, malformed ones too', async () => {
  const types = [
    'application/json',
    'application/json; charset=utf-8',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'multipart/form-data',
    'text/event-stream',
    'application/grpc',
    'x',
    '/',
    ';',
    ',',
    'text/',
    '/plain',
    'text/plain;;;',
    'text/plain; charset',
    'text/plain; charset="',
    'text/plain, application/json',
    '*/*',
    'a'.repeat(500),
    'gr\u00fc\u00df/\u00ff',
    'text/plain; a=b; a=c; __proto__=x',
    '',
  ]
  const body = '{"not json'
  await inParallel([...types, undefined], 8, async type => {
    await inParallel(['POST', 'GET', 'QUERY', 'PUT'], 1, async method => {
      const id = nextId()
      const headers = type === undefined ? [] : ['Content-Type', type]
      const answer = await send(stack.gateway.port, {
        token: stack.mint(),
        id,
        method,
        headers,
        body,
      })
      assert.equal(answer.status, 200, `${method} ${type}: ${answer.text}`)
      const arrival = arrivalOf(id)
      assert.deepEqual(
        valuesOf(arrival.rawHeaders, 'content-type'),
        type === undefined ? [] : [type],
      )
      assert.equal((await arrival.body).toString(), body, type)
    })
  })
  const id = nextId()
  const headers = ['Content-Type', 'text/plain', 'Content-Type', 'application/json']
  const twice = await send(stack.gateway.port, {
    token: stack.mint(),
    id,
    method: 'POST',
    headers,
    body,
  })
  assert.equal(twice.status, 200)
  assert.deepEqual(valuesOf(arrivalOf(id).rawHeaders, 'content-type'), [
    'text/plain',
    'application/json',
  ])
})

test('the gateway forwards an empty body as one', async () => {
  for (const [method, headers] of [
    ['POST', []],
    ['POST', ['Content-Length: 0']],
    ['POST', ['Transfer-Encoding: chunked']],
    ['POST', ['Content-Length: 0', 'Content-Type: application/json']],
    ['PUT', ['Content-Type: application/json']],
    ['GET', ['Content-Length: 0']],
    ['DELETE', ['Content-Length: 0', 'Content-Type: application/json']],
    ['HEAD', ['Transfer-Encoding: chunked']],
  ] as const) {
    const id = nextId()
    const wire = new Wire(stack.gateway.port)
    const end = headers.some(line => line.startsWith('Transfer')) ? '0\r\n\r\n' : ''
    wire.send(`${head(`${method} /`, stack.mint(), `X-Request-Id: ${id}`, ...headers)}\r\n${end}`)
    const text = await wire.receives(method === 'HEAD' ? /\r\n\r\n/ : /\r\n\r\n[^]*ok/)
    assert.match(text, /^HTTP\/1\.1 200 /, `${method} ${headers.join()}`)
    const arrival = arrivalOf(id)
    assert.equal((await arrival.body).length, 0)
    const type = headers.some(line => line.startsWith('Content-Type')) ? ['application/json'] : []
    assert.deepEqual(valuesOf(arrival.rawHeaders, 'content-type'), type)
    // The same connection carries the next request: nothing of the first was left on it.
    const next = nextId()
    wire.send(`${head('GET /next', stack.mint(), `X-Request-Id: ${next}`)}\r\n`)
    await until(() => wire.text.split('HTTP/1.1 200').length === 3)
    wire.close()
  }
})

test('the gateway answers HEAD with the headers of the answer and no body', async () => {
  const answer = await answered(
    'HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: "x"\r\n\r\n',
    'HEAD',
  )
  assert.equal(answer.status, 200)
  assert.deepEqual(answer.values('content-length'), ['12345'])
  assert.deepEqual(answer.values('etag'), ['"x"'])
  assert.equal(answer.body.length, 0)
  const chunked = await answered('HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n', 'HEAD')
  assert.equal(chunked.status, 404)
  const withBody = await answered('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n', 'HEAD', 'body')
  assert.equal(withBody.status, 200)
  const found = await eventsById(stack, [answer.id, chunked.id, withBody.id])
  for (const events of found.values()) {
    for (const event of events) {
      if (event.request_id === answer.id) assert.equal(event.evaluation_status, 'executed')
    }
  }
})

test('the gateway passes answers without a body on, whatever length they tell', async () => {
  // Without a length of the upstream's the answer may end as a chunked one, or as one of length 0.
  const cases: [string, number, string[] | undefined][] = [
    ['HTTP/1.1 204 No Content\r\n\r\n', 204, []],
    ['HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n', 204, []],
    ['HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n', 204, []],
    ['HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n', 304, []],
    ['HTTP/1.1 304 Not Modified\r\nContent-Length: 12345\r\n\r\n', 304, ['12345']],
    ['HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n', 304, []],
    ['HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n', 200, ['0']],
    ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', 200, undefined],
    ['HTTP/1.1 200 OK\r\n\r\n', 200, undefined],
    ['HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n', 205, ['0']],
  ]
  const answers = await inParallel(cases, 4, ([bytes]) => answered(bytes))
  const events = await eventsById(
    stack,
    answers.map(({ id }) => id),
  )
  for (const [index, answer] of answers.entries()) {
    const [bytes, status, length] = cases[index] ?? assert.fail()
    assert.equal(answer.status, status, bytes)
    assert.equal(answer.body.length, 0)
    assert(answer.complete, bytes)
    if (length !== undefined) assert.deepEqual(answer.values('content-length'), length, bytes)
    const [event, ...more] = events.get(answer.id) ?? []
    assert.equal(event?.evaluation_status, 'executed', bytes)
    assert.equal(event?.metadata_json['upstream_status'], status)
    assert.deepEqual(more, [])
  }
})

test('the gateway waits for no body behind a 304 or a 204', async t => {
  const open = await startRawUpstream(t, (socket, received) => {
    const status = received.includes('/204') ? 204 : 304
    const framing = received.includes('chunked')
      ? 'Transfer-Encoding: chunked'
      : 'Content-Length: 5'
    // The connection stays open, as with any server that keeps them alive.
    socket.write(`HTTP/1.1 ${status} Any\r\n${framing}\r\n\r\n`)
  })
  for (const path of ['/304', '/204', '/304/chunked', '/204/chunked']) {
    const id = nextId()
    urls.set(id, open.url)
    const answer = await send(stack.gateway.port, { token: stack.mint(), id, path })
    assert.equal(`/${answer.status}`, path.slice(0, 4))
    const [event] = await stack.eventsOf(id)
    assert.equal(event?.evaluation_status, 'executed', path)
  }
  await until(() => open.sockets.size === 0)
})

test('the gateway passes every final status on, and no interim one', async () => {
  const statuses = Array.from({ length: 900 }, (_, index) => 100 + index)
  const answers = await inParallel(statuses, 16, status =>
    answered(`HTTP/1.1 ${status} Any Reason\r\nConnection: close\r\nX-Is: ${status}\r\n\r\nbody`),
  )
  for (const [index, answer] of answers.entries()) {
    const status = statuses[index] ?? 0
    if (status < 200) {
      assert.equal(answer.status, 502, `${status}`)
      assert.equal(answer.json()['error_description'], 'upstream unreachable')
      assert.equal(answer.json()['dispatched'], 'unknown')
      assert.deepEqual(answer.values('x-should-retry'), ['false'])
      assert.deepEqual(answer.values('x-is'), [])
      continue
    }
    assert.equal(answer.status, status)
    assert.deepEqual(answer.values('x-is'), [`${status}`])
    assert.equal(answer.text, status === 204 || status === 304 ? '' : 'body', `${status}`)
    assert(answer.complete, `${status}`)
  }
  const events = await eventsById(
    stack,
    answers.map(({ id }) => id),
  )
  for (const [index, { id, status }] of answers.entries()) {
    const [event, ...more] = events.get(id) ?? []
    assert.deepEqual(more, [])
    assert.equal(
      event?.evaluation_status,
      status === 502 && index < 100 ? 'upstream_error' : 'executed',
      id,
    )
    assert.equal(event?.metadata_json['gateway_status'], status)
    const classes = ['unknown', 'unknown', 'success', 'redirect', 'client_error', 'server_error']
    const expected = classes[Math.floor((statuses[index] ?? 0) / 100)] ?? 'unknown'
    assert.equal(event?.metadata_json['result_class'], expected)
  }
  assert.equal(stack.gateway.child.exitCode, null)
})

test('the gateway skips interim answers and passes on the final one', async () => {
  const interim = 'HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nX-Early: 1\r\n\r\n'
  const processing = 'HTTP/1.1 102 Processing\r\n\r\n'
  const final = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
  for (const bytes of [interim + final, processing + interim + processing + final]) {
    const answer = await answered(bytes)
    assert.equal(answer.status, 200)
    assert.equal(answer.text, 'ok')
    assert.deepEqual(answer.values('x-early'), [])
  }
})

test('the gateway answers 502 to what is no HTTP, and the mandate is gone', async () => {
  const cases = [
    '',
    'hello\r\n\r\n',
    'HTTP/1.1\r\n\r\n',
    'HTTP/1.1 2000 OK\r\n\r\n',
    'HTTP/1.1 20 OK\r\n\r\n',
    'HTTP/1.1 abc OK\r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab',
    'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nBad Header: 1\r\n\r\n',
    'HTTP/1.1 200 OK\r\nX: \u0000\r\n\r\n',
    'HTTP/1.1 200 OK\r\nX-Half',
    'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
    'HTTP/1.1 100 Continue\r\n\r\n',
    'SSH-2.0-OpenSSH_9.2\r\n',
    '\u0015\u0003\u0001\u0000\u0002\u0002\u0028',
    `HTTP/1.1 200 OK\r\nX-Big: ${'a'.repeat(100_000)}\r\n\r\n`,
  ]
  const answers = await inParallel(cases, 8, bytes => answered(bytes))
  const events = await eventsById(
    stack,
    answers.map(({ id }) => id),
  )
  for (const [index, answer] of answers.entries()) {
    const bytes = JSON.stringify(cases[index]).slice(0, 60)
    assert.equal(answer.status, 502, bytes)
    const { error, error_description: description, dispatched } = answer.json()
    assert.deepEqual(
      [error, description, dispatched],
      ['internal_error', 'upstream unreachable', 'unknown'],
      bytes,
    )
    assert.deepEqual(answer.values('x-should-retry'), ['false'])
    const [event, ...more] = events.get(answer.id) ?? []
    assert.deepEqual(more, [])
    assert.equal(event?.evaluation_status, 'upstream_error', bytes)
    assert.equal(event?.metadata_json['error_kind'], 'transport_error', bytes)
    assert.equal(event?.metadata_json['gateway_status'], 502)
  }
  assert.equal(stack.gateway.child.exitCode, null)
})

test('the gateway forwards a request for an upgrade as a plain one', async () => {
  const upgrades = [
    [
      'Connection: Upgrade',
      'Upgrade: websocket',
      'Sec-WebSocket-Key: x',
      'Sec-WebSocket-Version: 13',
    ],
    ['Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABk'],
    ['Connection: keep-alive, upgrade', 'Upgrade: foo/2'],
  ]
  for (const lines of upgrades) {
    const wire = new Wire(stack.gateway.port)
    const ids = [nextId(), nextId(), nextId()] as const
    const first = head('GET /ws', stack.mint(), `X-Request-Id: ${ids[0]}`, ...lines)
    wire.send(`${first}\r\n`)
    await wire.receives(/\nok$/)
    const length = 'Content-Length: 4'
    const second = head('POST /ws', stack.mint(), `X-Request-Id: ${ids[1]}`, ...lines, length)
    wire.send(`${second}\r\nbody`)
    await wire.receives(/200 OK[^]*\nok[^]*200 OK[^]*\nok$/)
    const third = head('GET /plain', stack.mint(), `X-Request-Id: ${ids[2]}`, 'Connection: close')
    wire.send(`${third}\r\n`)
    const text = await wire.ended()
    assert.equal(text.split('HTTP/1.1 200 OK').length, 4, text)
    assert.doesNotMatch(text, /HTTP\/1\.1 101|^upgrade:/im)
    for (const id of ids) {
      const { headers, body } = arrivalOf(id)
      assert.equal(headers.upgrade, undefined)
      assert.equal(headers['http2-settings'], undefined)
      assert.doesNotMatch(String(headers.connection), /upgrade/i)
      assert.equal((await body).toString(), id === ids[1] ? 'body' : '')
    }
  }
})

test('the gateway serves HTTP/1.0', async () => {
  const id = nextId()
  const wire = new Wire(stack.gateway.port)
  const request = head(
    'POST /old',
    stack.mint(),
    `X-Request-Id: ${id}`,
    'Expect: 100-continue',
    'Content-Length: 4',
  )
  wire.send(`${request.replace('HTTP/1.1', 'HTTP/1.0')}\r\nbody`)
  const text = await wire.ended()
  assert.match(text, /^HTTP\/1\.1 200 OK\r\n/, 'no 100 to a version that knows none')
  assert.doesNotMatch(text, /transfer-encoding/i)
  assert.match(text, /\r\n\r\nok$/)
  assert.equal((await arrivalOf(id).body).toString(), 'body')
})

test('the gateway answers pipelined requests in their order', async () => {
  const wire = new Wire(stack.gateway.port)
  const paths = ['/1', '/2', '/3', '/4']
  stack.upstream.handler = (request, response, body) => {
    void body.then(() => response.end(`path ${request.url};`))
  }
  wire.send(
    paths
      .map((path, index) =>
        head(`GET ${path}`, stack.mint(), ...(index === 3 ? ['Connection: close'] : [])),
      )
      .map(text => `${text}\r\n`)
      .join(''),
  )
  const text = await wire.ended()
  assert.deepEqual(
    text.match(/path [^;]*/g),
    paths.map(path => `path ${path}`),
  )
})

test('the gateway is none the worse for it', async () => {
  const { status } = await call(stack.gateway.url, '/health', { resource: null })
  assert.equal(status, 200)
  assert.doesNotMatch(stack.gateway.output(), /unhandled|uncaught|warning:/i)
})
