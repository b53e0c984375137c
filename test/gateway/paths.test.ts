// Which path and query reach the upstream, for every way to write them (contract section 5).
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { until } from '../until.ts'
import { head, RESOURCE, startGateway, startStack, Wire, ZONE } from './harness.ts'
import { checksById, inParallel, send } from './raw.ts'

const stack = await startStack({ after })
const directives = new Map<string, Readonly<Record<string, unknown>>>()
stack.sts.respond = exchange => {
  const directive = directives.get(exchange.fields['gateway_request_id'] ?? '')
  return directive && { directive: { url: stack.upstream.url, auth_mode: 'none', ...directive } }
}

let count = 0

/** Sends each target; what reached the upstream of it, or the status that refused it. */
function upstreamTargets(
  targets: readonly string[],
  options: {
    readonly directive?: Readonly<Record<string, unknown>>
    readonly port?: number
    readonly method?: string
  } = {},
): Promise<{ id: string; target: string; got: string }[]> {
  const { directive = {}, port = stack.gateway.port, method = 'GET' } = options
  return inParallel(targets, 8, async target => {
    const id = `path-${count++}`
    directives.set(id, directive)
    const answer = await send(port, { token: stack.mint(), id, path: target, method })
    const arrivals = stack.upstream.arrivals.filter(({ headers }) => headers['x-request-id'] === id)
    if (answer.status === 200) {
      assert.equal(arrivals.length, 1, target)
      return { id, target, got: arrivals[0]?.url ?? '' }
    }
    assert.equal(arrivals.length, 0, `${target} was refused and yet reached the upstream`)
    const { error, error_description: description, dispatched } = answer.json()
    return { id, target, got: [answer.status, error, description, dispatched].join(' ') }
  })
}

/** Fails with the cases that went wrong, and only those. */
function assertNone(wrong: readonly { readonly target: string; readonly got: string }[]): void {
  assert.deepEqual(
    wrong.map(({ target, got }) => [target.slice(0, 80), got.slice(0, 80)]),
    [],
  )
}

async function assertForwarded(
  cases: readonly (readonly [target: string, upstream: string])[],
  options: Parameters<typeof upstreamTargets>[1] = {},
): Promise<void> {
  const results = await upstreamTargets(
    cases.map(([target]) => target),
    options,
  )
  const expected = new Map(cases)
  assertNone(results.filter(({ target, got }) => got !== expected.get(target)))
  for (const { id, target } of results) {
    const path = target.replace(/^[a-z]+:\/\/[^/?]*/i, '').replace(/\?.*$/s, '') || '/'
    const exchange = stack.sts.exchanges.find(({ fields }) => fields['gateway_request_id'] === id)
    const decoded = decodeURIComponent(Buffer.from(path, 'latin1').toString())
    assert.equal(exchange?.fields['request_path'], decoded, `the STS judges ${target}`)
  }
}

/** The same target there and here. */
const same = (...targets: string[]) => targets.map(target => [target, target] as const)

