// Holds the header filters to contract section 5: what is end to end crosses unchanged, and nothing else does.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import {
  foreignBaggage,
  isFieldName,
  isFieldValue,
  isRelativeReference,
  isReservedHeader,
  responseHeaders,
  upstreamHeaders,
} from '../../lib/headers.ts'

const HOP_BY_HOP = [
  'Connection',
  'Proxy-Connection',
  'Keep-Alive',
  'Proxy-Authenticate',
  'Proxy-Authorization',
  'TE',
  'Trailer',
  'Transfer-Encoding',
  'Upgrade',
]

/** What the gateway sets anew, or keeps from an upstream. */
const REPLACED = [
  'Host',
  'Content-Length',
  'Expect',
  'Authorization',
  'Forwarded',
  'X-Real-IP',
  'X-Request-Id',
  'traceparent',
  'X-Forwarded-For',
  'X-Forwarded-Proto',
  'X-Forwarded-Host',
  'X-Forwarded-Anything',
  'X-Caracal-Resource',
  'X-Caracal-Client-ID',
  'X-Caracal-Identity',
  'X-Caracal-Gateway-Signature',
]

const DROPPED_IN_RESPONSE = [
  'X-Caracal-Identity',
  'Server',
  'X-Powered-By',
  'X-AspNet-Version',
  'X-AspNetMvc-Version',
  'Refresh',
]

const END_TO_END = [
  'Accept',
  'Accept-Encoding',
  'Content-Type',
  'Content-Encoding',
  'Cookie',
  'Cache-Control',
  'ETag',
  'If-None-Match',
  'Last-Event-ID',
  'MCP-Protocol-Version',
  'Mcp-Session-Id',
  'Range',
  'Set-Cookie',
  'User-Agent',
  'Via',
  'X-Api-Key',
  'x_caracal_resource',
  'X-Caracal',
  'X-Forwarded',
  'constructor',
  'toString',
]

/** The same name in some mixture of cases. */
const inAnyCase = (names: readonly string[]): fc.Arbitrary<string> =>
  fc
    .tuple(fc.constantFrom(...names), fc.array(fc.boolean(), { minLength: 40, maxLength: 40 }))
    .map(([name, upper]) =>
      Array.from(name, (c, i) => (upper[i] ? c.toUpperCase() : c.toLowerCase())).join(''),
    )

const fieldName = fc.stringMatching(/^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,20}$/)

/** A field value as Node gives it: latin1 text of the bytes, no white space at its ends. */
const fieldValue = fc
  .array(
    fc.integer({ min: 0x20, max: 0xff }).filter(code => code !== 0x7f),
    { maxLength: 24 },
  )
  .map(codes => String.fromCharCode(...codes).replace(/^[ \t]+|[ \t]+$/g, ''))

const flat = (fields: readonly (readonly [string, string])[]): string[] => fields.flat()

function pairs(raw: readonly string[]): [string, string][] {
  const result: [string, string][] = []
  for (let i = 0; i < raw.length; i += 2) result.push([raw[i] ?? '', raw[i + 1] ?? ''])
  return result
}

const lower = (name: string) => name.toLowerCase()

function forward(raw: readonly string[], own: readonly string[] = [], tracestate = true): string[] {
  return upstreamHeaders({ raw, own, contentLength: undefined, keepTracestate: tracestate })
}

