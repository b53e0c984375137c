// What is no well-formed HTTP/1.1 request gets a clear answer or a closed connection, and goes no further.
import assert from 'node:assert/strict'
import type { ServerResponse } from 'node:http'
import { after, test } from 'node:test'
import { head, RESOURCE, startStack, Wire } from '../gateway/harness.ts'
import { until } from '../until.ts'
import { answers, answersIn, assertRefusal, assertUnharmed, mandate } from './wire.ts'

const stack = await startStack({ after })

/** What a case sends, given a mandate that would pass. */
type Bytes = (token: string) => string

const get: Bytes = token => head('GET /bad', token)
const post = (...fields: string[]): Bytes => {
  return token => `${head('POST /bad', token, ...fields)}\r\n`
}
const withField = (field: string): Bytes => {
  return token => `${head('GET /bad', token, field)}\r\n`
}
const chunked = (body: string): Bytes => {
  return token => `${head('POST /bad', token, 'Transfer-Encoding: chunked')}\r\n${body}`
}
const fields = (count: number): string[] => Array.from({ length: count }, (_, i) => `X-${i}: 1`)
/** {@link head} brings four lines: the request's and three fields. */
const OWN_FIELDS = 3

/** Refused by the parser: the connection ends. Status 400 unless told. */
const BROKEN: Record<string, Bytes | [status: number, description: string, Bytes]> = {
  'a method nobody knows': token => get(token).replace('GET', 'FOO') + '\r\n',
  'a lower-case method': token => get(token).replace('GET', 'get') + '\r\n',
  'line feeds alone': token => `${get(token)}\r\n`.replaceAll('\r\n', '\n'),
  'a line feed alone behind the request line': token => get(token).replace('\r\n', '\n') + '\r\n',
  'a line feed alone behind a field': token => get(token).replace('\r\nAuth', '\nAuth') + '\r\n',
  'a line feed alone as the empty line': token => `${get(token)}\n`,
  'carriage returns alone': token => `${get(token)}\r\n`.replaceAll('\r\n', '\r'),
  'a folded field': withField('X-A: b\r\n c'),
  'NUL in a field': withField('X-A: a\0b'),
  'a carriage return in a field': withField('X-A: a\rb'),
  'a control character in a field': withField('X-A: a\x01b'),
  'DEL in a field': withField('X-A: a\x7fb'),
  'a space in a field name': withField('X A: b'),
  'a space behind a field name': withField('X-A : b'),
  'a space before the first field': token => get(token).replace('\r\nHost', '\r\n Host') + '\r\n',
  'an empty field name': withField(': b'),
  'a field without a colon': withField('abc'),
  'a field name beyond ASCII': withField('X\xe9: a'),
  'a space in the target': token => get(token).replace('/bad', '/b ad') + '\r\n',
  'a tab in the target': token => get(token).replace('/bad', '/b\tad') + '\r\n',
  'NUL in the target': token => get(token).replace('/bad', '/b\0ad') + '\r\n',
  'UTF-8 in the target': token => get(token).replace('/bad', '/b\xc3\xa9') + '\r\n',
  'bytes in the target that are no UTF-8': token =>
    get(token).replace('/bad', '/\xff\xfe') + '\r\n',
  'a target of another scheme': token => get(token).replace('/bad', 'foo:bad') + '\r\n',
  'a target that is an authority': token => get(token).replace('/bad', 'bad.test:80') + '\r\n',
  'version 1.2': token => get(token).replace('HTTP/1.1', 'HTTP/1.2') + '\r\n',
  'version 1.10': token => get(token).replace('HTTP/1.1', 'HTTP/1.10') + '\r\n',
  'a protocol in lower case': token => get(token).replace('HTTP/1.1', 'http/1.1') + '\r\n',
  'an RTSP method': token => get(token).replace('GET', 'DESCRIBE') + '\r\n',
  'the preface of HTTP/2': () => 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  'a TLS hello': () => `\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03${'h'.repeat(508)}`,
  garbage: () => '\x80\x81garbage\r\n\r\n',
  'Content-Length and Transfer-Encoding': token =>
    `${head('POST /bad', token, 'Content-Length: 5', 'Transfer-Encoding: chunked')}\r\n0\r\n\r\n`,
  'Transfer-Encoding and Content-Length': token =>
    `${head('POST /bad', token, 'Transfer-Encoding: chunked', 'Content-Length: 5')}\r\n0\r\n\r\n`,
  'chunked, chunked': post('Transfer-Encoding: chunked, chunked'),
  'chunked twice': post('Transfer-Encoding: chunked', 'Transfer-Encoding: chunked'),
  'chunked, identity': post('Transfer-Encoding: chunked, identity'),
  'chunked behind a vertical tab': post('Transfer-Encoding: \x0bchunked'),
  'Transfer-Encoding and a space': post('Transfer-Encoding : chunked'),
  'an empty Transfer-Encoding': post('Transfer-Encoding:'),
  'two equal lengths': post('Content-Length: 2', 'Content-Length: 2'),
  'two different lengths': post('Content-Length: 2', 'Content-Length: 3'),
  'a list of lengths': post('Content-Length: 2, 2'),
  'a negative length': post('Content-Length: -2'),
  'a length with a plus': post('Content-Length: +2'),
  'a hexadecimal length': post('Content-Length: 0x2'),
  'a length of 23 digits': post('Content-Length: 99999999999999999999999'),
  'an empty length': post('Content-Length:'),
  'a length with a space': post('Content-Length: 1 2'),
  '64 KiB of one field': [
    431,
    'request header fields too large',
    withField(`X-B: ${'b'.repeat(65_536)}`),
  ],
  '64 KiB of many fields': [
    431,
    'request header fields too large',
    token => `${head('GET /bad', token, ...fields(64).map(f => f + 'b'.repeat(1024)))}\r\n`,
  ],
  'a target of 64 KiB': [
    414,
    'request target too long',
    token => `${head(`GET /${'b'.repeat(65_536)}`, token)}\r\n`,
  ],
}