const FORWARDED: readonly (readonly [target: string, upstream: string])[] = [
  ...same(
    '/',
    '/v1',
    '/v1/',
    '/v1/invoices/7',
    '/v1//x',
    '/v1///',
    '//',
    '///',
    '//x',
    '//evil.test/x',
    '//evil.test:80//x//',
    '///evil.test',
    '/@evil.test',
    '//user@evil.test/',
    '/:80/x',
    '/http://evil.test/x',
    '/https:evil.test',
    '/a:b',
    "/!$&'()*+,;=:@-._~",
    '/a;b=c;d/e;f',
    '/;',
    '/;/;',
    '/a;../b',
    '/;../b',
    '/..foo',
    '/foo..',
    '/a..b/c',
    '/...',
    '/..../x',
    '/.../..a/.b',
    '/.well-known/openid-configuration',
    '/.git',
    '/..a/..b',
    '/...;x',
    '/a.;x/b..;y',
    '/v1/models:generate',
    '/*',
    '/**/x',
    '/:id',
    '/:id/*',
    '/%20',
    '/..%20/x',
    '/a%20b',
    '/a%3Fb',
    '/a%23b',
    '/a%22b',
    '/%E4%B8%AD/%F0%9F%98%80',
    '/%EF%BF%BD',
    '/%C3%A9',
    '/e%CC%81',
    '/a%2541',
    '/a%252Fb',
    '/a%2520b',
    '/a%25252Fb',
    '/a+b',
    // The operator endpoints are four paths, and not what looks like them.
    '/health/',
    '/health/x',
    '/HEALTH',
    '/Ready',
    '//health',
    '/metrics.json/',
    '/metrics/x',
    '/ready;x',
    '/internal/revocations/reload',
    '/internal',
    '/favicon.ico',
    '/__proto__',
    '/constructor/prototype',
    // Longer than what routers take for a parameter.
    `/${'a'.repeat(101)}`,
    `/${'a'.repeat(8000)}`,
    `/${'a/'.repeat(4000)}`,
    `/${'%C3%A9'.repeat(1000)}`,
  ),
  ['/%41%62c', '/Abc'],
  ['/%7Ea', '/~a'],
  ['/a%2Fb', '/a/b'],
  ['/a%2fb', '/a/b'],
  ['/%2F', '//'],
  ['/%2F%2Fevil.test', '///evil.test'],
  ['/a%2F', '/a/'],
  ['/a%2F%2Fb', '/a//b'],
  ['/%2e%2efoo', '/..foo'],
  ['/%2e%2e%2e', '/...'],
  ['/%2Ewell-known', '/.well-known'],
  ['/a%3Bb', '/a;b'],
  ['/a%3bb%3D', '/a;b='],
  ['/a%40b%3A%26%2B%2C%24', '/a@b:&+,$'],
  ['/a%21%27%28%29%2A', "/a!'()*"],
  ['/%68ttp:%2f%2fevil.test', '/http://evil.test'],
  ['/%c3%a9', '/%C3%A9'],
  ['/a%3fb', '/a%3Fb'],
  ['/a#b', '/a%23b'],
  ['/a[b]', '/a%5Bb%5D'],
  ['/a|b', '/a%7Cb'],
  ['/a"b', '/a%22b'],
  ['/a<b>', '/a%3Cb%3E'],
  ['/a^b`c', '/a%5Eb%60c'],
  ['/a{b}', '/a%7Bb%7D'],
  ['/%EF%BC%91', '/%EF%BC%91'],
  ['/%EF%BC%8E%EF%BC%8E/', '/%EF%BC%8E%EF%BC%8E/'],
  ['/%E2%80%AE', '/%E2%80%AE'],
  // Queries.
  ...same(
    '/?x=1',
    '/a?x=1&y=2',
    '/a?x',
    '/a?x=&=y&=',
    '/a?&&x=1&&',
    '/a?x=1&x=2&x=1',
    '/a?x=%zz&y=%',
    '/a?x=../../etc&y=%2e%2e%2f',
    '/a?x=%2F%5C%00',
    '/a?a=b;c=d',
    '/a?x=1?y=2',
    '/a?x=http://evil.test/',
    '/a?x=a+b%20c',
    '/a?%61=1&%C3%A9=2',
    '/a?x="<>|\\^`{}[]',
    '/a/?x=1',
    '//?x=1',
    '/a??',
    '/a?__proto__=1&constructor=2',
    `/a?${'x=1&'.repeat(1000)}`,
  ),
  ['/a?', '/a'],
  ['/a?x=1#y', '/a?x=1%23y'],
  ['/a?x=1#&y=2', '/a?x=1%23&y=2'],
  // Absolute form: path and query alone count.
  ['http://evil.test/v1/x?y=1', '/v1/x?y=1'],
  ['http://evil.test/', '/'],
  ['http://evil.test', '/'],
  ['https://evil.test', '/'],
  ['http://evil.test?x=1', '/?x=1'],
  ['HTTP://evil.test/A', '/A'],
  ['http://user:password@evil.test:99/a', '/a'],
  ['http://[::1]:80/a', '/a'],
  ['http://evil.test//b', '//b'],
  ['http://evil.test/a%2Fb', '/a/b'],
  ['ftp://evil.test/a', '/a'],
  ['http://evil.test/http://other.test/', '/http://other.test/'],
]

