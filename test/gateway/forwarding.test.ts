// Which headers cross the gateway, in both directions, line by line (contract section 5).
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import type { ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Socket } from 'node:net'
import { after, test } from 'node:test'
import { createCertificate } from '../certificate.ts'
import { call, head, RESOURCE, startGateway, startStack, Wire } from './harness.ts'
import {
  inParallel,
  type RawAnswer,
  type RawRequest,
  send,
  startRawUpstream,
  valuesOf,
} from './raw.ts'

const stack = await startStack({ after })
let count = 0
const answers = new Map<string, (response: ServerResponse) => void>()
const directives = new Map<string, Readonly<Record<string, unknown>>>()

stack.upstream.handler = (request, response, body) => {
  const respond = () => {
    const answer = answers.get(String(request.headers['x-request-id']))
    if (answer === undefined) response.end('ok')
    else answer(response)
  }
  body.then(respond, () => response.destroy())
}
stack.sts.respond = exchange => {
  const directive = directives.get(exchange.fields['gateway_request_id'] ?? '')
  return directive && { directive: { url: stack.upstream.url, ...directive } }
}

/** Forwards one request; what the upstream got of it. */
async function forwarded(
  headers: readonly string[],
  options: Partial<RawRequest> & { readonly port?: number; readonly directive?: object } = {},
): Promise<{ lines: readonly string[]; values: (name: string) => string[]; answer: RawAnswer }> {
  const id = options.id ?? `forward-${count++}`
  directives.set(id, { auth_mode: 'none', ...options.directive })
  const { port = stack.gateway.port } = options
  const answer = await send(port, { token: stack.mint(), id, ...options, headers })
  assert.equal(answer.status, 200, answer.text)
  const arrival = stack.upstream.arrivals.find(({ rawHeaders }) =>
    valuesOf(rawHeaders, 'x-request-id').includes(id),
  )
  assert(arrival !== undefined, `nothing arrived of ${id}`)
  const lines = arrival.rawHeaders
  return { lines, values: name => valuesOf(lines, name), answer }
}

/** Has the upstream answer with these header lines; what came of them. */
async function answered(
  headers: readonly string[],
  directive: object = {},
  status = 200,
): Promise<RawAnswer> {
  const id = `answer-${count++}`
  directives.set(id, { auth_mode: 'none', ...directive })
  answers.set(id, response => {
    response.sendDate = false
    // As bytes: Node writes the headers before a text in the text's encoding.
    response.writeHead(status, [...headers]).end(Buffer.from('ok'))
  })
  return send(stack.gateway.port, { token: stack.mint(), id })
}

test('the gateway forwards end-to-end headers to the byte, in their order, case and repetition', async () => {
  const kept = [
    'Accept',
    'application/json',
    'x-LOWER-Upper',
    'Value  with  spaces',
    'X-Twice',
    'one',
    'X-Twice',
    'two',
    'Cookie',
    'a=1',
    'Cookie',
    'b=2',
    'Accept-Encoding',
    'gzip, br',
    'User-Agent',
    'agent/1.0',
    'Mcp-Session-Id',
    'session-1',
    'MCP-Protocol-Version',
    '2025-06-18',
    'Last-Event-ID',
    '42',
    'X-Latin',
    'gr\u00fc\u00df \u00ff',
    'X-Utf8',
    Buffer.from('日本').toString('latin1'),
    'X-Empty',
    '',
    'Via',
    '1.1 edge',
    'Content-Type',
    'application/x-anything; charset="x"',
    'Content-Encoding',
    'gzip',
    'If-None-Match',
    '"etag"',
    'Range',
    'bytes=0-1',
    'Origin',
    'https://app.test',
    'Sec-Fetch-Mode',
    'cors',
    'X-Real-IPs',
    'not the reserved name',
    'XCaracal-Thing',
    'not the reserved prefix',
    '__proto__',
    'a field like any other',
    'constructor',
    'so is this',
  ]
  const { lines } = await forwarded(kept)
  const own = new Set(['host', 'x-request-id', 'traceparent', 'connection'])
  const passed = lines.filter((_, index) => {
    const name = (lines[index - (index % 2)] ?? '').toLowerCase()
    return !own.has(name) && !name.startsWith('x-forwarded-')
  })
  assert.deepEqual(passed, kept)
})

