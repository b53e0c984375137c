// A directive of the STS is applied as it says or not at all (contract sections 4, 5 and 7).
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { until } from '../until.ts'
import { RESOURCE, startStack } from './harness.ts'
import { checksById, eventsById, inParallel, type RawAnswer, send, valuesOf } from './raw.ts'

const stack = await startStack({ after })

/** The member `upstreams` of the answer to each request. */
const upstreams = new Map<string, unknown>()
stack.sts.respond = exchange => {
  const id = exchange.fields['gateway_request_id'] ?? ''
  return upstreams.has(id) ? { answer: { upstreams: upstreams.get(id) } } : undefined
}

type Directive = Readonly<Record<string, unknown>>

let count = 0

/** Forwards one request under a directive. */
async function apply(
  directive: Directive,
  path = '/x',
): Promise<{ id: string; answer: RawAnswer; url: string; values: (name: string) => string[] }> {
  const id = `directive-${count++}`
  upstreams.set(id, { [RESOURCE]: { url: stack.upstream.url, ...directive } })
  const answer = await send(stack.gateway.port, { token: stack.mint(), id, path })
  const arrival = stack.upstream.arrivals.find(({ headers }) => headers['x-request-id'] === id)
  return {
    id,
    answer,
    url: arrival?.url ?? '',
    values: name => valuesOf(arrival?.rawHeaders ?? [], name),
  }
}

/** What the STS gave the gateway as `access_token` cannot be known here: it is told by its claims. */
function claimsOf(token: string): Record<string, unknown> {
  return JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())
}

const OUTCOMES = {
  unrouted_resource: [
    403,
    'access_denied',
    'resource upstream not configured',
    'upstream_rejected',
    undefined,
  ],
  unsafe_upstream: [
    502,
    'internal_error',
    'upstream not addressable',
    'upstream_rejected',
    'upstream_not_addressable',
  ],
  credential_host: [
    502,
    'internal_error',
    'provider credential not allowed for upstream host',
    'upstream_rejected',
    'provider_host_not_allowed',
  ],
  request_build_failed: [
    400,
    'internal_error',
    'upstream request build failed',
    'build_failed',
    'request_build_failed',
  ],
} as const

/** Has the STS answer each of these, and holds the refusal to the contract. */
async function assertRefused(
  check: keyof typeof OUTCOMES,
  answers: readonly unknown[],
): Promise<void> {
  const results = await inParallel(answers, 8, async value => {
    const id = `directive-${count++}`
    upstreams.set(id, value)
    const answer = await send(stack.gateway.port, {
      token: stack.mint(),
      id,
      method: 'POST',
      body: 'body',
    })
    return { id, answer, what: JSON.stringify(value)?.slice(0, 200) }
  })
  const ids = results.map(({ id }) => id)
  const events = await eventsById(stack, ids)
  await until(() => ids.every(id => checksById(stack).has(id)))
  const checks = checksById(stack)
  const [status, error, description, evaluation, kind] = OUTCOMES[check]
  for (const { id, answer, what } of results) {
    const body = answer.json()
    assert.deepEqual(
      [
        answer.status,
        body['error'],
        body['error_description'],
        body['dispatched'],
        body['requestId'],
      ],
      [status, error, description, 'no', id],
      what,
    )
    assert.deepEqual(answer.values('x-caracal-dispatched'), ['no'])
    assert.deepEqual(answer.values('x-should-retry'), [])
    assert.equal(checks.get(id), check, what)
    const found = events.get(id) ?? []
    assert.deepEqual(
      found.map(event => [
        event.event_type,
        event.decision,
        event.evaluation_status,
        event.metadata_json['error_kind'],
      ]),
      [['gateway_resource_request', 'allow', evaluation, kind]],
      what,
    )
    assert.equal(found[0]?.metadata_json['gateway_status'], status)
  }
  const reached = stack.upstream.arrivals.map(({ headers }) => String(headers['x-request-id']))
  assert.deepEqual(
    reached.filter(id => ids.includes(id)),
    [],
  )
}

