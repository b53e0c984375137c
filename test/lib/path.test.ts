// Holds the path to contract section 5: what is judged is what is sent, and nothing climbs.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { canonicalPath, joinPath, requestTarget } from '../../lib/path.ts'

const bytes = (text: string): string => Buffer.from(text, 'utf8').toString('latin1')

describe('requestTarget', () => {
  const cases: [url: string, path: string, query: string | undefined][] = [
    ['/', '/', undefined],
    ['/a', '/a', undefined],
    ['/a?', '/a', ''],
    ['/a?b', '/a', 'b'],
    ['/a?b?c', '/a', 'b?c'],
    ['/?', '/', ''],
    ['//host/x?y', '//host/x', 'y'],
    ['/http://h/x', '/http://h/x', undefined],
    ['/a?u=http://h/x', '/a', 'u=http://h/x'],
    ['http://h', '/', undefined],
    ['http://h/', '/', undefined],
    ['http://h?q', '/', 'q'],
    ['http://h?q=/a', '/', 'q=/a'],
    ['http://h/p?q', '/p', 'q'],
    ['HTTPS://h:8443/p/../q', '/p/../q', undefined],
    ['http://u:p@h/p', '/p', undefined],
    ['http://[::1]:80/p', '/p', undefined],
    ['http:///p', '/p', undefined],
    ['http://h//evil.example/p', '//evil.example/p', undefined],
    ['svn+ssh://h/p', '/p', undefined],
    ['/a#b', '/a#b', undefined],
    ['/a#b?c', '/a#b', 'c'],
    ['/a?b#c', '/a', 'b#c'],
  ]
  for (const [url, path, query] of cases) {
    it(`splits ${url}`, () => assert.deepEqual(requestTarget(url), { path, query }))
  }

  for (const url of ['*', '', 'a/b', '?a', 'http:/x', 'http:x', '://x/y', 'http://h\\x/y']) {
    it(`yields a path that is refused for ${JSON.stringify(url)}`, () => {
      assert.equal(canonicalPath(requestTarget(url).path), undefined)
    })
  }
})

const DOTS = ['.', '..', '%2e', '%2E', '%2e%2e', '.%2e', '%2E.', '%252e', '%252e%252E', '.%252e']
const DEEP = ['%25252e%25252e', '%2525252e.', '%25%32%65', '%2%35%32e', '%%32%65', '%32e']
const SLASHES = ['/', '%2f', '%2F', '%252f', '%25252F']
const PARAMETERS = [';', ';x', ';a=b', '%3b', '%3Bx', '%253b', ';..', ';;']