for (const [name, entry] of Object.entries(BROKEN)) {
  const [status, description, bytes] = Array.isArray(entry)
    ? entry
    : [400, 'malformed HTTP request', entry]
  test(`the gateway refuses ${name} and closes`, async () => {
    const { token, spent } = mandate(stack)
    const wire = new Wire(stack.gateway.port)
    wire.send(bytes(token))
    await wire.ended()
    const { answers: found, rest } = answersIn(wire.text)
    assert.equal(found.length, 1, wire.text)
    assert.equal(rest, '')
    assertRefusal(found[0], { status, description })
    assert.equal(found[0]?.headers['connection'], 'close')
    assert.equal(await spent(), false)
  })
}

/** Refused by a check although the parser took it. */
const REFUSED: Record<string, [status: number, description: string, Bytes, open?: 'open']> = {
  'gzip, chunked': [
    400,
    'transfer coding not supported, only chunked',
    token => `${head('POST /bad', token, 'Transfer-Encoding: gzip, chunked')}\r\n0\r\n\r\n`,
  ],
  'an unknown coding': [
    400,
    'transfer coding not supported, only chunked',
    post('Transfer-Encoding: xchunked'),
  ],
  identity: [
    400,
    'transfer coding not supported, only chunked',
    post('Transfer-Encoding: identity'),
  ],
  'chunked in HTTP/1.0': [
    400,
    'no transfer coding in HTTP/1.0',
    token => chunked('0\r\n\r\n')(token).replace('HTTP/1.1', 'HTTP/1.0'),
  ],
  'HTTP/0.9 without a version': [400, 'neither HTTP/1.1 nor HTTP/1.0', () => 'GET /bad\r\n\r\n'],
  'HTTP/0.9 by name': [
    400,
    'neither HTTP/1.1 nor HTTP/1.0',
    token => get(token).replace('HTTP/1.1', 'HTTP/0.9') + '\r\n',
  ],
  'HTTP/2.0 by name': [
    400,
    'neither HTTP/1.1 nor HTTP/1.0',
    token => get(token).replace('HTTP/1.1', 'HTTP/2.0') + '\r\n',
  ],
  RTSP: [
    400,
    'neither HTTP/1.1 nor HTTP/1.0',
    token => get(token).replace('GET', 'DESCRIBE').replace('HTTP/1.1', 'RTSP/1.0') + '\r\n',
  ],
  'a missing Host': [
    400,
    'exactly one Host header is needed',
    token => get(token).replace('Host: gateway.test\r\n', '') + '\r\n',
    'open',
  ],
  'two Hosts': [400, 'exactly one Host header is needed', withField('Host: other.test'), 'open'],
  'two equal Hosts': [
    400,
    'exactly one Host header is needed',
    withField('Host: gateway.test'),
    'open',
  ],
  'a Host that is none': [
    400,
    'Host header is not a host',
    token => get(token).replace('gateway.test', 'a b/c@d') + '\r\n',
    'open',
  ],
  'a Host beyond ASCII': [
    400,
    'Host header is not a host',
    token => get(token).replace('gateway.test', 'b\xfccher.test') + '\r\n',
    'open',
  ],
  'OPTIONS *': [
    400,
    'request target * names no resource',
    token => `${head('OPTIONS *', token)}\r\n`,
    'open',
  ],
  'GET *': [
    400,
    'request target * names no resource',
    token => `${head('GET *', token)}\r\n`,
    'open',
  ],
  '101 header fields': [
    431,
    'more than 100 header fields',
    token => `${head('GET /bad', token, ...fields(101 - OWN_FIELDS))}\r\n`,
    'open',
  ],
}