/** Directives for {@link RESOURCE} that differ from one that works in these members. */
const directives = (...members: Directive[]) =>
  members.map(member => ({ [RESOURCE]: { url: stack.upstream.url, auth_mode: 'none', ...member } }))

const KEY = { auth_mode: 'provider_apikey', provider_token: 'key-1' }
const OAUTH = { auth_mode: 'provider_oauth', provider_token: 'token-1' }

test('the gateway sends the credential that each auth_mode names', async () => {
  const none = await apply({
    ...KEY,
    auth_mode: 'none',
    auth_header: 'X-Key',
    forward_caracal_identity: true,
  })
  assert.equal(none.answer.status, 200)
  assert.deepEqual([...none.values('authorization'), ...none.values('x-key')], [])
  assert.deepEqual(none.values('x-caracal-identity'), [])

  const jwt = await apply({
    auth_mode: 'caracal_jwt',
    provider_token: 'unused',
    forward_caracal_identity: true,
  })
  assert.match(jwt.values('authorization').join(), /^Bearer [^ ,]+$/)
  assert.equal(claimsOf(jwt.values('authorization')[0]?.slice(7) ?? '')['aud'], RESOURCE)
  assert.deepEqual(jwt.values('x-caracal-identity'), [], 'the provider modes alone forward it')

  const cases: [Directive, string, string][] = [
    [OAUTH, 'authorization', 'token-1'],
    [{ ...OAUTH, auth_scheme: 'Bearer' }, 'authorization', 'Bearer token-1'],
    [{ ...OAUTH, auth_scheme: '' }, 'authorization', 'token-1'],
    [
      { ...OAUTH, auth_scheme: null, auth_header: null, auth_location: null },
      'authorization',
      'token-1',
    ],
    [{ ...OAUTH, auth_header: 'X-Token', auth_scheme: 'Token' }, 'x-token', 'Token token-1'],
    [{ ...OAUTH, auth_location: 'header', query_param_name: 'unused' }, 'authorization', 'token-1'],
    [KEY, 'authorization', 'key-1'],
    [{ ...KEY, auth_header: 'X-Api-Key' }, 'x-api-key', 'key-1'],
    [
      { ...KEY, auth_header: 'X-Api-Key', auth_location: 'header', auth_scheme: 'Key' },
      'x-api-key',
      'Key key-1',
    ],
    [{ ...KEY, auth_header: 'Cookie', provider_token: 'a=1; b=2' }, 'cookie', 'a=1; b=2'],
    [{ ...KEY, auth_header: '__proto__' }, '__proto__', 'key-1'],
    [{ ...KEY, auth_header: 'x'.repeat(100) }, 'x'.repeat(100), 'key-1'],
    [{ ...KEY, provider_token: 'gr\u00fc\u00df\u00ff' }, 'authorization', 'gr\u00fc\u00df\u00ff'],
    [{ ...KEY, provider_token: 'a\tb c' }, 'authorization', 'a\tb c'],
    [{ auth_mode: 'caracal_jwt', auth_header: 'X-Token', auth_scheme: 'JWT' }, 'x-token', 'JWT '],
  ]
  await inParallel(cases, 4, async ([directive, name, value]) => {
    const { answer, values } = await apply(directive)
    assert.equal(answer.status, 200, answer.text)
    const [got = '', ...more] = values(name)
    assert.deepEqual(more, [])
    if (value.endsWith(' ')) assert(got.startsWith(value), got)
    else assert.equal(got, value)
    if (name !== 'authorization') assert.deepEqual(values('authorization'), [])
  })
})