const REFUSED: readonly string[] = [
  '/.',
  '/..',
  '/./',
  '/../',
  '/./a',
  '/../a',
  '/a/.',
  '/a/..',
  '/a/./b',
  '/a/../b',
  '/a/b/../../c',
  '//..',
  '//../x',
  '/..//x',
  '/health/..',
  '/health/../v1',
  '/.%2e',
  '/%2e.',
  '/%2e',
  '/%2E',
  '/%2e%2e',
  '/%2E%2e/x',
  '/a/%2e/b',
  '/a#/../b',
  '/a/%2e%2e/b',
  '/a%2f..%2fb',
  '/a%2F%2e%2e',
  '/..%2f',
  '/..%2Fx',
  '/%2e%2e%2f%2e%2e%2fetc%2fpasswd',
  '/%252e%252e/',
  '/%252e',
  '/a/%252e%252e/b',
  '/%25252e%25252e',
  '/a%252f..%252fb',
  '/a%252f%252e%252e',
  '/%25252525252e',
  '/\\',
  '/a\\b',
  '/..\\x',
  '/%5C',
  '/a%5cb',
  '/%255c',
  '/a%25255Cb',
  '/%',
  '/a%',
  '/a%2',
  '/%zz',
  '/%2z',
  '/%u002e',
  '/100%25',
  '/%25',
  '/%25zz',
  '/%2525',
  '/a%252',
  '/%80',
  '/%ff',
  '/%fe%ff',
  '/%c0%ae',
  '/%c0%ae%c0%ae/',
  '/%c0%af',
  '/%c1%9c',
  '/%e0%80%ae',
  '/%e0%80%af',
  '/%f0%80%80%ae',
  '/%ed%a0%80',
  '/%ed%bf%bf',
  '/%ed%a0%bd%ed%b8%80',
  '/%f4%90%80%80',
  '/%f8%88%80%80%80',
  '/%c3',
  '/%c3/%a9',
  '/%25c0%25ae',
  '/%25ff',
  '/%00',
  '/a%00b',
  '/a%01',
  '/a%09b',
  '/a%0a',
  '/a%0d%0aX-Injected:%201',
  '/a%1f',
  '/a%7f',
  '/%2500',
  '/a%250d%250a',
  '/%c2%80',
  '/%c2%9f',
  '/..;',
  '/..;/',
  '/..;x',
  '/..;/manager',
  '/a/..;x=y/b',
  '/.;',
  '/.;x',
  '/a/.;/b',
  '/%2e%2e;/',
  '/..%3b',
  '/..%3Bx/y',
  '/a/%2e%2e%3b/b',
  '/..%253b/',
  'http://evil.test/../x',
  'http://evil.test/%2e%2e',
  'http://evil.test/..',
  'http://evil.test/a\\b',
  `/${'a'.repeat(4000)}/../x`,
  `/${'%25'.repeat(2000)}41`,
]

test('the gateway sends the path that it judged, and the query byte for byte', async () => {
  assert(FORWARDED.length + REFUSED.length >= 200)
  await assertForwarded(FORWARDED)
})

test('the gateway refuses a path that climbs or that two readers could read differently', async () => {
  const exchanges = stack.sts.exchanges.length
  const results = await upstreamTargets(REFUSED)
  const refusal = '400 invalid_token path traversal not permitted no'
  assertNone(results.filter(({ got }) => got !== refusal))
  assert.equal(stack.sts.exchanges.length, exchanges, 'nothing of it reaches the STS')
  await until(() => results.every(({ id }) => checksById(stack).has(id)))
  const checks = checksById(stack)
  assert.deepEqual(new Set(results.map(({ id }) => checks.get(id))), new Set(['path_traversal']))
})

