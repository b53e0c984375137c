// Holds the directive to contract sections 5 and 7: it is applied as it says, or not at all.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import {
  DirectiveError,
  directiveFacts,
  directiveFor,
  parseDirective,
} from '../../lib/directive.ts'
import { isFieldName, isReservedHeader } from '../../lib/headers.ts'
import { parseUpstreamUrl } from '../../lib/upstream-url.ts'

const TARGET = 'https://api.example.test/base'
const ACCESS = 'access-token'

type Members = Readonly<Record<string, unknown>>

/** What a directive's URL comes to, where every safe destination may be dialled. */
const destination = ({ url }: Members) =>
  typeof url === 'string' ? parseUpstreamUrl(url) : undefined

const facts = (raw: Members) => directiveFacts(raw, destination(raw))

function parse(members: Members, permitted = true) {
  const raw = { url: TARGET, auth_mode: 'none', ...members }
  return parseDirective(raw, ACCESS, permitted ? destination(raw) : undefined)
}

/** Mostly as usual, sometimes any JSON. */
const loose = (usual: fc.Arbitrary<unknown>) =>
  fc.oneof(
    { weight: 15, arbitrary: usual },
    { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 1 }) },
  )

/** The check that refuses a directive. */
function refusal(members: Members, permitted = true): string {
  try {
    parse(members, permitted)
  } catch (error) {
    if (error instanceof DirectiveError) return error.check
    throw error
  }
  return 'none'
}

describe('directiveFor', () => {
  it('finds a resource’s own directive', () => {
    const directive = { url: TARGET }
    assert.equal(directiveFor({ 'resource://a': directive }, 'resource://a'), directive)
  })

  for (const [title, upstreams, resource] of [
    ['another resource', { 'resource://a': {} }, 'resource://b'],
    ['a name of every object', {}, 'constructor'],
    ['a prototype', {}, '__proto__'],
    ['a directive that is text', { r: TARGET }, 'r'],
    ['a directive that is null', { r: null }, 'r'],
    ['a directive that is an array', { r: [] }, 'r'],
  ] as const) {
    it(`finds none for ${title}`, () => assert.equal(directiveFor(upstreams, resource), undefined))
  }
})

describe('directiveFacts', () => {
  it('tells what evidence may hold, and nothing secret', () => {
    const told = facts({
      url: 'https://API.example.test:8443/x?key=secret',
      auth_mode: 'provider_oauth',
      provider_token: 'secret',
      provider_id: 'p'.repeat(300),
      connection_id: 'c',
    })
    assert.deepEqual(told, {
      upstreamHost: 'api.example.test:8443',
      authMode: 'provider_oauth',
      providerId: 'p'.repeat(256),
      connectionId: 'c',
    })
  })

  it('leaves out what is broken', () => {
    assert.deepEqual(facts({ url: 'file:///x', auth_mode: 1, provider_id: '' }), {
      upstreamHost: undefined,
      authMode: undefined,
      providerId: undefined,
      connectionId: undefined,
    })
  })
})