describe('isFieldName', () => {
  it("admits every character of RFC 9110's token and no other", () => {
    const token = new Set(
      "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    )
    for (let code = 0; code < 0x180; code++) {
      const character = String.fromCharCode(code)
      assert.equal(isFieldName(`a${character}`), token.has(character), `U+${code.toString(16)}`)
    }
    assert.equal(isFieldName(''), false)
    assert.equal(isFieldName('x-a\n'), false)
  })
})

describe('isFieldValue', () => {
  const cases: [value: string, admitted: boolean][] = [
    ['Bearer a.b.c', true],
    ['a', true],
    ['a\tb', true],
    ['\xe9\xff', true],
    ['', false],
    [' a', false],
    ['a ', false],
    ['\ta', false],
    ['a\t', false],
    ['a\r\nX-Caracal-Identity: b', false],
    ['a\nb', false],
    ['a\n', false],
    ['a\rb', false],
    ['a\0b', false],
    ['a\x7fb', false],
    ['a\u0100', false],
    ['a\u{1f600}', false],
  ]
  for (const [value, admitted] of cases) {
    it(`${admitted ? 'admits' : 'refuses'} ${JSON.stringify(value)}`, () => {
      assert.equal(isFieldValue(value), admitted)
    })
  }
})

describe('isReservedHeader', () => {
  const reserved = [
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
    'forwarded',
    'proxy-authorization',
    'proxy-connection',
    'proxy-',
    'x-forwarded-for',
    'x-forwarded-x',
    'x-real-ip',
    'x-caracal-identity',
    'x-caracal-x',
    'x-request-id',
    'traceparent',
    'tracestate',
    'baggage',
  ]
  for (const name of reserved) {
    it(`reserves ${name} in any case`, () => {
      fc.assert(
        fc.property(inAnyCase([name]), variant => assert.equal(isReservedHeader(variant), true)),
        { numRuns: 10 },
      )
    })
  }
  for (const name of ['authorization', 'x-api-key', 'x-caracal', 'proxy', 'cookie', 'accept']) {
    it(`leaves ${name} to a directive`, () => assert.equal(isReservedHeader(name), false))
  }
})

describe('upstreamHeaders', () => {
  it('drops what is hop by hop, replaced, or the gateway’s own, in any case', () => {
    const raw = [...HOP_BY_HOP, ...REPLACED].flatMap(name => [name, 'x'])
    assert.deepEqual(forward(raw), [])
    assert.deepEqual(forward(raw.map(part => part.toUpperCase())), [])
    assert.deepEqual(forward(raw.map(part => part.toLowerCase())), [])
  })

  it('keeps end-to-end fields as they came: case, order, repetition', () => {
    const raw = END_TO_END.flatMap((name, i) => [name, `v${i}`])
    assert.deepEqual(forward([...raw, ...raw]), [...raw, ...raw])
  })

  it('drops what Connection names, from every Connection line, wherever it stands', () => {
    const raw = flat([
      ['X-Before', '1'],
      ['Connection', 'x-before , X-Other'],
      ['X-Other', '2'],
      ['CONNECTION', ',, x-third,\tclose'],
      ['x-third', '3'],
      ['Close', 'a field of this name is not the option'],
      ['X-Kept', '4'],
    ])
    assert.deepEqual(forward(raw), [
      'Close',
      'a field of this name is not the option',
      'X-Kept',
      '4',
    ])
  })

  it('replaces what the directive sets, in any case', () => {
    const own = ['Authorization', 'Bearer new', 'X-API-Key', 'k']
    assert.deepEqual(forward(['x-api-key', 'old', 'authorization', 'old', 'a', 'b'], own), [
      'a',
      'b',
      ...own,
    ])
  })

  it('announces a length once, after the caller’s headers', () => {
    const headers = upstreamHeaders({
      raw: ['content-length', '3', 'a', 'b', 'Connection', 'content-length'],
      own: ['Host', 'h'],
      contentLength: '3',
      keepTracestate: true,
    })
    assert.deepEqual(headers, ['a', 'b', 'Content-Length', '3', 'Host', 'h'])
  })

  it('keeps tracestate only beside the traceparent that it belongs to', () => {
    assert.deepEqual(forward(['Tracestate', 'a=b'], [], true), ['Tracestate', 'a=b'])
    assert.deepEqual(forward(['Tracestate', 'a=b'], [], false), [])
  })

  it('drops a baggage line that holds nothing but caracal entries', () => {
    const raw = ['baggage', 'caracal.a=1', 'Baggage', 'b=2,caracal.c=3']
    assert.deepEqual(forward(raw), ['Baggage', 'b=2'])
  })

  it('lets through exactly the end-to-end fields that Connection does not name', () => {
    const name = fc.oneof(
      inAnyCase(HOP_BY_HOP),
      inAnyCase(REPLACED),
      inAnyCase(END_TO_END),
      fieldName.filter(given => lower(given) !== 'baggage'),
    )
    const connection = fc
      .array(fc.oneof(name, fc.constantFrom('', ' ', 'close', 'keep-alive')), { maxLength: 4 })
      .map(options => options.join(', '))
    const field = fc.oneof(
      { weight: 4, arbitrary: fc.tuple(name, fieldValue) },
      { weight: 1, arbitrary: fc.tuple(inAnyCase(['Connection']), connection) },
    )
    const never = new Set([...HOP_BY_HOP, ...REPLACED].map(lower))
    fc.assert(
      fc.property(fc.array(field, { maxLength: 20 }), fields => {
        const named = new Set(
          fields
            .filter(([given]) => lower(given) === 'connection')
            .flatMap(([, value]) => value.split(',').map(option => option.trim().toLowerCase()))
            .filter(option => option !== 'close' && option !== 'keep-alive'),
        )
        const expected = fields.filter(
          ([given]) =>
            !never.has(lower(given)) &&
            !named.has(lower(given)) &&
            !/^x-(?:caracal|forwarded)-/i.test(given),
        )
        assert.deepEqual(pairs(forward(flat(fields))), expected)
      }),
      { numRuns: 500 },
    )
  })

  it('sends its own headers whatever the caller’s Connection names', () => {
    const own = ['Host', 'up:1', 'X-Request-Id', 'r', 'traceparent', 't', 'X-Forwarded-For', 'p']
    const credential = ['Authorization', 'Bearer new', 'X-Caracal-Identity', 'token']
    const all = [...own, ...credential]
    const ownName = inAnyCase(pairs(all).map(([name]) => name))
    fc.assert(
      fc.property(
        fc.array(fc.oneof(ownName, fieldName, fc.string()), { maxLength: 12 }),
        fc.array(fc.tuple(ownName, fieldValue), { maxLength: 5 }),
        (options, forged) => {
          const raw = flat([['Connection', options.join(',')], ...forged])
          assert.deepEqual(forward(raw, all), all)
        },
      ),
    )
  })
})

describe('foreignBaggage', () => {
  const cases: [title: string, value: string, left: string][] = [
    ['entries of others, byte for byte', 'a=1, b=2;p=q ,c=%20', 'a=1, b=2;p=q ,c=%20'],
    ['a value that says caracal', 'a=caracal.x', 'a=caracal.x'],
    ['a property that says caracal', 'a=1;caracal.x=2', 'a=1;caracal.x=2'],
    ['a key that only begins alike', 'caracals.x=1,caracal=2', 'caracals.x=1,caracal=2'],
    ['no caracal entry', 'caracal.agent=1', ''],
    ['the entries around one', 'a=1,caracal.x=2,b=3', 'a=1,b=3'],
    ['no caracal entry with white space', 'a=1 ,\tcaracal.x = 2', 'a=1'],
    ['no caracal entry in other case', 'CARACAL.x=2,a=1', 'a=1'],
    ['no caracal entry with an encoded letter', '%63aracal.x=2,a=1', 'a=1'],
    ['no caracal entry with an encoded dot', 'caracal%2Ex=2,a=1', 'a=1'],
    ['no caracal entry without a value', 'caracal.x,a=1', 'a=1'],
    ['no caracal entry with a property', 'caracal.x;p=1,a=1', 'a=1'],
    // Readers that decode leniently, and trim afterwards, are in use (Python's unquote_plus).
    ['no caracal entry beside a stray percent sign', '%63aracal.%zz=2,a=1', 'a=1'],
    ['no caracal entry behind an encoded space', '%20caracal.x=2,a=1', 'a=1'],
    ['no caracal entry behind a plus sign', '+caracal.x=2,a=1', 'a=1'],
  ]
  for (const [title, value, left] of cases) {
    it(`keeps ${title}`, () => assert.equal(foreignBaggage(value), left))
  }

  it('leaves no caracal entry to a reader that decodes, and keeps the rest in order', () => {
    const key = fc.oneof(
      fc.constantFrom('caracal.', 'Caracal.', '%63aracal.', 'caraca%6C%2e', ' caracal.', 'car'),
      fc.stringMatching(/^[a-z%]{0,3}$/),
    )
    const entry = fc
      .tuple(key, fc.stringMatching(/^[a-z.]{0,6}$/))
      .map(([k, rest]) => `${k}${rest}=v`)
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 6 }), entries => {
        const left = foreignBaggage(entries.join(','))
        const expected = entries.filter(text => !isCaracal(text))
        assert.equal(left.trim(), expected.join(',').trim())
      }),
    )
  })
})