test('the gateway sends a key in the query when the directive says so', async () => {
  const { answer, url, values } = await apply(
    { ...KEY, auth_location: 'query', query_param_name: 'api_key', auth_scheme: 'unused' },
    '/x?a=1',
  )
  assert.equal(answer.status, 200)
  assert.equal(url, '/x?a=1&api_key=key-1')
  assert.deepEqual(values('authorization'), [])

  const injected = await apply({
    ...KEY,
    auth_location: 'query',
    query_param_name: 'k&x=1#',
    provider_token: 'a\r\nX-Injected: 1&b=2#',
  })
  assert.equal(injected.answer.status, 200)
  assert.equal(injected.url, '/x?k%26x%3D1%23=a%0D%0AX-Injected%3A%201%26b%3D2%23')
  assert.deepEqual(injected.values('x-injected'), [])
})

test('the gateway forwards the caller’s identity in the provider modes alone, and only when told', async () => {
  for (const directive of [OAUTH, KEY, { ...KEY, auth_location: 'query', query_param_name: 'k' }]) {
    const { values } = await apply({ ...directive, forward_caracal_identity: true })
    assert.equal(claimsOf(values('x-caracal-identity')[0] ?? '')['aud'], RESOURCE)
    assert.equal(values('x-caracal-identity').length, 1)
    for (const value of [undefined, false, null]) {
      const without = await apply({ ...directive, forward_caracal_identity: value })
      assert.equal(without.answer.status, 200)
      assert.deepEqual(without.values('x-caracal-identity'), [])
    }
  }
})

test('the gateway tells of a directive what evidence may hold', async () => {
  const { id, values } = await apply({
    ...KEY,
    provider_id: 'provider-1',
    connection_id: 'connection-1',
  })
  const [event] = await stack.eventsOf(id)
  const data = event?.metadata_json ?? {}
  assert.deepEqual(
    [data['auth_mode'], data['provider_id'], data['connection_id'], data['upstream_host']],
    ['provider_apikey', 'provider-1', 'connection-1', `127.0.0.1:${stack.upstream.port}`],
  )
  assert.deepEqual(values('authorization'), ['key-1'])
  assert.doesNotMatch(JSON.stringify(event), /key-1/)
})

test('the gateway refuses an answer without an upstream for the resource', async () => {
  const directive = { url: stack.upstream.url, auth_mode: 'none' }
  await assertRefused('unrouted_resource', [
    {},
    null,
    [],
    'text',
    7,
    true,
    { 'resource://other': directive },
    { [`${RESOURCE}/`]: directive, [RESOURCE.toUpperCase()]: directive },
    { [RESOURCE]: null },
    { [RESOURCE]: 'http://127.0.0.1/' },
    { [RESOURCE]: [directive] },
    { [RESOURCE]: [] },
    { [RESOURCE]: 7 },
    { [RESOURCE]: false },
    JSON.parse(`{"__proto__":{"${RESOURCE}":{"url":"${stack.upstream.url}","auth_mode":"none"}}}`),
  ])
})

test('the gateway finds no upstream in what every object has', async () => {
  for (const resource of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
    stack.sts.setResource(resource, { url: stack.upstream.url, auth_mode: 'none' })
    const id = `directive-${count++}`
    upstreams.set(id, {})
    const answer = await stack.call('/x', {
      token: stack.mint({ target: [resource] }),
      resource,
      headers: { 'x-request-id': id },
    })
    assert.equal(answer.status, 403, `${resource}: ${answer.text}`)
    assert.equal(answer.json()['error_description'], 'resource upstream not configured')
  }
})

test('the gateway refuses a url that is none', async () => {
  await assertRefused(
    'unsafe_upstream',
    directives(
      ...[undefined, null, '', 7, true, {}, ['http://127.0.0.1'], { href: 'http://127.0.0.1' }].map(
        url => ({ url }),
      ),
      // The destination is judged first, whatever else is wrong.
      { url: null, allowed_token_hosts: ['other.test'] },
      { url: 'ftp://127.0.0.1', auth_mode: 'unknown' },
    ),
  )
})