test('the gateway sends nothing of the caller that is hop-by-hop, identity or forwarding', async () => {
  const dropped = {
    'Proxy-Connection': 'keep-alive',
    'Keep-Alive': 'timeout=5',
    'Proxy-Authenticate': 'Basic',
    'Proxy-Authorization': 'Basic eDp5',
    TE: 'trailers',
    Trailer: 'X-Sum',
    Upgrade: 'h2c',
    'X-Caracal-Identity': 'forged',
    'X-Caracal-Anything': 'forged',
    'x-CARACAL-zone': 'forged',
    'X-Forwarded-Port': '1',
    'X-Forwarded-Prefix': '/x',
    'X-Forwarded-Server': 'x',
    'X-FORWARDED-Whatever': 'x',
    Forwarded: 'for=6.6.6.6;host=evil.test',
    'X-Real-IP': '6.6.6.6',
  }
  const { lines, values } = await forwarded(
    [...Object.entries(dropped).flat(), 'Transfer-Encoding', 'chunked'],
    { method: 'POST', body: 'body' },
  )
  for (const name of Object.keys(dropped)) assert.deepEqual(values(name), [], name)
  assert.deepEqual(values('authorization'), [], 'the mandate stays here')
  assert.deepEqual(values('x-caracal-resource'), [])
  assert.deepEqual(values('expect'), [])
  assert.doesNotMatch(lines.join('\n'), /6\.6\.6\.6|forged/)
})

test('the gateway sends Expect to no upstream', async () => {
  for (const expect of ['100-continue', 'something-else']) {
    const { values, answer } = await forwarded(['Expect', expect], { method: 'POST', body: 'body' })
    assert.deepEqual(values('expect'), [])
    assert.equal(answer.text, 'ok')
  }
})

test('the gateway drops what Connection names, but none of its own headers', async () => {
  const trace = `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`
  const headers = [
    'Connection',
    'X-Request-Id, Authorization, Content-Length, Host, close',
    'connection',
    'traceparent,X-Forwarded-For ,\tX-FORWARDED-PROTO,, X-Forwarded-Host, Api-Key,X-Private, Content-Type',
    'X-Private',
    'secret',
    'X-Public',
    'open',
    'Content-Type',
    'text/plain',
    'traceparent',
    trace,
  ]
  const { values } = await forwarded(headers, {
    method: 'POST',
    body: 'twelve bytes',
    id: 'own-headers',
    directive: { auth_mode: 'provider_apikey', provider_token: 'key-1', auth_header: 'Api-Key' },
  })
  assert.deepEqual(values('x-private'), [])
  assert.deepEqual(values('content-type'), [])
  assert.deepEqual(values('x-public'), ['open'])
  assert.deepEqual(values('x-request-id'), ['own-headers'])
  assert.deepEqual(values('host'), [`127.0.0.1:${stack.upstream.port}`])
  assert.deepEqual(values('content-length'), ['12'])
  assert.deepEqual(values('api-key'), ['key-1'])
  assert.deepEqual(values('traceparent'), [trace])
  assert.deepEqual(values('x-forwarded-for'), ['127.0.0.1'])
  assert.deepEqual(values('x-forwarded-proto'), ['http'])
  assert.deepEqual(values('x-forwarded-host'), ['gateway.test'])
  const [arrival] = stack.upstream.arrivals.filter(
    ({ headers: { 'x-request-id': id } }) => id === 'own-headers',
  )
  assert.equal((await arrival?.body)?.toString(), 'twelve bytes')
})

test('the gateway keeps its credential when Connection names Authorization', async () => {
  const { values } = await forwarded(['Connection', 'authorization, X-Caracal-Identity'], {
    directive: {
      auth_mode: 'provider_oauth',
      provider_token: 'token-1',
      auth_scheme: 'Bearer',
      forward_caracal_identity: true,
    },
  })
  assert.deepEqual(values('authorization'), ['Bearer token-1'])
  assert.equal(values('x-caracal-identity').length, 1)
})

test('the gateway replaces a caller header that carries the credential, in any case', async () => {
  const { values } = await forwarded(['API-KEY', 'forged', 'api-key', 'forged'], {
    directive: { auth_mode: 'provider_apikey', provider_token: 'key-1', auth_header: 'Api-Key' },
  })
  assert.deepEqual(values('api-key'), ['key-1'])
})