describe('canonicalPath', () => {
  const refused = new Set<string>()
  for (const dot of DOTS) {
    for (const slash of SLASHES) {
      refused.add(`/a${slash}${dot}`)
      refused.add(`/a${slash}${dot}${slash}b`)
    }
    for (const parameter of PARAMETERS) refused.add(`/a/${dot}${parameter}/b`)
  }
  for (const path of [
    '/.',
    '/..',
    '/../',
    '//..',
    '/..//',
    '/%25252e%25252e/x',
    '/%2525252e./x',
    '/a/%25%32%65/b',
    '/a/..;/..;/b',
    '/a/.;x=..;y/b',
    '/a\\b',
    '/\\',
    '/..\\x',
    '/%5c',
    '/%5C..',
    '/%255c',
    '/%25255C',
    '/a%5Cb',
    // Not decodable, at the first stage or a later one.
    '/%',
    '/%2',
    '/%zz',
    '/%2g',
    '/a%',
    '/%%',
    '/%%32%65',
    '/%2%35%32e',
    '/%25',
    '/%25zz',
    '/100%25',
    '/%252',
    '/%25%',
    '/%25%32',
    '/%u002e',
    '/%25u002e',
    '/%2525',
    '/%252525zz',
    // Not UTF-8.
    '/%c0%ae',
    '/%C0%AE%C0%AE/x',
    '/%e0%80%ae',
    '/%f0%80%80%ae',
    '/%c0%af',
    '/%c1%9c',
    '/%ff',
    '/%80',
    '/%c3',
    '/%c3/%a9',
    '/%e2%82',
    '/%ed%a0%80',
    '/%ed%bf%bf',
    '/%ed%a0%80%ed%b0%80',
    '/%f4%90%80%80',
    '/%f8%88%80%80%80',
    '/%C3%25A9',
    '/%25C3%A9',
    '/%25c0%25ae',
    '/\xe9',
    '/\xc3',
    '/\xc0\xae',
    '/\xc3%a9',
    '/%c3\xa9',
    '/\u0100',
    '/\ud800',
    // Control characters.
    '/\0',
    '/%00',
    '/%00/..',
    '/a%0d%0ab',
    '/a%0Ab',
    '/%09',
    '/%1f',
    '/%7f',
    '/%7F',
    '/\x7f',
    '/\n',
    '/%2500',
    '/%25250a',
    '/%257f',
    '/%c2%80',
    '/%c2%85',
    '/%C2%9F',
    '/%25c2%2585',
    bytes('/\u0085'),
    // No path.
    '',
    'a',
    '.',
    '..',
    '*',
    '%2f',
    '%2fa',
    'http://h/x',
    '?',
  ]) {
    refused.add(path)
  }
  refused.delete('/a/..%2e')

  for (const path of refused) {
    it(`refuses ${JSON.stringify(path)}`, () => assert.equal(canonicalPath(path), undefined))
  }

  const admitted: [path: string, decoded: string, encoded?: string, preserved?: string][] = [
    ['/', '/'],
    ['//', '//'],
    ['/a', '/a'],
    ['/a/', '/a/'],
    ['/a//b', '/a//b'],
    ['//a///b//', '//a///b//'],
    ['//evil.example/x', '//evil.example/x'],
    ['/..foo', '/..foo'],
    ['/.foo', '/.foo'],
    ['/foo..', '/foo..'],
    ['/foo.', '/foo.'],
    ['/a..b', '/a..b'],
    ['/...', '/...'],
    ['/..../x', '/..../x'],
    ['/.../..x', '/.../..x'],
    ['/...;', '/...;'],
    ['/%2e%2e%2e', '/...', '/...'],
    ['/..%2e', '/...', '/...'],
    ['/%2efoo', '/.foo', '/.foo'],
    ['/.well-known/x', '/.well-known/x'],
    ['/a;..', '/a;..'],
    ['/a;b=../c', '/a;b=../c'],
    ['/;', '/;'],
    ['/;x/b', '/;x/b'],
    ['/a:b', '/a:b'],
    ['/v1/models:generate', '/v1/models:generate'],
    ["/-._~!$&'()*+,;=:@", "/-._~!$&'()*+,;=:@"],
    ['/a+b', '/a+b'],
    ['/%41', '/A', '/A'],
    ['/%61%2Fb', '/a/b', '/a/b', '/a%2Fb'],
    ['/%2f', '//', '//', '/%2f'],
    ['/%2Fa%2f', '//a/', '//a/', '/%2Fa%2f'],
    ['/%2Fevil.example%2Fx', '//evil.example/x', '//evil.example/x', '/%2Fevil.example%2Fx'],
    ['/a%2fb%20c', '/a/b c', '/a/b%20c', '/a%2fb%20c'],
    ['/%252F', '/%2F', '/%252F', '/%252F'],
    ['/%252Fa%2Fb', '/%2Fa/b', '/%252Fa/b', '/%252Fa%2Fb'],
    ['/%20', '/ ', '/%20'],
    ['/ ', '/ ', '/%20'],
    ['/%3f', '/?', '/%3F'],
    ['/%3Fa=b', '/?a=b', '/%3Fa=b'],
    ['/%23', '/#', '/%23'],
    ['/a#b', '/a#b', '/a%23b'],
    ['/%253F', '/%3F', '/%253F'],
    ['/%2541', '/%41', '/%2541'],
    ['/%25252541', '/%252541', '/%25252541'],
    ['/%26%3d%3B', '/&=;', '/&=;'],
    ['/%c3%a9', '/é', '/%C3%A9'],
    ['/%C3%A9', '/é', '/%C3%A9'],
    [bytes('/é'), '/é', '/%C3%A9'],
    [bytes('/é%2Fü'), '/é/ü', '/%C3%A9/%C3%BC', '/%C3%A9%2F%C3%BC'],
    ['/%25C3%25A9', '/%C3%A9', '/%25C3%25A9'],
    ['/%e2%82%ac', '/€', '/%E2%82%AC'],
    ['/%f0%9f%98%80', '/😀', '/%F0%9F%98%80'],
    ['/%ef%bb%bf', '/\ufeff', '/%EF%BB%BF'],
    ['/%c2%a0', '/\u00a0', '/%C2%A0'],
    ['/%ef%bc%8e%ef%bc%8e', '/．．', '/%EF%BC%8E%EF%BC%8E'],
    ['/%e2%88%95', '/∕', '/%E2%88%95'],
    ['/<>"^`{|}[]', '/<>"^`{|}[]', '/%3C%3E%22%5E%60%7B%7C%7D%5B%5D'],
    ['/%3c%7Cx', '/<|x', '/%3C%7Cx'],
  ]
  for (const [path, decoded, encoded = path, preserved = encoded] of admitted) {
    it(`admits ${JSON.stringify(path)}`, () => {
      assert.deepEqual(canonicalPath(path), {
        decoded,
        encoded,
        encodedPreservingSlash: preserved,
      })
    })
  }

  for (const dot of [...DOTS, ...DEEP]) {
    it(`never lets ${dot} through as a dot segment`, () => {
      for (const path of [`/${dot}`, `/x/${dot}/y`, `/x%2F${dot}%252fy`]) {
        const result = canonicalPath(path)
        if (result !== undefined) assert.deepEqual(dotSegments(fullyDecoded(result.decoded)), [])
      }
    })
  }

  it('decodes a short path to the end however deep it is nested', () => {
    assert.equal(canonicalPath(`/%${'25'.repeat(900)}2e`), undefined)
    assert.equal(canonicalPath(`/%${'25'.repeat(900)}41`)?.decoded, `/%${'25'.repeat(899)}41`)
    assert.equal(canonicalPath(`/%${'25'.repeat(900)}2e%${'25'.repeat(700)}2e/`), undefined)
  })

  it('refuses a path whose nesting would cost too much, and cheaply', () => {
    const started = process.cpuUsage()
    assert.equal(canonicalPath(`/%${'25'.repeat(8190)}41`), undefined)
    const used = process.cpuUsage(started)
    assert.ok(used.user + used.system < 100_000, `took ${used.user + used.system} us of CPU`)
  })

  it('judges 16 KiB of the worst single characters in bounded time', () => {
    const started = process.cpuUsage()
    for (const part of ['/.', '/;', '/..a', '%2f', '%2541', '/...;', ';..', '%C3%A9', '//']) {
      canonicalPath(`/${part.repeat(Math.floor(16_384 / part.length))}x`)
    }
    const used = process.cpuUsage(started)
    assert.ok(used.user + used.system < 300_000, `took ${used.user + used.system} us of CPU`)
  })

  const PIECES = [
    '/',
    '/',
    '/',
    '.',
    '..',
    '%2e',
    '%2F',
    '%2f',
    '%252e',
    '%252F',
    '%5c',
    '\\',
    ';',
    '%3b',
    '%',
    '%25',
    '25',
    '2',
    'e',
    '2e',
    'f',
    '41',
    'a',
    'Z',
    '-',
    '~',
    ':',
    '@',
    '?',
    '#',
    '[',
    ' ',
    '%c3',
    '%a9',
    '%C3%A9',
    '%25C3%25A9',
    '\xc3\xa9',
    '\xe9',
    '%ed%a0%80',
    '%c0%ae',
    '%f0%9f%98%80',
    '%00',
    '%7f',
    '%c2%85',
    '%20',
    '%3F',
    '%23',
    '\t',
    '%EF%BB%BF',
    '%EF%BF%BD',
  ]
  const paths = fc
    .oneof(
      { weight: 4, arbitrary: fc.array(fc.constantFrom(...PIECES), { maxLength: 12 }) },
      { weight: 1, arbitrary: fc.array(fc.constantFrom('/', '.', 'a', ';', '%25', '2e', '2f')) },
      { weight: 1, arbitrary: fc.array(fc.nat(255).map(byte => String.fromCharCode(byte))) },
      {
        weight: 1,
        arbitrary: fc
          .string({ unit: 'binary' })
          .map(text => [encodeURIComponent(text.toWellFormed())]),
      },
    )
    .map(pieces => `/${pieces.join('')}`)

  it('agrees with a byte-wise reading of the contract', () => {
    let admittedPaths = 0
    fc.assert(
      fc.property(paths, path => {
        const result = canonicalPath(path)
        const expected = oracle(path)
        assert.equal(result?.decoded, expected)
        if (result === undefined) return
        admittedPaths += 1
        assert.equal(result.encoded, oracleEncode(result.decoded))
      }),
      { numRuns: 20_000 },
    )
    assert.ok(admittedPaths > 1000, `only ${admittedPaths} paths were admitted`)
  })

  it('never admits a dot segment, a backslash or a control character at any depth', () => {
    fc.assert(
      fc.property(paths, path => {
        const result = canonicalPath(path)
        if (result === undefined) return
        for (const form of [result.decoded, result.encoded, result.encodedPreservingSlash]) {
          const end = fullyDecoded(form)
          assert.deepEqual(dotSegments(end), [])
          assert.doesNotMatch(end, /[\\\p{Cc}]/u)
          assert.ok(form.startsWith('/'))
        }
      }),
      { numRuns: 5000 },
    )
  })

  it('is idempotent, and its encoded forms decode once to what was judged', () => {
    fc.assert(
      fc.property(paths, path => {
        const result = canonicalPath(path)
        if (result === undefined) return
        assert.equal(decodeURIComponent(result.encoded), result.decoded)
        assert.equal(decodeURIComponent(result.encodedPreservingSlash), result.decoded)
        assert.equal(result.encodedPreservingSlash.replaceAll(/%2f/gi, '/'), result.encoded)
        assert.deepEqual(canonicalPath(result.encoded), {
          decoded: result.decoded,
          encoded: result.encoded,
          encodedPreservingSlash: result.encoded,
        })
        assert.deepEqual(canonicalPath(result.encodedPreservingSlash), result)
        assert.match(result.encoded, /^(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-F]{2})+$/)
      }),
      { numRuns: 5000 },
    )
  })

  it('keeps every encoded slash of the request as it came when asked to', () => {
    fc.assert(
      fc.property(paths, path => {
        const result = canonicalPath(path)
        if (result === undefined) return
        assert.deepEqual(result.encodedPreservingSlash.match(/%2f/gi), path.match(/%2f/gi))
      }),
      { numRuns: 5000 },
    )
  })
})