test('the gateway leaves the mandate of a refused path unspent', async () => {
  const token = stack.mint()
  const refused = await send(stack.gateway.port, { token, path: '/a/../b' })
  assert.equal(refused.status, 400)
  const admitted = await send(stack.gateway.port, { token, path: '/b' })
  assert.equal(admitted.status, 200)
})

test('the gateway joins the path of the directive and of the request with one slash', async () => {
  const bases: Record<string, [string, string][]> = {
    '': [
      ['/', '/'],
      ['/x', '/x'],
      ['//x', '//x'],
    ],
    '/': [
      ['/', '/'],
      ['/x', '/x'],
      ['//evil.test', '//evil.test'],
    ],
    '/api': [
      ['/', '/api'],
      ['/x', '/api/x'],
      ['//', '/api//'],
      ['//x', '/api//x'],
      ['/x/', '/api/x/'],
      ['/?a=1', '/api?a=1'],
      ['//evil.test/x', '/api//evil.test/x'],
      ['http://evil.test', '/api'],
    ],
    '/api/': [
      ['/', '/api/'],
      ['/x', '/api/x'],
      ['//x', '/api//x'],
      ['/x?a=1', '/api/x?a=1'],
    ],
    '/a%2Fb%20c': [
      ['/', '/a%2Fb%20c'],
      ['/x%2Fy', '/a%2Fb%20c/x/y'],
    ],
    '/é;v=1': [['/x', '/%C3%A9;v=1/x']],
    '//deep': [['/x', '//deep/x']],
    '/a/../b': [['/x', '/b/x']],
    '/api#fragment': [['/x', '/api/x']],
  }
  for (const [base, cases] of Object.entries(bases)) {
    await assertForwarded(cases, { directive: { url: stack.upstream.url + base } })
  }
})

test("the gateway lets no pair of the caller shadow the directive's query", async () => {
  await assertForwarded(
    [
      ['/', '/api?fixed=1&t%C3%A9st=2&sp+ace=3'],
      ['/x', '/api/x?fixed=1&t%C3%A9st=2&sp+ace=3'],
      ['/x?', '/api/x?fixed=1&t%C3%A9st=2&sp+ace=3'],
      ['/x?a=1', '/api/x?a=1&fixed=1&t%C3%A9st=2&sp+ace=3'],
      ['/x?fixed=2', '/api/x?fixed=1&t%C3%A9st=2&sp+ace=3'],
      ['/x?fixed', '/api/x?fixed=1&t%C3%A9st=2&sp+ace=3'],
      ['/x?a=1&fixed=2&b=2&%66ixed=3&fi%78ed', '/api/x?a=1&b=2&fixed=1&t%C3%A9st=2&sp+ace=3'],
      ['/x?t%c3%a9st=9&sp%20ace=9&sp+ace=9', '/api/x?fixed=1&t%C3%A9st=2&sp+ace=3'],
      [
        '/x?FIXED=2&fixed[]=3&xfixed=4',
        '/api/x?FIXED=2&fixed[]=3&xfixed=4&fixed=1&t%C3%A9st=2&sp+ace=3',
      ],
      ['/x?a=fixed=2', '/api/x?a=fixed=2&fixed=1&t%C3%A9st=2&sp+ace=3'],
      ['/x?a=1#', '/api/x?a=1%23&fixed=1&t%C3%A9st=2&sp+ace=3'],
      ['/x?a=%zz&b=%', '/api/x?a=%zz&b=%&fixed=1&t%C3%A9st=2&sp+ace=3'],
    ],
    { directive: { url: `${stack.upstream.url}/api?fixed=1&tést=2&sp+ace=3` } },
  )
})