test('the gateway takes caracal.* out of baggage and nothing else', async () => {
  const cases: [string[], string[]][] = [
    [['a=1,b=2;meta=x'], ['a=1,b=2;meta=x']],
    [['caracal.session=1'], []],
    [['a=1,caracal.session=1, b=2'], ['a=1, b=2']],
    [
      ['caracal.session=1,b=2', 'c=3'],
      ['b=2', 'c=3'],
    ],
    [['CARACAL.Session=1,b=2'], ['b=2']],
    [['caracal%2Esession=1,b=2'], ['b=2']],
    [[' caracal.session = 1 ,b=2'], ['b=2']],
    [['caracal.session;x=1,b=2'], ['b=2']],
    [['caracals=1,caracal=2,my.caracal.x=3'], ['caracals=1,caracal=2,my.caracal.x=3']],
    [['a=caracal.x'], ['a=caracal.x']],
  ]
  const got = await inParallel(cases, 4, async ([sent]) => {
    const { values } = await forwarded(sent.flatMap(value => ['baggage', value]))
    return values('baggage')
  })
  assert.deepEqual(
    got,
    cases.map(([, expected]) => expected),
  )
})

test('the gateway keeps a valid traceparent with its tracestate, and starts a new trace otherwise', async () => {
  const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
  const valid = [
    `00-${traceId}-00f067aa0ba902b7-01`,
    `00-${traceId}-00f067aa0ba902b7-00`,
    `01-${traceId}-00f067aa0ba902b7-01-extra`,
    `cc-${traceId}-00f067aa0ba902b7-ff`,
  ]
  const invalid = [
    '',
    'x',
    `00-${traceId}-00f067aa0ba902b7-01-extra`,
    `ff-${traceId}-00f067aa0ba902b7-01`,
    `00-${'0'.repeat(32)}-00f067aa0ba902b7-01`,
    `00-${traceId}-${'0'.repeat(16)}-01`,
    `00-${traceId.toUpperCase()}-00f067aa0ba902b7-01`,
    `00-${traceId}-00f067aa0ba902b7`,
    `00-${traceId}-00f067aa0ba902b7-0g`,
  ]
  for (const traceparent of valid) {
    const id = `trace-${count++}`
    const { values } = await forwarded(
      ['traceparent', traceparent, 'tracestate', 'a=1', 'TraceState', 'b=2'],
      { id },
    )
    assert.deepEqual(values('traceparent'), [traceparent])
    assert.deepEqual(values('tracestate'), ['a=1', 'b=2'])
    const [event] = await stack.eventsOf(id)
    assert.equal(event?.metadata_json['trace_id'], traceId)
  }
  for (const traceparent of [...invalid, undefined]) {
    const id = `trace-${count++}`
    const own = traceparent === undefined ? [] : ['traceparent', traceparent]
    const { values } = await forwarded([...own, 'tracestate', 'a=1'], { id })
    const [sent, ...more] = values('traceparent')
    assert.match(sent ?? '', /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/)
    assert.deepEqual(more, [])
    assert.doesNotMatch(sent ?? '', new RegExp(traceId))
    assert.deepEqual(values('tracestate'), [], `a state without its trace: ${traceparent}`)
    const [event] = await stack.eventsOf(id)
    assert.equal(event?.metadata_json['trace_id'], sent?.slice(3, 35))
  }
  const twice = await forwarded(['traceparent', valid[0] ?? '', 'traceparent', valid[1] ?? ''])
  assert.equal(twice.values('traceparent').length, 1)
  assert.doesNotMatch(twice.values('traceparent')[0] ?? '', new RegExp(traceId))
})

test('the gateway names the upstream in Host and the caller in X-Forwarded-*', async () => {
  const forged = [
    'X-Forwarded-For',
    '6.6.6.6',
    'X-Forwarded-Proto',
    'https',
    'X-Forwarded-Host',
    'evil.test',
  ]
  const { values } = await forwarded(forged, { host: 'public.test:8443' })
  assert.deepEqual(values('host'), [`127.0.0.1:${stack.upstream.port}`])
  assert.deepEqual(values('x-forwarded-for'), ['127.0.0.1'])
  assert.deepEqual(values('x-forwarded-proto'), ['http'])
  assert.deepEqual(values('x-forwarded-host'), ['public.test:8443'])
})