describe('joinPath', () => {
  const cases: [directive: string, request: string, joined: string][] = [
    ['', '/', '/'],
    ['/', '/', '/'],
    ['/api', '/', '/api'],
    ['/api/', '/', '/api/'],
    ['/api//', '/', '/api//'],
    ['', '/x', '/x'],
    ['/', '/x', '/x'],
    ['/api', '/x', '/api/x'],
    ['/api/', '/x', '/api/x'],
    ['/api/', '/v1//x/', '/api/v1//x/'],
    ['/api', '/x/', '/api/x/'],
    ['/api', '//x', '/api//x'],
    ['/api/', '//x', '/api//x'],
    ['/api', '//', '/api//'],
    ['/', '//', '//'],
    ['', '//evil.example/x', '//evil.example/x'],
    ['/', '//evil.example/x', '//evil.example/x'],
    ['/api', '/a%2Fb', '/api/a%2Fb'],
    ['/api', '', '/api'],
    ['api', '/x', '/api/x'],
    ['/api', 'x', '/api/x'],
  ]
  for (const [directive, request, joined] of cases) {
    it(`joins ${JSON.stringify(directive)} and ${request}`, () => {
      assert.equal(joinPath(directive, request), joined)
    })
  }

  it('keeps the whole request path and begins with the whole directive path', () => {
    const path = fc
      .array(fc.constantFrom('/', 'a', '..x', '%2F'), { maxLength: 6 })
      .map(p => `/${p.join('')}`)
    fc.assert(
      fc.property(path, path, (directive, request) => {
        const joined = joinPath(directive, request)
        assert.ok(joined.startsWith(directive))
        if (request !== '/') assert.ok(joined.endsWith(request))
        assert.ok(joined.length <= directive.length + request.length)
      }),
    )
  })
})