test('the gateway sends a credential only to the hosts that may have it', async () => {
  const host = '127.0.0.1'
  const { port } = stack.upstream
  for (const allowed of [undefined, null, [], [host], ['other.test', host], [`${host}:${port}`]]) {
    const { answer } = await apply({ ...KEY, allowed_token_hosts: allowed })
    assert.equal(answer.status, 200, `${JSON.stringify(allowed)} ${answer.text}`)
  }
  const byName = await apply({
    ...KEY,
    url: `http://LOCALHOST:${port}`,
    allowed_token_hosts: ['LocalHost'],
  })
  assert.equal(byName.answer.status, 200, byName.answer.text)

  const refused = [
    ['other.test'],
    ['localhost'],
    ['*'],
    ['*.0.0.1'],
    ['0.0.1'],
    ['127.0.0.1.evil.test'],
    ['127.0.0'],
    [`${host}:1`],
    [`http://${host}`],
    [''],
    [null],
    [7],
    [[host]],
    [{ host }],
    host,
    7,
    true,
    false,
    '',
    { length: 1, 0: host },
  ]
  await assertRefused('credential_host', [
    ...directives(...refused.map(allowed => ({ ...KEY, allowed_token_hosts: allowed }))),
    ...directives(
      { ...OAUTH, allowed_token_hosts: ['other.test'] },
      { auth_mode: 'caracal_jwt', allowed_token_hosts: ['other.test'] },
      { auth_mode: 'unknown', allowed_token_hosts: ['other.test'] },
    ),
  ])
})

const RESERVED = [
  'host',
  'connection',
  'content-length',
  'content-type',
  'content-encoding',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'via',
  'expect',
  'keep-alive',
  'proxy-authorization',
  'proxy-authenticate',
  'proxy-connection',
  'proxy-anything',
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-anything',
  'x-real-ip',
  'x-caracal-identity',
  'x-caracal-anything',
  'x-request-id',
  'traceparent',
  'tracestate',
  'baggage',
]

test('the gateway refuses an auth_header that it keeps for itself', async () => {
  const spellings = RESERVED.flatMap(name => [
    name,
    name.toUpperCase(),
    name.replace(/(^|-)[a-z]/g, letter => letter.toUpperCase()),
  ])
  await assertRefused(
    'request_build_failed',
    directives(
      ...spellings.map(name => ({ ...KEY, auth_header: name })),
      ...RESERVED.map(name => ({ ...OAUTH, auth_header: name })),
      ...RESERVED.map(name => ({ auth_mode: 'caracal_jwt', auth_header: name })),
    ),
  )
})

test('the gateway refuses an auth_header that is no field name', async () => {
  const names = [
    ' ',
    'X Key',
    ' X-Key',
    'X-Key ',
    'X-Key:',
    ':authority',
    'X\r\nKey',
    'X-Key\r\nX-Injected: 1',
    'X-Key\n',
    'X-Key\u0000',
    'X-K\u00e9y',
    'X-\u4e2d',
    'X-\ud800',
    'X(Key)',
    'X"Key"',
    'X/Key',
    'X;Key',
    'X,Key',
    'X=Key',
    'X{Key}',
    'X[Key]',
    'X@Key',
    '\u017f-key',
    '\u212aeep-Alive',
  ]
  await assertRefused(
    'request_build_failed',
    directives(...names.map(name => ({ ...KEY, auth_header: name }))),
  )
})

test('the gateway refuses a credential that is no field value', async () => {
  const values = [
    'a\r\nX-Injected: 1',
    'a\nb',
    'a\rb',
    'a\u0000b',
    '\u007f',
    'a\u001fb',
    '\u4e2d\u6587',
    '\ud83d\ude00',
    'a\ud800',
    '\udc00b',
    '\u0100',
    '\u0d0a\u0a0d',
    'a\u2028b',
    'a ',
    'a\n',
  ]
  await assertRefused(
    'request_build_failed',
    directives(
      ...values.map(value => ({ ...KEY, provider_token: value })),
      ...values.map(value => ({ ...OAUTH, auth_scheme: 'Bearer', provider_token: value })),
      ...['Bearer\r\nX: 1', 'B\u0000', '\u4e2d', '\ud800', ' ', '\n'].map(scheme => ({
        ...OAUTH,
        auth_scheme: scheme,
      })),
      { auth_mode: 'caracal_jwt', auth_scheme: 'Bearer\r\nX-Injected: 1' },
      { auth_mode: 'caracal_jwt', auth_scheme: '\u4e2d' },
      ...['a\ud800', '\udc00'].flatMap(value => [
        { ...KEY, auth_location: 'query', query_param_name: 'k', provider_token: value },
        { ...KEY, auth_location: 'query', query_param_name: value },
      ]),
    ),
  )
})