describe('parseDirective', () => {
  const credentials: [
    title: string,
    members: Members,
    headers: string[],
    query?: { name: string; value: string },
  ][] = [
    ['none: no credential', { auth_mode: 'none', provider_token: 'p' }, []],
    [
      'caracal_jwt: Bearer by default',
      { auth_mode: 'caracal_jwt' },
      ['Authorization', 'Bearer access-token'],
    ],
    [
      'caracal_jwt: an empty scheme is the default',
      { auth_mode: 'caracal_jwt', auth_scheme: '' },
      ['Authorization', 'Bearer access-token'],
    ],
    [
      'caracal_jwt: its own header and scheme',
      { auth_mode: 'caracal_jwt', auth_header: 'X-Auth', auth_scheme: 'Token' },
      ['X-Auth', 'Token access-token'],
    ],
    [
      'caracal_jwt: no second identity',
      { auth_mode: 'caracal_jwt', forward_caracal_identity: true },
      ['Authorization', 'Bearer access-token'],
    ],
    [
      'provider_oauth: no scheme unless given',
      { auth_mode: 'provider_oauth', provider_token: 'p' },
      ['Authorization', 'p'],
    ],
    [
      'provider_oauth: with a scheme',
      { auth_mode: 'provider_oauth', provider_token: 'p', auth_scheme: 'Bearer' },
      ['Authorization', 'Bearer p'],
    ],
    [
      'provider_oauth: a header though the location says query',
      { auth_mode: 'provider_oauth', provider_token: 'p', auth_location: 'query' },
      ['Authorization', 'p'],
    ],
    [
      'provider_oauth: with the identity',
      { auth_mode: 'provider_oauth', provider_token: 'p', forward_caracal_identity: true },
      ['Authorization', 'p', 'X-Caracal-Identity', 'access-token'],
    ],
    [
      'provider_apikey: in a header',
      {
        auth_mode: 'provider_apikey',
        provider_token: 'p',
        auth_header: 'X-Api-Key',
        auth_location: 'header',
      },
      ['X-Api-Key', 'p'],
    ],
    [
      'provider_apikey: in the query, with the identity',
      {
        auth_mode: 'provider_apikey',
        provider_token: 'p&=',
        auth_location: 'query',
        query_param_name: 'key',
        auth_header: 'Host',
        forward_caracal_identity: true,
      },
      ['X-Caracal-Identity', 'access-token'],
      { name: 'key', value: 'p&=' },
    ],
    [
      'members that are null count as absent',
      { auth_mode: 'provider_oauth', provider_token: 'p', auth_scheme: null, auth_header: null },
      ['Authorization', 'p'],
    ],
    [
      'an identity that is not exactly true is not forwarded',
      { auth_mode: 'provider_oauth', provider_token: 'p', forward_caracal_identity: 'true' },
      ['Authorization', 'p'],
    ],
  ]
  for (const [title, members, headers, query] of credentials) {
    it(title, () => {
      const directive = parse(members)
      assert.deepEqual(directive.headers, headers)
      assert.deepEqual(directive.queryCredential, query)
      assert.equal(directive.authMode, members['auth_mode'])
      assert.equal(directive.upstream.origin, 'https://api.example.test')
    })
  }

  const oauth = { auth_mode: 'provider_oauth', provider_token: 'p' }
  const refused: [title: string, members: Members, check: string][] = [
    ['no url', { url: undefined }, 'unsafe_upstream'],
    ['a url that is no text', { url: ['https://a.test'] }, 'unsafe_upstream'],
    ['a url with userinfo', { url: 'https://u:p@a.test/' }, 'unsafe_upstream'],
    ['another scheme', { url: 'ftp://a.test/' }, 'unsafe_upstream'],
    ['a metadata address', { url: 'http://169.254.169.254/' }, 'unsafe_upstream'],
    ['no auth_mode', { auth_mode: undefined }, 'request_build_failed'],
    ['an unknown auth_mode', { auth_mode: 'NONE' }, 'request_build_failed'],
    ['an auth_mode of every object', { auth_mode: 'constructor' }, 'request_build_failed'],
    ['no provider token', { auth_mode: 'provider_oauth' }, 'request_build_failed'],
    ['an empty provider token', { ...oauth, provider_token: '' }, 'request_build_failed'],
    ['a provider token that is no text', { ...oauth, provider_token: 1 }, 'request_build_failed'],
    [
      'a token with a line break',
      { ...oauth, provider_token: 'p\r\nX-A: b' },
      'request_build_failed',
    ],
    ['a token with a NUL', { ...oauth, provider_token: 'p\0' }, 'request_build_failed'],
    ['a token beyond latin1', { ...oauth, provider_token: 'p\u0100' }, 'request_build_failed'],
    ['a token that ends in a space', { ...oauth, provider_token: 'p ' }, 'request_build_failed'],
    ['a scheme with a line break', { ...oauth, auth_scheme: 'A\nB' }, 'request_build_failed'],
    ['a scheme that is no text', { ...oauth, auth_scheme: 1 }, 'request_build_failed'],
    ['a header that is no field name', { ...oauth, auth_header: 'X A' }, 'request_build_failed'],
    ['a header with a line break', { ...oauth, auth_header: 'X\r\nY' }, 'request_build_failed'],
    ['a pseudo header', { ...oauth, auth_header: ':authority' }, 'request_build_failed'],
    ['a header that is no text', { ...oauth, auth_header: {} }, 'request_build_failed'],
    ['an unknown location', { ...oauth, auth_location: 'cookie' }, 'request_build_failed'],
    [
      'a query without a name',
      { auth_mode: 'provider_apikey', provider_token: 'p', auth_location: 'query' },
      'request_build_failed',
    ],
    [
      'a query name that is half a character',
      {
        auth_mode: 'provider_apikey',
        provider_token: 'p',
        auth_location: 'query',
        query_param_name: '\ud800',
      },
      'request_build_failed',
    ],
    ['a host beside the list', { allowed_token_hosts: ['b.test'] }, 'credential_host'],
    ['a parent of the host', { allowed_token_hosts: ['example.test'] }, 'credential_host'],
    ['a wildcard', { allowed_token_hosts: ['*', '*.example.test'] }, 'credential_host'],
    ['another port', { allowed_token_hosts: ['api.example.test:8443'] }, 'credential_host'],
    ['a list that is text', { allowed_token_hosts: 'api.example.test' }, 'credential_host'],
    ['a list that is an object', { allowed_token_hosts: {} }, 'credential_host'],
    [
      'a list of other things',
      { allowed_token_hosts: [null, 1, ['api.example.test']] },
      'credential_host',
    ],
  ]
  for (const [title, members, check] of refused) {
    it(`refuses ${title}`, () => assert.equal(refusal(members), check))
  }

  for (const name of [
    'host',
    'Connection',
    'CONTENT-LENGTH',
    'content-type',
    'content-encoding',
    'te',
    'via',
    'trailer',
    'transfer-encoding',
    'upgrade',
    'expect',
    'keep-alive',
    'proxy-authorization',
    'forwarded',
    'x-forwarded-for',
    'x-real-ip',
    'X-Caracal-Identity',
    'x-request-id',
    'traceparent',
    'tracestate',
    'baggage',
  ]) {
    it(`refuses the reserved header ${name} in every mode that sets one`, () => {
      for (const auth_mode of ['caracal_jwt', 'provider_oauth', 'provider_apikey']) {
        const members = { auth_mode, provider_token: 'p', auth_header: name }
        assert.equal(refusal(members), 'request_build_failed')
      }
    })
  }

  for (const hosts of [
    undefined,
    null,
    [],
    ['api.example.test'],
    ['API.EXAMPLE.TEST.'],
    ['b.test', 'api.example.test:443'],
  ]) {
    it(`allows the credential with hosts ${JSON.stringify(hosts)}`, () => {
      assert.equal(refusal({ ...oauth, allowed_token_hosts: hosts }), 'none')
    })
  }

  it('allows an address, with and without brackets', () => {
    for (const host of ['::1', '[::1]', '[::1]:9000']) {
      assert.equal(refusal({ url: 'http://[::1]:9000/', allowed_token_hosts: [host] }), 'none')
    }
  })

  it('refuses in the order of the contract: destination, credential’s host, the rest', () => {
    const broken = { auth_mode: '?', allowed_token_hosts: ['b.test'], url: 'ftp://a.test' }
    assert.equal(refusal(broken), 'unsafe_upstream')
    assert.equal(refusal({ ...broken, url: TARGET }, false), 'unsafe_upstream')
    assert.equal(refusal({ ...broken, url: TARGET }), 'credential_host')
    assert.equal(
      refusal({ ...broken, url: TARGET, allowed_token_hosts: [] }),
      'request_build_failed',
    )
  })

  it('never says a token in its errors', () => {
    const secret = 'super\nsecret'
    for (const members of [
      { ...oauth, provider_token: secret },
      { ...oauth, provider_token: secret, auth_scheme: secret },
      { ...oauth, auth_header: secret },
    ]) {
      assert.throws(
        () => parse(members),
        (error: Error) => !error.message.includes('secret') && error instanceof DirectiveError,
      )
    }
  })

  it('yields, for any JSON, a safe request or a DirectiveError', () => {
    const text = fc.oneof(
      fc.constantFrom('Host', 'x-caracal-identity', 'Connection', 'X-Key', 'Authorization', ''),
      fc.constantFrom('a\r\nb', 'a\nHost: evil', '\0', 'Bearer', 'p', ' p', '\u{1f600}', '\ud800'),
      fc.string({ maxLength: 5 }),
    )
    const hosts = fc.array(fc.constantFrom<unknown>('a.test', 'b.test', '10.0.0.1', null, 1), {
      maxLength: 3,
    })
    const url = fc.constantFrom(
      'https://a.test',
      'http://a.test:81/x?y=1',
      'http://10.0.0.1/',
      'http://a.test/',
    )
    const directive = fc.record(
      {
        url: loose(url),
        auth_mode: loose(
          fc.constantFrom('none', 'caracal_jwt', 'provider_oauth', 'provider_apikey'),
        ),
        auth_location: loose(fc.constantFrom('header', 'query')),
        auth_header: loose(text),
        query_param_name: loose(text),
        auth_scheme: loose(text),
        allowed_token_hosts: loose(hosts),
        provider_token: loose(text),
        forward_caracal_identity: loose(fc.boolean()),
      },
      { requiredKeys: ['url'], noNullPrototype: true },
    )
    const any = fc.oneof(
      { weight: 9, arbitrary: directive },
      {
        weight: 1,
        arbitrary: fc.dictionary(fc.string(), fc.jsonValue(), { noNullPrototype: true }),
      },
    )
    let applied = 0
    fc.assert(
      fc.property(any, text, (raw: Members, accessToken) => {
        facts(raw)
        let parsed: ReturnType<typeof parseDirective>
        try {
          parsed = parseDirective(raw, accessToken, destination(raw))
        } catch (error) {
          assert.ok(error instanceof DirectiveError, String(error))
          return
        }
        applied += 1
        const { headers, upstream, authMode } = parsed
        assert.equal(headers.length % 2, 0)
        for (let i = 0; i < headers.length; i += 2) {
          const [name = '', value = ''] = headers.slice(i, i + 2)
          const identity = name === 'X-Caracal-Identity' && authMode.startsWith('provider_')
          assert.ok(identity || (isFieldName(name) && !isReservedHeader(name)), name)
          assert.match(value, /^[\t\x20-\x7e\x80-\xff]+$/)
        }
        const allowed = raw['allowed_token_hosts']
        if (Array.isArray(allowed) && allowed.length > 0) {
          const { hostname, port } = upstream
          assert.ok(allowed.includes(hostname) || allowed.includes(`${hostname}:${port}`))
        }
        if (authMode === 'none') assert.deepEqual(headers, [])
      }),
      { numRuns: 2000 },
    )
    assert.ok(applied > 100, `only ${applied} of 2000 could be applied`)
  })
})