for (const [name, [status, description, bytes, open]] of Object.entries(REFUSED)) {
  test(`the gateway refuses ${name}`, async () => {
    const { token, spent } = mandate(stack)
    const wire = new Wire(stack.gateway.port)
    wire.send(bytes(token))
    const [answer] = await answers(wire)
    assertRefusal(answer, { status, description })
    assert.equal(await spent(), false)
    if (open === undefined) {
      assert.equal(answer?.headers['connection'], 'close')
      await wire.ended()
      return
    }
    wire.send(`${head('GET /good', mandate(stack).token)}\r\n`)
    const [, next] = await answers(wire, 2)
    assert.equal(next?.status, 200, wire.text)
    wire.close()
  })
}

const SIZE_REFUSED = {
  'over MAX_REQUEST_BYTES': '10485761',
  'of 2^53 and more': '9007199254740993',
  'of 2^64 - 1': '18446744073709551615',
}

for (const [name, length] of Object.entries(SIZE_REFUSED)) {
  test(`the gateway refuses a declared length ${name} before the exchange`, async () => {
    const { token, spent } = mandate(stack)
    const wire = new Wire(stack.gateway.port)
    wire.send(post(`Content-Length: ${length}`)(token))
    const [answer] = await answers(wire)
    assertRefusal(answer, {
      status: 413,
      error: 'payload_too_large',
      description: 'request body too large',
    })
    assert.equal(await spent(), false)
    // The body never comes: the connection ends of itself.
    await wire.ended()
  })
}

/** Broken in the body: known only when the checks have begun. */
const BROKEN_BODIES: Record<string, string> = {
  'a chunk extension with a bare line feed': '2;a=b\nab\r\n0\r\n\r\n',
  'a chunk extension of 20 KB': `2;a=${'x'.repeat(20_000)}\r\nab\r\n0\r\n\r\n`,
  'a chunk size beyond 64 bits': 'fffffffffffffffff\r\nab\r\n0\r\n\r\n',
  'a negative chunk size': '-2\r\nab\r\n0\r\n\r\n',
  'a chunk size with a prefix': '0x2\r\nab\r\n0\r\n\r\n',
  'a chunk size with a space behind it': '2 \r\nab\r\n0\r\n\r\n',
  'a chunk size with a space before it': ' 2\r\nab\r\n0\r\n\r\n',
  'a chunk longer than its size': '2\r\nabc\r\n0\r\n\r\n',
  'chunks with bare line feeds': '2\nab\n0\n\n',
  'an empty chunk size': '\r\nab\r\n0\r\n\r\n',
  'a broken trailer': '2\r\nab\r\n0\r\nX T: 1\r\n\r\n',
  'a Content-Length in the trailer': '2\r\nab\r\n0\r\nContent-Length: 5\r\n\r\n',
  '20 KB of trailers': `2\r\nab\r\n0\r\nX-T: ${'t'.repeat(20_000)}\r\n\r\n`,
}

