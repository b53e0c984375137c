// Holds the query to contract section 5: the caller's bytes, and none of the directive's names.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { mergeQuery } from '../../lib/query.ts'

const key = { name: 'key', value: 's e&c=r/é' }
const KEY = 'key=s%20e%26c%3Dr%2F%C3%A9'

describe('mergeQuery', () => {
  const cases: [
    title: string,
    caller: string | undefined,
    directive: string | undefined,
    credential: { name: string; value: string } | undefined,
    merged: string,
  ][] = [
    ['nothing', undefined, undefined, undefined, ''],
    ['empty queries', '', '', undefined, ''],
    ["the caller's bytes", 'a=%41&b=+&c', undefined, undefined, 'a=%41&b=+&c'],
    ["the caller's empty pairs", '&&a=1&&', undefined, undefined, '&&a=1&&'],
    ['pairs in their order, repeated ones too', 'b=2&a=1&b=1', undefined, undefined, 'b=2&a=1&b=1'],
    ['a lone mark', '?', undefined, undefined, '?'],
    ['semicolons', 'a=1;b=2', undefined, undefined, 'a=1;b=2'],
    ['undecodable values', 'a=%zz&b=%', undefined, undefined, 'a=%zz&b=%'],
    ['raw high bytes', 'a=\xe9', undefined, undefined, 'a=\xe9'],
    ["the directive's bytes", undefined, 'a=%41&b=+&c', undefined, 'a=%41&b=+&c'],
    ["the caller's pairs before the directive's", 'b=1', 'a=2', undefined, 'b=1&a=2'],
    ["the directive's pair instead of the caller's", 'a=1&b=1', 'a=2', undefined, 'b=1&a=2'],
    ['every one of its pairs', 'a=1', 'a=2&a=3', undefined, 'a=2&a=3'],
    ["empty pairs of the caller's beside a drop", '&a=1&&b=1&', 'a=2', undefined, '&&b=1&&a=2'],
    ['an empty pair of the directive without effect', '=1&&b', '&a=2', undefined, '=1&&b&&a=2'],
    ['the credential last, encoded', 'b=1', 'a=2', key, `b=1&a=2&${KEY}`],
    ['the credential alone', undefined, undefined, key, KEY],
    ["the credential instead of the directive's pair", undefined, 'key=x&a=2', key, `a=2&${KEY}`],
    ["the credential instead of the caller's pair", 'key=x', undefined, key, KEY],
    ['an encoded credential name', undefined, undefined, { name: 'a b&', value: '' }, 'a%20b%26='],
    ['a hash as %23', 'a=1#', 'b=2', undefined, 'a=1%23&b=2'],
    ['a hash as %23 with nothing to protect', 'a#b', undefined, undefined, 'a%23b'],
    ['other case', 'KEY=x', undefined, key, `KEY=x&${KEY}`],
    [
      'longer names',
      'keys=1&xkey=1&key%5B%5D=1',
      undefined,
      key,
      `keys=1&xkey=1&key%5B%5D=1&${KEY}`,
    ],
    ['a protected name as a value', 'a=key', undefined, key, `a=key&${KEY}`],
    ['a twice encoded name', 'k%2565y=1', undefined, key, `k%2565y=1&${KEY}`],
    ["a name behind a semicolon in a directive's value", 'b=1', 'a=x;b', undefined, 'b=1&a=x;b'],
  ]
  for (const [title, caller, directive, credential, merged] of cases) {
    it(`keeps ${title}`, () => assert.equal(mergeQuery(caller, directive, credential), merged))
  }

  const smuggled: [pair: string, name: string][] = [
    ['key', 'key'],
    ['key=', 'key'],
    ['key=x', 'key'],
    ['key==', 'key'],
    ['%6bey=x', 'key'],
    ['%6Bey=x', 'key'],
    ['%6b%65%79=x', 'key'],
    ['ke%79', 'key'],
    ['?key=x', 'key'],
    ['??%6bey=x', 'key'],
    ['a=1;key=x', 'key'],
    ['a;key', 'key'],
    ['key;a=1', 'key'],
    ['a=1;k%65y=x;b', 'key'],
    [';key=x', 'key'],
    ['a+b=x', 'a b'],
    ['a%20b=x', 'a b'],
    ['a b=x', 'a b'],
    ['a+b=x', 'a+b'],
    ['a%2Bb=x', 'a+b'],
    ['a%2bb', 'a+b'],
    ['%C3%A9=x', 'é'],
    ['\xc3\xa9=x', 'é'],
    ['\xc3%a9=x', 'é'],
    ['%zz=x', '%zz'],
    ['%25zz=x', '%zz'],
    ['k%=x', 'k%'],
    ['%6b%=x', 'k%'],
    ['a%3Bb=x', 'a;b'],
    ['a;b=x', 'a;b'],
    ['%3d=x', '='],
    ['%26=x', '&'],
    ['%6b%65%79%zz=x', 'key%zz'],
    ['key%5b%5D=x', 'key[]'],
    ['__proto__=x', '__proto__'],
  ]
  for (const [pair, name] of smuggled) {
    it(`drops ${JSON.stringify(pair)} where the credential is ${JSON.stringify(name)}`, () => {
      const credential = `${encodeURIComponent(name)}=t`
      assert.equal(
        mergeQuery(`x=1&${pair}&y`, undefined, { name, value: 't' }),
        `x=1&y&${credential}`,
      )
      assert.equal(mergeQuery(pair, undefined, { name, value: 't' }), credential)
    })
    it(`drops ${JSON.stringify(pair)} where the directive sets ${JSON.stringify(name)}`, () => {
      const directive = `${encodeURIComponent(name)}=t`
      assert.equal(mergeQuery(`x=1&${pair}&y`, directive), `x=1&y&${directive}`)
    })
  }

  it('drops what an upstream that splits at semicolons reads in the directive', () => {
    assert.equal(mergeQuery('b=1&c=1', 'a=1;b=2'), 'c=1&a=1;b=2')
  })

  it("keeps a directive's pair that holds the credential's name behind a semicolon", () => {
    assert.equal(mergeQuery('a=1', 'f=x;key', key), `a=1&f=x;key&${KEY}`)
  })

  it("drops the caller's pair for a name that the credential took the directive's pair of", () => {
    assert.equal(mergeQuery('a=1', 'key=1;a=2', key), KEY)
  })

  it('throws on a credential that is no text', () => {
    assert.throws(() => mergeQuery(undefined, undefined, { name: 'k', value: '\ud800' }), URIError)
  })

  const NAMES = ['k', '%6b', 'K', 'k+', '%', 'a', 'é', '', '?k', 'k%20', '%zz', ';', 'a;k', '=']
  const pairs = fc.array(
    fc.oneof(
      fc
        .tuple(fc.constantFrom(...NAMES), fc.constantFrom('', '=', '=v', '=k', '=%', '=;', '=;k'))
        .map(p => p.join('')),
      fc.string({ maxLength: 5, unit: fc.constantFrom(...'k%6b=;+?a#\xc3\xa9'.split('')) }),
    ),
  )
  const callers = pairs.map(list => Buffer.from(list.join('&'), 'utf8').toString('latin1'))

  it('leaves an upstream one reading of what the directive and the credential set', () => {
    fc.assert(
      fc.property(
        callers,
        fc.constantFrom('a=1', '%61=1&k=2', 'k=1;a=2', undefined),
        (caller, directive) => {
          const merged = mergeQuery(caller, directive, { name: 'k', value: 't' })
          for (const text of [merged, merged.replaceAll(';', '&'), merged.replace(/^\?+/, '')]) {
            assert.deepEqual(new URLSearchParams(text).getAll('k'), ['t'])
            if (directive !== undefined) {
              const own = new URLSearchParams(directive.replaceAll(';', '&')).getAll('a')
              const seen = new URLSearchParams(text).getAll('a')
              assert.ok(seen.every(value => own.includes(value)))
            }
          }
          assert.ok(!merged.includes('#'))
        },
      ),
      { numRuns: 5000 },
    )
  })

  it("keeps a subsequence of the caller's pairs, then the directive's", () => {
    fc.assert(
      fc.property(callers, fc.constantFrom('', 'a=1', 'k=1&a'), (caller, directive) => {
        const merged = mergeQuery(caller, directive)
        assert.ok(merged.endsWith(directive))
        const kept = merged.slice(0, merged.length - directive.length)
        const source = caller.replaceAll('#', '%23').split('&')
        let from = 0
        for (const pair of kept.replace(/&$/, '').split('&')) {
          if (kept === '') break
          const at = source.indexOf(pair, from)
          assert.notEqual(at, -1)
          from = at + 1
        }
        if (directive === '') assert.equal(merged, caller.replaceAll('#', '%23'))
      }),
      { numRuns: 3000 },
    )
  })
})