test('the gateway believes proxies as TRUST_PROXY says', async t => {
  const trustGateway = (proxies: string) => startGateway(t, { ...stack.env, TRUST_PROXY: proxies })
  const [trusting, walking, distant] = await Promise.all([
    trustGateway('true'),
    trustGateway('127.0.0.0/8, 10.0.0.0/8,2001:db8::1'),
    trustGateway('10.0.0.0/8'),
  ])

  const cases: [number, string[], string, string][] = [
    [trusting.port, ['1.1.1.1, 2.2.2.2'], 'https', '1.1.1.1 https'],
    [trusting.port, ['1.1.1.1', '2.2.2.2'], 'http', '1.1.1.1 http'],
    [trusting.port, ['2001:db8::9'], 'ftp', '2001:db8::9 http'],
    [trusting.port, ['unknown, 2.2.2.2'], 'https', '127.0.0.1 https'],
    [trusting.port, ['1.1.1.1:80'], 'https', '127.0.0.1 https'],
    [trusting.port, ['<script>'], '', '127.0.0.1 http'],
    [trusting.port, [], 'https', '127.0.0.1 https'],
    [walking.port, ['6.6.6.6, 1.1.1.1, 10.0.0.5'], 'https', '1.1.1.1 https'],
    [walking.port, ['6.6.6.6', '1.1.1.1', '2001:db8::1'], 'https', '1.1.1.1 https'],
    [walking.port, ['10.0.0.7, 10.0.0.5'], 'http', '10.0.0.7 http'],
    [walking.port, ['1.1.1.1, garbage, 10.0.0.5'], 'https', '10.0.0.5 https'],
    [walking.port, ['::ffff:1.1.1.1, ::ffff:10.0.0.5'], 'https', '1.1.1.1 https'],
    [walking.port, [], 'gopher', '127.0.0.1 http'],
    [distant.port, ['1.1.1.1, 10.0.0.5'], 'https', '127.0.0.1 http'],
  ]
  const got = await inParallel(cases, 4, async ([port, chain, scheme]) => {
    const { values } = await forwarded(
      [
        ...chain.flatMap(value => ['X-Forwarded-For', value]),
        ...(scheme === '' ? [] : ['X-Forwarded-Proto', scheme]),
        'X-Forwarded-Host',
        'evil.test',
      ],
      { port },
    )
    assert.deepEqual(values('x-forwarded-host'), ['gateway.test'])
    return [...values('x-forwarded-for'), ...values('x-forwarded-proto')].join(' ')
  })
  assert.deepEqual(
    got,
    cases.map(([, , , expected]) => expected),
  )
})

test('the gateway says https when it is called so', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'gateway-tls-'))
  t.after(() => rm(dir, { recursive: true }))
  const { key, cert } = createCertificate()
  const files = { TLS_CERT_FILE: join(dir, 'cert.pem'), TLS_KEY_FILE: join(dir, 'key.pem') }
  await Promise.all([writeFile(files.TLS_CERT_FILE, cert), writeFile(files.TLS_KEY_FILE, key)])
  const gateway = await startGateway(t, { ...stack.env, ...files })
  directives.set('over-tls', { auth_mode: 'none' })
  const answer = await call(gateway.url, '/', {
    token: stack.mint(),
    resource: RESOURCE,
    headers: { 'x-request-id': 'over-tls' },
  })
  assert.equal(answer.status, 200)
  const arrival = stack.upstream.arrivals.find(
    ({ headers }) => headers['x-request-id'] === 'over-tls',
  )
  assert.equal(arrival?.headers['x-forwarded-proto'], 'https')
})

test('the gateway passes an answer on to the byte, its lines in their case and repetition', async () => {
  const kept = [
    'Content-Type',
    'text/plain',
    'Set-Cookie',
    'a=1; Path=/',
    'Set-Cookie',
    'b=2; HttpOnly',
    'set-cookie',
    'a=1; Path=/',
    'X-Twice',
    'one',
    'X-Twice',
    'two',
    'Mcp-Session-Id',
    'session-1',
    'MCP-Protocol-Version',
    '2025-06-18',
    'Cache-Control',
    'max-age=1',
    'ETag',
    '"x"',
    'Vary',
    'Origin',
    'Access-Control-Allow-Origin',
    '*',
    'X-Latin',
    'gr\u00fc\u00df \u00ff',
    'X-Utf8',
    Buffer.from('日本').toString('latin1'),
    'Retry-After',
    '7',
    'Link',
    '<https://elsewhere.test/>; rel="next"',
    'Via',
    '1.1 upstream',
    'Date',
    'Tue, 24 Nov 2026 00:00:00 GMT',
    'constructor',
    'a field like any other',
    'Content-Length',
    '2',
  ]
  const answer = await answered(kept)
  assert.equal(answer.status, 200)
  for (const name of new Set(kept.filter((_, index) => index % 2 === 0))) {
    assert.deepEqual(answer.values(name), valuesOf(kept, name), name)
  }
  assert.equal(answer.text, 'ok')
})