for (const [name, body] of Object.entries(BROKEN_BODIES)) {
  test(`the gateway refuses ${name} before the exchange is over, and closes`, async () => {
    const exchanges = stack.sts.exchanges.length
    const wire = new Wire(stack.gateway.port)
    wire.send(chunked(body)(mandate(stack).token))
    await wire.ended()
    const { answers: found, rest } = answersIn(wire.text)
    assert.deepEqual([found.length, rest], [1, ''], wire.text)
    assertRefusal(found[0], { status: 400, description: 'malformed request body' })
    // It came with the headers: the exchange had not begun.
    assert.equal(stack.sts.exchanges.length, exchanges)
  })

  test(`the gateway breaks off ${name} behind dispatch, and closes`, async () => {
    const { token, jti } = mandate(stack)
    const wire = new Wire(stack.gateway.port)
    const path = `/broken-off/${jti}`
    wire.send(`${head(`POST ${path}`, token, 'Transfer-Encoding: chunked')}\r\n5\r\nfirst\r\n`)
    const arrival = await arrived(path)
    wire.send(body)
    await wire.ended()
    const { answers: found, rest } = answersIn(wire.text)
    assert.deepEqual([found.length, rest], [1, ''], wire.text)
    assertRefusal(found[0], {
      status: 400,
      description: 'malformed request body',
      dispatched: 'unknown',
    })
    assert.equal(found[0]?.headers['x-should-retry'], 'false')
    // The upstream must not take half a body for a whole one.
    await assert.rejects(arrival.body)
  })
}

async function arrived(url: string) {
  const find = () => stack.upstream.arrivals.find(arrival => arrival.url === url)
  await until(() => find() !== undefined)
  const arrival = find()
  assert.ok(arrival)
  return arrival
}

/** Odd, but well-formed: goes through, and reaches the upstream as one thing only. */
const ADMITTED: Record<string, [Bytes, url: string, body?: string]> = {
  '100 header fields': [
    token => `${head('GET /good', token, ...fields(100 - OWN_FIELDS))}\r\n`,
    '/good',
  ],
  'chunked in odd case': [
    token => `${head('POST /good', token, 'Transfer-Encoding: CHunKED')}\r\n2\r\nab\r\n0\r\n\r\n`,
    '/good',
    'ab',
  ],
  'chunked with white space around it': [
    token =>
      `${head('POST /good', token, 'Transfer-Encoding:\t chunked ')}\r\n2\r\nab\r\n0\r\n\r\n`,
    '/good',
    'ab',
  ],
  'chunk extensions and trailers': [
    token =>
      `${head('POST /good', token, 'Transfer-Encoding: chunked')}\r\n2;a=b;c="d"\r\nab\r\n0\r\nX-T: 1\r\n\r\n`,
    '/good',
    'ab',
  ],
  'a length with a leading zero': [
    token => `${head('POST /good', token, 'Content-Length: 02')}\r\nab`,
    '/good',
    'ab',
  ],
  'empty lines before the request': [token => `\r\n\r\n${head('GET /good', token)}\r\n`, '/good'],
  'an absolute target': [
    token => `${head('GET http://evil.test/good?q=1', token)}\r\n`,
    '/good?q=1',
  ],
  'an absolute target with credentials': [
    token => `${head('GET https://u:p@evil.test:99/good', token)}\r\n`,
    '/good',
  ],
  'an absolute target without a path': [token => `${head('GET http://evil.test', token)}\r\n`, '/'],
  'Upgrade with a body': [
    token =>
      `${head('POST /good', token, 'Connection: Upgrade', 'Upgrade: websocket', 'Content-Length: 2')}\r\nab`,
    '/good',
    'ab',
  ],
  'header bytes beyond ASCII': [
    token => `${head('GET /good', token, 'X-L: \xe9\xff')}\r\n`,
    '/good',
  ],
}

for (const [name, [bytes, url, body = '']] of Object.entries(ADMITTED)) {
  test(`the gateway admits ${name}`, async () => {
    const before = stack.upstream.arrivals.length
    const wire = new Wire(stack.gateway.port)
    wire.send(bytes(mandate(stack).token))
    const [answer] = await answers(wire)
    assert.equal(answer?.status, 200, wire.text)
    wire.close()
    const [arrival, ...more] = stack.upstream.arrivals.slice(before)
    assert.deepEqual(more, [])
    assert.equal(arrival?.url, url)
    assert.equal((await arrival.body).toString(), body)
    assert.equal(arrival.headers['host'], `127.0.0.1:${stack.upstream.port}`)
    assert.equal(arrival.headers['upgrade'], undefined)
  })
}