const isCaracal = (entry: string) => /^\s*caracal\./i.test(lenientDecode(entry))

function lenientDecode(text: string): string {
  return text
    .replaceAll('+', ' ')
    .replace(/%([0-9a-f]{2})/gi, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16)))
}

describe('responseHeaders', () => {
  it('drops what is hop by hop, and what tells about the upstream, in any case', () => {
    for (const form of [(s: string) => s, (s: string) => s.toUpperCase(), lower]) {
      const raw = [...HOP_BY_HOP, ...DROPPED_IN_RESPONSE].flatMap(name => [form(name), 'x'])
      assert.deepEqual(responseHeaders(raw, true), {})
    }
  })

  it('does not let an upstream set what the gateway adds', () => {
    const raw = ['X-Request-Id', 'forged', 'X-Caracal-Token-Expires-In', '999']
    assert.deepEqual(responseHeaders(raw, true), {})
  })

  it('keeps WWW-Authenticate only where no credential was sent', () => {
    const raw = ['WWW-Authenticate', 'Basic', 'www-authenticate', 'Bearer']
    assert.deepEqual(responseHeaders(raw, false), {})
    assert.deepEqual(responseHeaders(raw, true), { 'www-authenticate': ['Basic', 'Bearer'] })
  })

  it('keeps repeated fields apart', () => {
    const raw = ['Set-Cookie', 'a=1', 'set-cookie', 'b=2', 'SET-COOKIE', 'c=3', 'Vary', 'x']
    assert.deepEqual(responseHeaders(raw, false), {
      'set-cookie': ['a=1', 'b=2', 'c=3'],
      vary: 'x',
    })
  })

  it('drops what Connection names', () => {
    assert.deepEqual(responseHeaders(['Connection', 'x-a', 'X-A', '1', 'X-B', '2'], false), {
      'x-b': '2',
    })
  })

  it('drops each Location that leads away, and keeps each that does not', () => {
    const raw = ['Location', '//evil.test/', 'Location', '/a', 'Content-Location', 'https://e.test']
    assert.deepEqual(responseHeaders(raw, false), { location: '/a' })
  })

  it('lets through exactly the end-to-end fields, each line in its order', () => {
    const name = fc.oneof(
      inAnyCase(HOP_BY_HOP),
      inAnyCase(DROPPED_IN_RESPONSE),
      inAnyCase(END_TO_END),
      inAnyCase(['__proto__', 'constructor', 'hasOwnProperty']),
      fieldName,
    )
    const field = fc.oneof(
      { weight: 6, arbitrary: fc.tuple(name, fieldValue) },
      { weight: 1, arbitrary: fc.tuple(inAnyCase(['Connection']), name) },
    )
    const never = new Set([...HOP_BY_HOP, ...DROPPED_IN_RESPONSE].map(lower))
    fc.assert(
      fc.property(fc.array(field, { maxLength: 20 }), fields => {
        const named = new Set(
          fields
            .filter(([given]) => lower(given) === 'connection')
            .map(([, value]) => lower(value)),
        )
        const expected = new Map<string, string[]>()
        for (const [given, value] of fields) {
          const key = lower(given)
          // The one end-to-end name that an object of headers cannot hold.
          if (never.has(key) || named.has(key) || key === '__proto__') continue
          expected.set(key, [...(expected.get(key) ?? []), value])
        }
        const got = new Map<string, string[]>()
        for (const [key, value] of Object.entries(responseHeaders(flat(fields), true))) {
          got.set(key, typeof value === 'string' ? [value] : value)
        }
        assert.deepEqual(got, expected)
      }),
      { numRuns: 500 },
    )
  })
})

