// Guarantees that durations are read as Go reads them.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { formatDuration, parseDuration } from '../../lib/duration.ts'

// The most nanoseconds that Go can hold, in milliseconds.
const LONGEST = Number(2n ** 63n - 1n) / 1e6

describe('parseDuration', () => {
  const good: Record<string, number> = {
    '0': 0,
    '0s': 0,
    '5s': 5000,
    '30s': 30_000,
    '1478s': 1_478_000,
    '1m30s': 90_000,
    '250ms': 250,
    '1.5h': 5_400_000,
    '100us': 0.1,
    '10ns': 0.00001,
    '11\u00b5s': 0.011,
    '12\u03bcs': 0.012,
    '5.0s': 5000,
    '5.6s': 5600,
    '5.s': 5000,
    '.5s': 500,
    '1.0s': 1000,
    '1.00s': 1000,
    '1.004s': 1004,
    '1.0040s': 1004,
    '100.00100s': 100_001,
    '3h30m': 12_600_000,
    '10.5s4m': 250_500,
    '1h2m3s4ms5us6ns': 3_723_004.005006,
    '39h9m14.425s': 140_954_425,
    '1s1s': 2000,
    '0.0000000001s': 0,
    '0.3333333333333333333h': 1_200_000 - 0.000001,
    '0000000000000000000000001s': 1000,
    '0.100000000000000000000h': 360_000,
    '9223372036854775807ns': LONGEST,
    '2562047h47m16.854775807s': LONGEST,
  }
  for (const [text, milliseconds] of Object.entries(good)) {
    it(`reads ${text}`, () => assert.equal(parseDuration(text), milliseconds))
  }

  const bad = [
    '',
    ' ',
    '3',
    '00',
    '0.0',
    '-0',
    '-5s',
    '+5s',
    '+0',
    's',
    '.',
    '.s',
    '-.5s',
    '5.5.5s',
    '1..5s',
    '5 s',
    ' 5s',
    '5s ',
    '5s\n',
    '1m 30s',
    '1m30',
    '5S',
    '5sec',
    '5d',
    '1e3s',
    '0x10s',
    '1_000s',
    '5s-3s',
    '1,5s',
    '٥s',
    'infinity',
    '9223372036854775808ns',
    '9223372036854775.808us',
    '9223372036854ms775us808ns',
    '2562047h47m16.854775808s',
    '3000000h',
    '1'.repeat(400) + 's',
    'constructor',
    '1constructor',
  ]
  for (const text of bad) {
    it(`refuses ${JSON.stringify(text.slice(0, 40))}`, () => {
      assert.equal(parseDuration(text), undefined)
    })
  }

  const units = { ns: 1e-6, us: 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000 } as const
  const unit = fc.constantFrom<keyof typeof units>('ns', 'us', 'ms', 's', 'm', 'h')

  it('adds up its parts', () => {
    const part = fc.tuple(fc.nat({ max: 9999 }), unit)
    fc.assert(
      fc.property(fc.array(part, { minLength: 1, maxLength: 6 }), parts => {
        const text = parts.map(([count, name]) => `${count}${name}`).join('')
        const nanoseconds = parts.reduce(
          (sum, [count, name]) => sum + BigInt(count) * BigInt(Math.round(units[name] * 1e6)),
          0n,
        )
        assert.equal(parseDuration(text), Number(nanoseconds) / 1e6, text)
      }),
    )
  })

  it('drops what a fraction has below a nanosecond', () => {
    fc.assert(
      fc.property(fc.nat({ max: 9999 }), fc.nat({ max: 999_999 }), unit, (whole, part, name) => {
        const text = `${whole}.${String(part).padStart(6, '0')}${name}`
        const nanoseconds = Math.round(units[name] * 1e6)
        const expected = (whole * nanoseconds + Math.floor((part * nanoseconds) / 1e6)) / 1e6
        assert.equal(parseDuration(text), expected, text)
      }),
    )
  })

  it('reads exactly the texts of the grammar', () => {
    const grammar = /^(?:0|(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)$/
    const piece = fc.constantFrom(
      '0',
      '1',
      '59',
      '.',
      'ns',
      'us',
      'µs',
      'ms',
      's',
      'm',
      'h',
      '-',
      ' ',
    )
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 8 }), pieces => {
        const text = pieces.join('')
        // Up to sixteen digits of hours would be longer than Go can hold.
        fc.pre(!/\d{6}/.test(text))
        assert.equal(parseDuration(text) !== undefined, grammar.test(text), text)
      }),
      { numRuns: 2000 },
    )
  })
})

describe('formatDuration', () => {
  const cases: [number, string][] = [
    [0, '0s'],
    [0.000001, '0.000001ms'],
    [0.1, '0.1ms'],
    [1, '1ms'],
    [250, '250ms'],
    [1000, '1s'],
    [1500, '1.5s'],
    [1001, '1.001s'],
    [60_000, '1m'],
    [90_000, '1m30s'],
    [120_000, '2m'],
    [3_600_000, '1h'],
    [3_601_000, '1h1s'],
    [5_400_000, '1h30m'],
    [2_147_483_647, '596h31m23.647s'],
  ]
  for (const [milliseconds, text] of cases) {
    it(`writes ${milliseconds} ms as ${text}`, () => {
      assert.equal(formatDuration(milliseconds), text)
    })
  }

  it('is undone by parseDuration', () => {
    fc.assert(
      fc.property(fc.nat({ max: 2 ** 31 - 1 }), fc.nat({ max: 999_999 }), (whole, nanoseconds) => {
        const milliseconds = (whole * 1e6 + nanoseconds) / 1e6
        fc.pre(Number.isSafeInteger(whole * 1e6 + nanoseconds))
        assert.equal(parseDuration(formatDuration(milliseconds)), milliseconds)
        assert.equal(parseDuration(formatDuration(whole)), whole)
      }),
    )
  })
})