test('the gateway closes behind HTTP/1.0, and keeps the connection when that asks for it', async () => {
  const old = (...more: string[]) =>
    `${head('GET /good', mandate(stack).token, ...more).replace('HTTP/1.1', 'HTTP/1.0')}\r\n`
  const plain = new Wire(stack.gateway.port)
  plain.send(old())
  await plain.ended()
  assert.deepEqual(
    answersIn(plain.text).answers.map(({ status }) => status),
    [200],
  )
  const kept = new Wire(stack.gateway.port)
  kept.send(old('Connection: keep-alive'))
  await answers(kept)
  kept.send(old('Connection: keep-alive'))
  const [, second] = await answers(kept, 2)
  assert.equal(second?.status, 200)
  kept.close()
})

test('the gateway reads no smuggled request behind 2,100 header fields', async () => {
  const smuggled = mandate(stack)
  const inner = `${head('GET /smuggled', smuggled.token)}\r\n`
  const outer = [
    ...Array.from({ length: 2100 }, () => 'a:b'),
    `Content-Length: ${Buffer.byteLength(inner)}`,
  ]
  const { token, spent } = mandate(stack)
  const wire = new Wire(stack.gateway.port)
  wire.send(`${head('POST /bad', token, ...outer)}\r\n${inner}`)
  const [answer] = await answers(wire)
  // Some releases of Node's parser give up by themselves, then the connection ends.
  assertRefusal(answer, { status: 431, description: /header fields/ })
  if (answer?.headers['connection'] === 'close') await wire.ended()
  else {
    wire.send(`${head('GET /good', mandate(stack).token)}\r\n`)
    const [, next] = await answers(wire, 2)
    assert.equal(next?.status, 200)
  }
  assert.ok(answersIn(wire.text).answers.length <= 2, wire.text)
  wire.close()
  assert.equal(await spent(), false)
  assert.equal(await smuggled.spent(), false)
})

test('the gateway reads no smuggled request in the body of a refused one', async () => {
  const smuggled = mandate(stack)
  const inner = `${head('GET /smuggled', smuggled.token)}\r\n`
  const wire = new Wire(stack.gateway.port)
  wire.send(
    `POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: ${Buffer.byteLength(inner)}\r\n\r\n${inner}`,
  )
  const [answer] = await answers(wire)
  assertRefusal(answer, {
    status: 401,
    error: 'invalid_token',
    description: 'missing bearer token',
  })
  wire.send(`${head('GET /good', mandate(stack).token)}\r\n`)
  const [, next] = await answers(wire, 2)
  assert.equal(next?.status, 200)
  wire.close()
  assert.equal(await smuggled.spent(), false)
})

test('the gateway refuses CONNECT, and keeps its request id', async () => {
  const wire = new Wire(stack.gateway.port)
  wire.send('CONNECT bad.test:80 HTTP/1.1\r\nHost: bad.test:80\r\nX-Request-Id: rid-1\r\n\r\n')
  await wire.ended()
  const [answer] = await answers(wire)
  assertRefusal(answer, { status: 405, description: 'method not allowed' })
  assert.equal(answer?.headers['x-request-id'], 'rid-1')
  assert.match(answer.headers['allow'] ?? '', /\bGET\b.*\bPOST\b/)
  assert.doesNotMatch(answer.headers['allow'] ?? '', /CONNECT/)
})

test('the gateway answers pipelined requests in order', async () => {
  const slow = mandate(stack)
  const wire = new Wire(stack.gateway.port)
  const { handler } = stack.upstream
  const waiting = new Map<string, ServerResponse>()
  stack.upstream.handler = (request, response) => {
    waiting.set(request.url ?? '', response)
    if (waiting.size < 2) return
    // The answer that is due last comes first.
    waiting.get('/second')?.end('second', () => waiting.get('/first')?.end('first'))
  }
  wire.send(
    `${head('GET /first', slow.token)}\r\n${head('GET /second', mandate(stack).token)}\r\nGET /bad HTTP/1.1\r\nHost: a\r\n\r\n`,
  )
  const found = await answers(wire, 3)
  assert.deepEqual(
    found.map(({ status, body }) => [status, status === 200 ? body : '']),
    [
      [200, 'first'],
      [200, 'second'],
      [401, ''],
    ],
  )
  stack.upstream.handler = handler
  wire.close()
})