test("the gateway keeps the bytes of an answer's headers when its body is late or absent", async t => {
  const value = 'gr\u00fc\u00df \u00ff'
  const sockets = new Map<string, Socket>()
  const raw = await startRawUpstream(t, (socket, line) => {
    const status = /^GET \/(\d+)/.exec(line)?.[1] ?? ''
    const length = status === '204' ? '' : 'Content-Length: 2\r\n'
    const lines = `X-Latin: ${value}\r\nConnection: close\r\n${length}`
    socket.write(`HTTP/1.1 ${status} Any\r\n${lines}\r\n`, 'latin1')
    sockets.set(status, socket)
  })
  for (const status of [200, 204, 304, 404, 600]) {
    const id = `answer-${count++}`
    directives.set(id, { auth_mode: 'none', url: raw.url })
    const wire = new Wire(stack.gateway.port)
    wire.send(`${head(`GET /${status}`, stack.mint(), `X-Request-Id: ${id}`)}\r\n`)
    const text = await wire.receives(/\r\n\r\n/)
    assert.equal(/^x-latin: (.*)\r$/im.exec(text)?.[1], value, `${status}`)
    if (status !== 204 && status !== 304) {
      sockets.get(`${status}`)?.write('ok')
      await wire.receives(/\r\n\r\nok$/)
    }
    wire.close()
  }
})

test('the gateway adds to an answer its request id and the seconds the mandate has left', async () => {
  const id = `answer-${count++}`
  answers.set(id, response =>
    response.writeHead(200, ['X-Request-Id', 'forged', 'X-Caracal-Token-Expires-In', '1']).end(),
  )
  const exp = Math.floor(Date.now() / 1000) + 120
  const answer = await send(stack.gateway.port, { token: stack.mint({ exp }), id })
  assert.deepEqual(answer.values('x-request-id'), [id])
  const [seconds, ...more] = answer.values('x-caracal-token-expires-in')
  assert.deepEqual(more, [])
  assert.match(seconds ?? '', /^\d+$/)
  assert(Number(seconds) <= 120 && Number(seconds) >= 110, seconds)

  const unnamed = await send(stack.gateway.port, { token: stack.mint() })
  const [given] = unnamed.values('x-request-id')
  assert.match(given ?? '', /^[0-9a-f-]{36}$/)
  assert.deepEqual(
    valuesOf(stack.upstream.arrivals.at(-1)?.rawHeaders ?? [], 'x-request-id'),
    [given],
    'the id that the caller sees is the one that the upstream got',
  )
  const refused = await send(stack.gateway.port, { token: 'x.y.z' })
  assert.equal(refused.status, 401)
  assert.deepEqual(refused.values('x-caracal-token-expires-in'), [])
})

test('the gateway passes on nothing hop-by-hop, and nothing that tells about the upstream', async () => {
  const dropped = [
    'Keep-Alive',
    'timeout=99',
    'Proxy-Authenticate',
    'Basic realm="upstream"',
    'Proxy-Authorization',
    'Basic eDp5',
    'Proxy-Connection',
    'close',
    'TE',
    'trailers',
    'Trailer',
    'X-Sum',
    'Upgrade',
    'h2c',
    'X-Private',
    'named by Connection',
    'X-Caracal-Identity',
    'token',
    'Server',
    'upstream/1',
    'SERVER',
    'upstream/2',
    'X-Powered-By',
    'upstream',
    'X-AspNet-Version',
    '4',
    'X-AspNetMvc-Version',
    '5',
    'Refresh',
    '0; url=https://evil.test/',
  ]
  const answer = await answered([...dropped, 'Connection', 'X-Private, close', 'X-Public', 'open'])
  assert.equal(answer.status, 200)
  assert.equal(answer.text, 'ok')
  for (const [index, name] of dropped.entries()) {
    // Node writes a Keep-Alive of its own connection.
    if (index % 2 === 0 && name !== 'Keep-Alive') assert.deepEqual(answer.values(name), [], name)
  }
  assert.doesNotMatch(answer.rawHeaders.join('\n'), /timeout=99|upstream|evil|named/)
  assert.deepEqual(answer.values('x-public'), ['open'])
})

