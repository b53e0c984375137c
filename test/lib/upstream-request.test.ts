// Holds the upstream's request to contract section 5: target, and headers of the gateway's own.

import assert from 'node:assert/strict'
import { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import { describe, it } from 'node:test'
import { type Directive, parseDirective } from '../../lib/directive.ts'
import { parseUpstreamUrl } from '../../lib/upstream-url.ts'
import type { ProxyTrust } from '../../lib/forwarded.ts'
import { canonicalPath, requestTarget } from '../../lib/path.ts'
import {
  type UpstreamRequestInput,
  upstreamRequestHeaders,
  upstreamTarget,
} from '../../lib/upstream-request.ts'

const TRACEPARENT = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'

/** A request as Node gives it. */
function incoming(rawHeaders: string[], peer = '192.0.2.1', encrypted = false): IncomingMessage {
  const socket = new Socket()
  Object.defineProperty(socket, 'remoteAddress', { value: peer })
  if (encrypted) Object.defineProperty(socket, 'encrypted', { value: true })
  const message = new IncomingMessage(socket)
  message.rawHeaders = rawHeaders
  // As Node's parser does for fields that may repeat.
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const [name = '', value = ''] = rawHeaders.slice(i, i + 2)
    const before = message.headers[name.toLowerCase()]
    message.headers[name.toLowerCase()] = before === undefined ? value : [before, value].join(', ')
  }
  return message
}

function directive(members: Record<string, unknown> = {}): Directive {
  const raw = { url: 'https://api.test:8443/base?v=1', auth_mode: 'caracal_jwt', ...members }
  return parseDirective(raw, 'access', parseUpstreamUrl(raw.url))
}

interface Given {
  readonly target?: string
  readonly raw?: IncomingMessage
  readonly directive?: Directive
  readonly preserve?: boolean
  readonly inherited?: boolean
  readonly trust?: ProxyTrust
}

function input(given: Given): UpstreamRequestInput {
  const target = requestTarget(given.target ?? '/v1/a')
  const path = canonicalPath(target.path)
  assert.ok(path)
  return {
    raw: given.raw ?? incoming(['Host', 'gateway.test']),
    requestId: 'r-1',
    target,
    path,
    directive: given.directive ?? directive(),
    preserveEncodedSlash: given.preserve ?? false,
    trace: {
      traceparent: TRACEPARENT,
      traceId: TRACEPARENT.slice(3, 35),
      inherited: given.inherited ?? false,
    },
    trust: given.trust ?? 'none',
  }
}

/** The values of one header of the upstream's request. */
function value(given: Given, name: string): string[] {
  const headers = upstreamRequestHeaders(input(given))
  return headers.filter((_, i) => i % 2 === 1 && headers[i - 1]?.toLowerCase() === name)
}

describe('upstreamTarget', () => {
  const key = {
    auth_mode: 'provider_apikey',
    provider_token: 's&t',
    auth_location: 'query',
    query_param_name: 'key',
  }
  const cases: [title: string, given: Given, target: string][] = [
    ['the directive’s path, then the request’s', {}, '/base/v1/a?v=1'],
    ['the directive’s path unchanged for /', { target: '/' }, '/base?v=1'],
    ['the caller’s pairs before the directive’s', { target: '/a?b=%41' }, '/base/a?b=%41&v=1'],
    ['the directive’s pair instead of the caller’s', { target: '/a?v=9&b=1' }, '/base/a?b=1&v=1'],
    [
      'the credential in the query',
      { target: '/a?key=mine', directive: directive(key) },
      '/base/a?v=1&key=s%26t',
    ],
    ['no query where there is none', { directive: directive({ url: 'http://a.test' }) }, '/v1/a'],
    ['an encoded slash as a slash', { target: '/a%2Fb' }, '/base/a/b?v=1'],
    [
      'an encoded slash as it came where the binding says so',
      { target: '/a%2fb', preserve: true },
      '/base/a%2fb?v=1',
    ],
    [
      'a path that looks like a host as a path',
      { target: '//evil.test/x' },
      '/base//evil.test/x?v=1',
    ],
    [
      'an absolute form by its path and query',
      { target: 'http://evil.test/x?y=1' },
      '/base/x?y=1&v=1',
    ],
  ]
  for (const [title, given, target] of cases) {
    it(`has ${title}`, () => assert.equal(upstreamTarget(input(given)), target))
  }
})

describe('upstreamRequestHeaders', () => {
  it('sets the gateway’s own, and the credential last', () => {
    const raw = incoming([
      'Host',
      'gateway.test:8081',
      'Accept',
      '*/*',
      'Authorization',
      'Bearer m',
    ])
    assert.deepEqual(upstreamRequestHeaders(input({ raw })), [
      'Accept',
      '*/*',
      'Host',
      'api.test:8443',
      'X-Request-Id',
      'r-1',
      'traceparent',
      TRACEPARENT,
      'X-Forwarded-For',
      '192.0.2.1',
      'X-Forwarded-Proto',
      'http',
      'X-Forwarded-Host',
      'gateway.test:8081',
      'Authorization',
      'Bearer access',
    ])
  })

  it('says https for a connection with TLS, and a mapped peer in its own form', () => {
    const raw = incoming(['Host', 'g'], '::ffff:192.0.2.7', true)
    assert.deepEqual(value({ raw }, 'x-forwarded-proto'), ['https'])
    assert.deepEqual(value({ raw }, 'x-forwarded-for'), ['192.0.2.7'])
  })

  it('says no host where the caller said none', () => {
    assert.deepEqual(value({ raw: incoming([]) }, 'x-forwarded-host'), [])
  })

  it('believes a forged chain only as far as it is trusted', () => {
    const raw = incoming([
      'Host',
      'g',
      'X-Forwarded-For',
      '203.0.113.9',
      'x-forwarded-for',
      '203.0.113.8',
      'X-Forwarded-Proto',
      'https',
    ])
    assert.deepEqual(value({ raw }, 'x-forwarded-for'), ['192.0.2.1'])
    assert.deepEqual(value({ raw }, 'x-forwarded-proto'), ['http'])
    assert.deepEqual(value({ raw, trust: 'first' }, 'x-forwarded-for'), ['203.0.113.9'])
    assert.deepEqual(value({ raw, trust: 'first' }, 'x-forwarded-proto'), ['https'])
    assert.deepEqual(value({ raw, trust: ip => ip === '192.0.2.1' }, 'x-forwarded-for'), [
      '203.0.113.8',
    ])
  })

  it('announces the length that came, and leaves chunks to the framing', () => {
    assert.deepEqual(value({ raw: incoming(['Content-Length', '3']) }, 'content-length'), ['3'])
    const chunked = incoming(['Transfer-Encoding', 'chunked'])
    assert.deepEqual(value({ raw: chunked }, 'content-length'), [])
    assert.deepEqual(value({ raw: chunked }, 'transfer-encoding'), [])
  })

  it('passes tracestate on with the trace that it belongs to', () => {
    const raw = incoming(['tracestate', 'a=b', 'traceparent', TRACEPARENT])
    assert.deepEqual(value({ raw, inherited: true }, 'tracestate'), ['a=b'])
    assert.deepEqual(value({ raw, inherited: false }, 'tracestate'), [])
    assert.deepEqual(value({ raw, inherited: true }, 'traceparent'), [TRACEPARENT])
  })
})