test('the gateway answers a request before the garbage behind it, and then closes', async () => {
  for (const first of [
    `${head('GET /first', mandate(stack).token)}\r\n`,
    'GET /health HTTP/1.1\r\nHost: a\r\n\r\n',
  ]) {
    const denials = await stack.metric('requests_denied')
    const wire = new Wire(stack.gateway.port)
    wire.send(`${first}garbage\r\n\r\n`)
    wire.send('more garbage\r\n\r\n')
    await wire.ended()
    const { answers: found, rest } = answersIn(wire.text)
    assert.deepEqual([found.map(({ status }) => status), rest], [[200], ''], wire.text)
    assert.equal(await stack.metric('requests_denied'), denials)
  }
})

test('the gateway executes nothing behind garbage', async () => {
  const behind = mandate(stack)
  const wire = new Wire(stack.gateway.port)
  wire.send(`garbage\r\n\r\n${head('GET /bad', behind.token)}\r\n`)
  await wire.ended()
  const { answers: found, rest } = answersIn(wire.text)
  assert.deepEqual([found.map(({ status }) => status), rest], [[400], ''])
  assert.equal(await behind.spent(), false)
})

test('the gateway executes nothing behind Connection: close', async () => {
  const behind = mandate(stack)
  const wire = new Wire(stack.gateway.port)
  wire.send(
    `${head('GET /good', mandate(stack).token, 'Connection: close')}\r\n${head('GET /bad', behind.token)}\r\n`,
  )
  await wire.ended()
  const { answers: found, rest } = answersIn(wire.text)
  assert.deepEqual([found.map(({ status }) => status), rest], [[200], ''])
  assert.equal(await behind.spent(), false)
})

test('the gateway never lets a refusal of CONNECT pass for the answer of the request before it', async () => {
  const wire = new Wire(stack.gateway.port)
  wire.send(
    `${head('GET /first', mandate(stack).token)}\r\nCONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n`,
  )
  await wire.ended()
  assert.equal(wire.text, '')
})

test('the gateway counts one denial for one refusal, however the bytes of it come', async () => {
  const denials = await stack.metric('requests_denied')
  const lines = stack.gateway.logs.length
  const wire = new Wire(stack.gateway.port)
  wire.send('garbage\r\n\r\n')
  await wire.receives(/malformed HTTP request/)
  for (let i = 0; i < 20; i++) {
    wire.send('more\r\n\r\n')
    await new Promise(setImmediate)
  }
  await wire.ended()
  assert.equal(await stack.metric('requests_denied'), denials + 1)
  const denied = stack.gateway.logs.slice(lines).filter(({ msg }) => msg === 'request denied')
  assert.equal(denied.length, 1)
  assert.equal(denied[0]?.['check'], 'malformed_request')
  assert.equal(denied[0]['reqId'], answersIn(wire.text).answers[0]?.headers['x-request-id'])
})

test('the gateway finds no resource behind bytes that are no UTF-8', async () => {
  const wire = new Wire(stack.gateway.port)
  const { token } = mandate(stack)
  wire.send(`${head('GET /bad', token).replace(RESOURCE, '\xff\xfe')}\r\n`)
  const [answer] = await answers(wire)
  assert.equal(answer?.status, 403, wire.text)
  wire.close()
})

test('the gateway is unharmed, and nothing that was refused reached the STS or the upstream', async () => {
  await assertUnharmed(stack)
  const reached = stack.upstream.arrivals.map(({ url }) => url)
  assert.deepEqual(
    reached.filter(url => /^\/bad|smuggled/.test(url)),
    [],
  )
  assert.ok(reached.includes('/unharmed'))
  assert.deepEqual(
    stack.sts.exchanges.filter(({ fields: { request_path: path = '' } }) => /smuggled/.test(path)),
    [],
  )
})
