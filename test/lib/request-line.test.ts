// Holds the request's id to contract section 2, and its route to the path that its target names.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { requestIdOf, routedUrl } from '../../lib/request-line.ts'

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
const idOf = (id: string | undefined) =>
  requestIdOf({ headers: id === undefined ? {} : { 'x-request-id': id } })

describe('requestIdOf', () => {
  for (const id of ['a', 'R-1', '!~"\\<>', 'x'.repeat(128)]) {
    it(`keeps ${id.slice(0, 10)} of ${id.length}`, () => assert.equal(idOf(id), id))
  }

  for (const id of [
    undefined,
    '',
    'x'.repeat(129),
    'a b',
    ' a',
    'a, b',
    'a\tb',
    'a\n',
    'a\r\nX: y',
    'a\x7f',
    '\xe9',
    '\u0100',
  ]) {
    it(`makes a UUID instead of ${JSON.stringify(id)?.slice(0, 12)}`, () => {
      assert.match(idOf(id), UUID)
    })
  }

  it('makes another one each time', () => assert.notEqual(idOf(undefined), idOf(undefined)))
})

describe('routedUrl', () => {
  const cases: [url: string, routed: string][] = [
    ['/', '/'],
    ['/v1/a?b=%zz', '/v1/a?b=%zz'],
    ['/v1/%61?b', '/v1/%61?b'],
    ['//evil.test/x', '//evil.test/x'],
    ['http://gateway.test/health', '/health'],
    ['HTTP://gateway.test/a%20b?q=1', '/a%20b?q=1'],
    ['http://gateway.test', '/'],
    ['http://gateway.test?q', '/?q'],
    ['coap+tcp://h/x', '/x'],
    ['*', '/.'],
    ['gateway.test:443', '/.'],
    ['health', '/.'],
    ['?q', '/.'],
    ['', '/.'],
    ['/%', '/.'],
    ['/%zz', '/.'],
    ['/health%', '/.'],
    ['/%ff', '/.'],
    ['/%c0%ae', '/.'],
    ['http://h\\/health', '/.'],
  ]
  for (const [url, routed] of cases) {
    it(`routes ${JSON.stringify(url)} as ${routed}`, () => assert.equal(routedUrl(url), routed))
  }

  it('always yields a path that a router can decode', () => {
    const piece = fc.constantFrom(
      '/',
      '%',
      '%2f',
      '%zz',
      '?',
      '#',
      '\\',
      ':',
      '//',
      'a',
      '\xff',
      'http:',
      '*',
      '..',
    )
    const url = fc.oneof(
      fc.array(piece, { maxLength: 8 }).map(parts => parts.join('')),
      fc.string({ maxLength: 10 }),
    )
    fc.assert(
      fc.property(url, given => {
        const routed = routedUrl(given)
        assert.ok(routed.startsWith('/'))
        decodeURIComponent(routed.split('?', 1)[0] ?? '')
      }),
      { numRuns: 1000 },
    )
  })
})