test('the gateway refuses a directive that lacks what its auth_mode needs', async () => {
  await assertRefused(
    'request_build_failed',
    directives(
      ...[undefined, null, ''].flatMap(missing => [
        { auth_mode: 'provider_oauth', provider_token: missing },
        { auth_mode: 'provider_apikey', provider_token: missing },
        {
          auth_mode: 'provider_apikey',
          auth_location: 'query',
          query_param_name: 'k',
          provider_token: missing,
        },
        { ...KEY, auth_location: 'query', query_param_name: missing },
      ]),
    ),
  )
})

test('the gateway refuses an auth_mode or an auth_location that it does not know', async () => {
  const modes = [
    undefined,
    null,
    '',
    'None',
    'NONE',
    ' none',
    'none ',
    'bearer',
    'provider',
    'provider_basic',
    'caracal',
    'caracal_jwt\u0000',
    '__proto__',
    'constructor',
    'toString',
    0,
    false,
    true,
    [],
    ['none'],
    {},
  ]
  await assertRefused(
    'request_build_failed',
    directives(
      ...modes.map(mode => ({ auth_mode: mode, provider_token: 't' })),
      ...['Query', 'cookie', 'body', ' ', 'header '].map(location => ({
        ...KEY,
        auth_location: location,
      })),
    ),
  )
})

test('the gateway refuses members of another type than theirs', async () => {
  const others: unknown[] = [7, 0, true, false, {}, [], ['x'], { toString: 'x' }]
  await assertRefused(
    'request_build_failed',
    directives(
      ...others.flatMap(value => [
        { ...KEY, auth_header: value },
        { ...KEY, auth_scheme: value },
        { ...KEY, provider_token: value },
        { ...OAUTH, provider_token: value },
        { ...KEY, auth_location: value },
        { ...KEY, auth_location: 'query', query_param_name: value },
        { auth_mode: 'caracal_jwt', auth_header: value },
        { auth_mode: 'caracal_jwt', auth_scheme: value },
      ]),
    ),
  )
  // What only evidence uses, or nothing at all, harms nobody.
  for (const value of others) {
    const { answer, id } = await apply({
      ...KEY,
      provider_id: value,
      connection_id: value,
      expires_at: value,
      unknown_member: value,
    })
    assert.equal(answer.status, 200)
    const [event] = await stack.eventsOf(id)
    assert.equal(event?.metadata_json['provider_id'], undefined)
  }
})

test('the gateway reads a directive’s own members only', async () => {
  const { url } = stack.upstream
  await assertRefused('unsafe_upstream', [
    { [RESOURCE]: JSON.parse(`{"__proto__":{"url":"${url}","auth_mode":"none"}}`) },
  ])
  await assertRefused('request_build_failed', [
    { [RESOURCE]: JSON.parse(`{"url":"${url}","__proto__":{"auth_mode":"none"}}`) },
    {
      [RESOURCE]: JSON.parse(
        `{"url":"${url}","auth_mode":"provider_oauth","__proto__":{"provider_token":"t"}}`,
      ),
    },
  ])
  const { answer, values } = await apply(
    JSON.parse('{"auth_mode":"none","__proto__":{"auth_mode":"caracal_jwt"}}'),
  )
  assert.equal(answer.status, 200)
  assert.deepEqual(values('authorization'), [])
})

test('the gateway prints no credential', () => {
  assert.doesNotMatch(stack.gateway.output(), /key-1|token-1|X-Injected/)
})