test('the gateway lets no pair of the caller or of the directive shadow the credential', async () => {
  const directive = {
    auth_mode: 'provider_apikey',
    auth_location: 'query',
    query_param_name: 'api key',
    provider_token: 's&c=r#t +é',
  }
  const credential = 'api%20key=s%26c%3Dr%23t%20%2B%C3%A9'
  await assertForwarded(
    [
      ['/', `/?${credential}`],
      ['/x?a=1', `/x?a=1&${credential}`],
      ['/x?api+key=forged&api%20key=forged&%61pi%20key&a=1', `/x?a=1&${credential}`],
      ['/x?API+KEY=1', `/x?API+KEY=1&${credential}`],
    ],
    { directive },
  )
  await assertForwarded([['/x?a=1', `/x?a=1&v=1&${credential}`]], {
    directive: { ...directive, url: `${stack.upstream.url}/?v=1&api+key=old&api%20key` },
  })
})

test('the gateway keeps an encoded slash where the binding says so', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'gateway-paths-'))
  t.after(() => rm(dir, { recursive: true }))
  const file = join(dir, 'bindings.json')
  const binding = { operation_enforcement: 'transport_uniform', preserve_encoded_slash: true }
  const zones = { [ZONE]: { resources: { [RESOURCE]: binding } } }
  await writeFile(file, JSON.stringify({ version: 1, zones }))
  const { port } = await startGateway(t, { ...stack.env, BINDINGS_FILE: file })
  await assertForwarded(
    [
      ['/a%2Fb', '/a%2Fb'],
      ['/a%2fb/c', '/a%2fb/c'],
      ['/%2F%2Fevil.test', '/%2F%2Fevil.test'],
      ['/a%2F%41%3b%c3%a9', '/a%2FA;%C3%A9'],
      ['/a%252Fb', '/a%252Fb'],
      ['/a/b%20c', '/a/b%20c'],
      ['/', '/'],
    ],
    { port },
  )
  const refused = await upstreamTargets(['/a%2F..', '/a%2f%2e%2e%2fb', '/%2F.'], { port })
  for (const { target, got } of refused) assert.match(got, /^400 invalid_token path/, target)
})

test('the gateway treats a path alike whatever the method', async () => {
  for (const method of ['OPTIONS', 'HEAD', 'QUERY', 'TRACE', 'PROPFIND', 'DELETE']) {
    await assertForwarded(
      [
        ['/a%2Fb//', '/a/b//'],
        ['/%E4%B8%AD', '/%E4%B8%AD'],
      ],
      { method },
    )
  }
  const refused = await upstreamTargets(['/%zz', '/a/..'], { method: 'OPTIONS' })
  for (const { target, got } of refused) assert.match(got, /^400 invalid_token path/, target)
})

test('the gateway refuses a target that names no path', async () => {
  const arrived = stack.upstream.arrivals.length
  for (const line of ['OPTIONS *', 'GET *', 'POST *']) {
    const wire = new Wire(stack.gateway.port)
    wire.send(`${head(line, stack.mint())}\r\n`)
    const text = await wire.receives(/requestId/)
    assert.match(text, /^HTTP\/1\.1 400 /, line)
    assert.match(text, /"error":"invalid_request"/)
    assert.match(text, /x-caracal-dispatched: no/i)
    wire.close()
  }
  for (const line of [
    'GET x',
    'GET ?x=1',
    'GET evil.test:80',
    'GET /a b',
    'GET /a\tb',
    'GET /a\u0001',
  ]) {
    const wire = new Wire(stack.gateway.port)
    wire.send(`${head(line, stack.mint())}\r\n`)
    const text = await wire.receives(/\r\n\r\n[^]*\}/)
    assert.match(text, /^HTTP\/1\.1 400 /, line)
    assert.doesNotMatch(text, /stack|node_modules/, line)
    wire.close()
  }
  assert.equal(stack.upstream.arrivals.length, arrived)
})