/** Contract section 5 read byte by byte; shares nothing with the code under test. */
function oracle(path: string): string | undefined {
  let stage = Uint8Array.from(path, character => character.charCodeAt(0))
  if (stage[0] !== 0x2f) return undefined
  const texts: string[] = []
  for (;;) {
    const text = utf8(stage)
    if (text === undefined) return undefined
    for (const character of text) {
      const code = character.codePointAt(0) ?? 0
      if (code < 0x20 || (code >= 0x7f && code < 0xa0) || code === 0x5c) return undefined
    }
    if (dotSegments(text).length > 0) return undefined
    texts.push(text)
    if (!stage.includes(0x25)) return texts[1] ?? texts[0]
    const next: number[] = []
    for (let index = 0; index < stage.length; index += 1) {
      if (stage[index] !== 0x25) {
        next.push(stage[index] ?? 0)
        continue
      }
      const high = hexDigit(stage[index + 1])
      const low = hexDigit(stage[index + 2])
      if (high === -1 || low === -1) return undefined
      next.push(high * 16 + low)
      index += 2
    }
    stage = Uint8Array.from(next)
  }
}

function hexDigit(byte: number | undefined): number {
  return byte === undefined
    ? -1
    : '0123456789abcdef'.indexOf(String.fromCharCode(byte).toLowerCase())
}

function utf8(input: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(input)
  } catch {
    return undefined
  }
}

function oracleEncode(text: string): string {
  const kept = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/"
  return Array.from(Buffer.from(text, 'utf8'), byte => {
    const character = String.fromCharCode(byte)
    return kept.includes(character)
      ? character
      : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }).join('')
}

function dotSegments(text: string): string[] {
  return text.split('/').filter(segment => ['.', '..'].includes(segment.split(';')[0] ?? ''))
}

function fullyDecoded(text: string): string {
  let current = text
  while (current.includes('%')) current = decodeURIComponent(current)
  return current
}