test('the gateway keeps WWW-Authenticate only when it sent no credential', async () => {
  const challenge = ['WWW-Authenticate', 'Bearer resource_metadata="https://upstream.test/"']
  const modes = [
    [{ auth_mode: 'none' }, 1],
    [{ auth_mode: 'caracal_jwt' }, 0],
    [{ auth_mode: 'provider_oauth', provider_token: 't' }, 0],
    [{ auth_mode: 'provider_apikey', provider_token: 't' }, 0],
  ] as const
  for (const [directive, lines] of modes) {
    const answer = await answered(challenge, directive, 401)
    assert.equal(answer.status, 401)
    assert.equal(answer.text, 'ok', 'the upstream answers, not the gateway')
    assert.equal(answer.values('www-authenticate').length, lines, directive.auth_mode)
  }
})

test('the gateway passes on a Location that stays with it, and no other', async () => {
  const kept = [
    '/v1/invoices/7',
    '/',
    'invoices/7',
    './a:b',
    '../up',
    '?page=2',
    '#part',
    '/x?next=https://evil.test/',
    '/a//b',
    '/%2F%2Fevil.test',
  ]
  const dropped = [
    'https://evil.test/',
    'http://127.0.0.1/internal',
    'HTTPS://evil.test',
    '//evil.test/x',
    '///evil.test',
    '/\\evil.test',
    '\\\\evil.test',
    '\\/evil.test',
    '/\t/evil.test',
    'javascript:alert(1)',
    'data:text/html,x',
    'mailto:x@y',
    'https:evil.test',
    'http:/evil.test',
    'ht\ttps://evil.test',
    '//',
    '//[',
    'http://[',
    'x:',
  ]
  const got = await inParallel([...kept, ...dropped], 4, async value => {
    const answer = await answered(['Location', value, 'Content-Location', value], {}, 302)
    assert.equal(answer.status, 302, 'a redirect is passed on, never followed')
    assert.deepEqual(answer.values('location'), answer.values('content-location'), value)
    return answer.values('location')
  })
  assert.deepEqual(got, [...kept.map(value => [value]), ...dropped.map(() => [])])
})

test('the gateway passes compressed bytes on as they are', async () => {
  const bytes = Buffer.from('1f8b0800000000000003cbcf060047dddc7902000000', 'hex')
  const id = `answer-${count++}`
  answers.set(id, response => response.writeHead(200, { 'content-encoding': 'gzip' }).end(bytes))
  const answer = await send(stack.gateway.port, { token: stack.mint(), id })
  assert.deepEqual(answer.values('content-encoding'), ['gzip'])
  assert.deepEqual(answer.body, bytes)

  const up = await forwarded(['Content-Encoding', 'gzip'], { method: 'POST', body: bytes })
  assert.deepEqual(up.values('content-encoding'), ['gzip'])
  assert.deepEqual(await stack.upstream.arrivals.at(-1)?.body, bytes)
})

test('the gateway drops the trailers of both sides', async () => {
  const id = `answer-${count++}`
  answers.set(id, response => {
    response.writeHead(200, { trailer: 'X-Sum' })
    response.write('ok')
    response.addTrailers({ 'X-Sum': '1' })
    response.end()
  })
  const answer = await send(stack.gateway.port, { token: stack.mint(), id })
  assert.equal(answer.text, 'ok')
  assert.deepEqual(answer.values('trailer'), [])
  assert.deepEqual(answer.values('x-sum'), [])
})

test('the gateway answers no CORS preflight itself', async () => {
  const { answer } = await forwarded(
    ['Origin', 'https://app.test', 'Access-Control-Request-Method', 'PUT'],
    { method: 'OPTIONS' },
  )
  assert.deepEqual(answer.values('access-control-allow-origin'), [])
  assert.equal(answer.text, 'ok')
})