describe('isRelativeReference', () => {
  const relative = [
    '/',
    '/a',
    'a',
    'a/b',
    './a',
    '../a',
    '?q=1',
    '#f',
    '/a?u=https://b.test',
    '/a:b',
  ]
  const away = [
    'https://evil.test/',
    'http:evil',
    'javascript:alert(1)',
    'data:,x',
    'mailto:a@b.test',
    '//evil.test',
    '//gateway.invalid/',
    '\\/gateway.invalid/',
    '/\\evil.test',
    '\\/evil.test',
    '\\\\evil.test',
    '///evil.test',
    '//',
    '/\t/evil.test',
    '\t//evil.test',
    ' //evil.test',
    'java\nscript:alert(1)',
    '\0//evil.test',
    '/a b',
    '/a\r\nX: y',
    'http://[',
    '//[',
  ]
  for (const value of relative) {
    it(`takes ${JSON.stringify(value)} for relative`, () => {
      assert.equal(isRelativeReference(value), true)
    })
  }
  for (const value of away) {
    it(`does not take ${JSON.stringify(value)} for relative`, () => {
      assert.equal(isRelativeReference(value), false)
    })
  }

  it('never admits what a browser resolves to another origin, whatever the base', () => {
    const bases = [
      'https://gateway.test/',
      'https://gateway.test/v1/a/b?q#f',
      'https://gateway.test:8443//x',
      'http://gateway.test/a',
      'http://127.0.0.1:8081/mcp',
      'https://[::1]/',
    ]
    const piece = fc.constantFrom(
      '/',
      '\\',
      '//',
      ':',
      '@',
      '?',
      '#',
      '.',
      '..',
      '%2f',
      '%5c',
      '%00',
      'http:',
      'https:',
      'HTTPS:',
      'javascript:',
      'evil.test',
      'gateway.invalid',
      'a',
      '1',
      '[',
      ']',
      '\t',
      '\n',
      '\r',
      ' ',
      '\0',
      '\x7f',
      '\x85',
      '\xa0',
      '\xad',
      '\xff',
      '\u3002',
      '\uff0f',
      '\u2028',
      ';',
      '&',
      '+',
      '-',
    )
    const junk = fc.oneof(
      fc.array(piece, { maxLength: 7 }).map(parts => parts.join('')),
      fc.string({ maxLength: 12 }),
    )
    let admitted = 0
    fc.assert(
      fc.property(junk, value => {
        if (!isRelativeReference(value)) return
        admitted += 1
        for (const base of bases) {
          assert.ok(URL.canParse(value, base), base)
          assert.equal(new URL(value, base).origin, new URL(base).origin, base)
        }
      }),
      { numRuns: 4000 },
    )
    assert.ok(admitted > 100, `only ${admitted} of 4000 were admitted`)
  })
})
