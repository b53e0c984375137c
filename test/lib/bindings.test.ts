// What it shows: a declared operation matches exactly what it says, whatever letters it is made of.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { bindingSet, operationMatcher, pathShape, routerLiteral } from '../../lib/bindings.ts'
import type { Operation } from '../../lib/bindings.ts'

function operation(method: string, path: string, scope = ''): Operation {
  return { method, path, scope }
}

function twice(one: string, other: string) {
  return operationMatcher([operation('GET', one), operation('GET', other)])
}

function joined(segments: readonly string[]): string {
  return `/${segments.join('/')}`
}

/** Which segments are parameters: the smaller text has its first literal further left. */
function parameters({ path }: Operation): string {
  return path
    .split('/')
    .map(segment => (segment.startsWith(':') ? '1' : '0'))
    .join('')
}

/** An independent matcher: segment by segment, the leftmost literal deciding between two. */
function expected(operations: readonly Operation[], method: string, path: string) {
  const segments = path.split('/')
  return operations
    .filter(declared => {
      const parts = declared.path.split('/')
      return (
        declared.method === method &&
        parts.length === segments.length &&
        parts.every((part, i) => (part.startsWith(':') ? segments[i] !== '' : part === segments[i]))
      )
    })
    .sort((one, other) => (parameters(one) < parameters(other) ? -1 : 1))
    .at(0)
}

describe('operationMatcher', () => {
  const cases: [declared: string, path: string, matches: boolean][] = [
    ['/', '/', true],
    ['/', '', false],
    ['/', '//', false],
    ['/v1/invoices', '/v1/invoices', true],
    ['/v1/invoices', '/v1/Invoices', false],
    ['/v1/invoices', '/v1/invoices/', false],
    ['/v1/invoices', '/v1//invoices', false],
    ['/v1/invoices', '//v1/invoices', false],
    ['/v1/invoices/', '/v1/invoices/', true],
    ['/v1/invoices/', '/v1/invoices', false],
    ['/v1//invoices', '/v1//invoices', true],
    ['/v1/invoices/:id', '/v1/invoices/7', true],
    ['/v1/invoices/:id', '/V1/invoices/7', false],
    ['/v1/invoices/:id', '/v1/invoices/', false],
    ['/v1/invoices/:id', '/v1/invoices', false],
    ['/v1/invoices/:id', '/v1/invoices/7/', false],
    ['/v1/invoices/:id', '/v1/invoices/7/lines', false],
    ['/v1/invoices/:id', `/v1/invoices/${'x'.repeat(5000)}`, true],
    ['/v1/invoices/:id', '/v1/invoices/a.b-c', true],
    ['/v1/invoices/:id', '/v1/invoices/a%2Fb', true],
    ['/v1/invoices/:id', '/v1/invoices/a?b#c;d', true],
    ['/v1/invoices/:id', '/v1/invoices/\u2028', true],
    ['/v1/invoices/:id', '/v1/invoices/~', true],
    ['/v1/invoices/:id/lines', '/v1/invoices/7/lines', true],
    ['/v1/invoices/:id/lines', '/v1/invoices//lines', false],
    ['/v1/invoices/:id/lines', '/v1/invoices/7/lines?x', false],
    ['/v1/:a/:b', '/v1/x/y', true],
    ['/v1/:a/:b', '/v1/x/', false],
    ['/v1/models:generate', '/v1/models:generate', true],
    ['/v1/models:generate', '/v1/modelsX', false],
    ['/v1/:id/models:generate', '/v1/7/models:generate', true],
    ['/v1/:id/models:generate', '/v1/7/modelsX', false],
    ['/v1/:id/a*', '/v1/7/a*', true],
    ['/v1/:id/a*', '/v1/7/ab', false],
    ['/v1/*', '/v1/*', true],
    ['/v1/*', '/v1/7', false],
    ['/v1/:id/*', '/v1/7/*', true],
    ['/v1/:id/*', '/v1/7/8', false],
    ['/v1/:id/*', '/v1/7/8/9', false],
    ['/v1/:id/(.+)', '/v1/7/(.+)', true],
    ['/v1/:id/(.+)', '/v1/7/8', false],
    ['/v1/:id/~2a', '/v1/7/*', false],
    ['/v1/:id/100%', '/v1/7/100%', true],
    ['/v1/:id/a%2Fb', '/v1/7/a%2Fb', true],
    ['/v1/:id/a%2Fb', '/v1/7/a%2fb', false],
    ['/v1/:id/é', '/v1/7/é', true],
    ['/v1/:id/é', '/v1/7/e\u0301', false],
    ['/v1/:id/é', '/v1/7/%C3%A9', false],
    ['/:id', 'http://host/7', false],
    ['/:id', '*', false],
  ]
  for (const [declared, path, matches] of cases) {
    const shown = path.length > 60 ? `${path.slice(0, 60)}...` : path
    it(`${matches ? 'matches' : 'does not match'} ${declared} with ${JSON.stringify(shown)}`, () => {
      const only = operation('GET', declared)
      assert.equal(operationMatcher([only])('GET', path), matches ? only : undefined)
    })
  }

  it('keeps methods apart, and does not take HEAD for GET', () => {
    const get = operation('GET', '/a/:id')
    const post = operation('POST', '/a/:id')
    const query = operation('QUERY', '/a/:id')
    const match = operationMatcher([get, post, query])
    assert.equal(match('GET', '/a/1'), get)
    assert.equal(match('POST', '/a/1'), post)
    assert.equal(match('QUERY', '/a/1'), query)
    assert.equal(match('HEAD', '/a/1'), undefined)
    assert.equal(match('get', '/a/1'), undefined)
    assert.equal(match('__proto__', '/a/1'), undefined)
  })

  it('prefers a literal segment, the leftmost first', () => {
    const literal = operation('GET', '/a/b')
    const left = operation('GET', '/a/:x')
    const right = operation('GET', '/:x/b')
    const match = operationMatcher([right, left, literal])
    assert.equal(match('GET', '/a/b'), literal)
    assert.equal(match('GET', '/a/c'), left)
    assert.equal(match('GET', '/c/b'), right)
    assert.equal(operationMatcher([right, left])('GET', '/a/b'), left)
  })

  it('finds another operation where the preferred one fails later in the path', () => {
    const one = operation('GET', '/a/:x/c')
    const other = operation('GET', '/:z//c')
    const match = operationMatcher([one, other])
    assert.equal(match('GET', '/a//c'), other)
    assert.equal(match('GET', '/a/b/c'), one)
  })

  it('is closed when nothing is declared', () => {
    assert.equal(operationMatcher([])('GET', '/'), undefined)
  })

  it('refuses two operations of one shape', () => {
    assert.throws(() => twice('/a', '/a'))
    assert.throws(() => twice('/a/:x', '/a/:y'))
    assert.equal(pathShape('/a/:x/b'), pathShape('/a/:y/b'))
    assert.notEqual(pathShape('/a/:x'), pathShape('/a/x:'))
  })

  it('agrees with a matcher by segments, for any operations and any path', () => {
    const literal = fc.oneof(
      {
        weight: 3,
        arbitrary: fc.constantFrom('a', 'b', 'ab', '', '*', 'a*', '%', '%41', '~', '~2a'),
      },
      {
        weight: 1,
        arbitrary: fc.constantFrom('a:b', 'A', '(a)', '(.*)', '?', '#', ';', '-', '.a', 'é'),
      },
      { weight: 1, arbitrary: fc.string({ unit: 'grapheme', maxLength: 3 }) },
    )
    const segment = literal.map(text => text.replaceAll('/', '|'))
    const declaredSegment = fc.oneof(
      segment.filter(text => !text.startsWith(':')),
      fc.constantFrom(':id', ':x'),
    )
    const declared = fc.record({
      method: fc.constantFrom('GET', 'POST'),
      path: fc.array(declaredSegment, { minLength: 1, maxLength: 4 }).map(joined),
      scope: fc.constant(''),
    })
    const operations = fc.uniqueArray(declared, {
      maxLength: 12,
      selector: ({ method, path }) => `${method} ${pathShape(path)}`,
    })
    const free = fc.array(segment, { minLength: 1, maxLength: 4 }).map(joined)
    const scenario = fc.tuple(operations, fc.array(segment, { minLength: 4, maxLength: 4 }), free)
    let matched = 0
    fc.assert(
      fc.property(scenario, ([all, fillers, path]) => {
        const match = operationMatcher(all)
        // Paths made to fit each operation, beside one that may fit none.
        const paths = all.map(one =>
          one.path
            .split('/')
            .map((part, i) => (part.startsWith(':') ? (fillers[i % 4] ?? '') : part))
            .join('/'),
        )
        for (const candidate of [path, ...paths]) {
          for (const method of ['GET', 'POST']) {
            const want = expected(all, method, candidate)
            if (want !== undefined) matched++
            assert.equal(match(method, candidate), want)
          }
        }
      }),
      { numRuns: 1500 },
    )
    assert.ok(matched > 1000)
  })
})

describe('routerLiteral', () => {
  it('is injective and leaves nothing that the router interprets', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (one, other) => {
        assert.equal(routerLiteral(one) === routerLiteral(other), one === other)
        assert.doesNotMatch(routerLiteral(one), /[%?#;:*()]/)
      }),
    )
    assert.notEqual(routerLiteral('~2a'), routerLiteral('*'))
  })
})

describe('bindingSet', () => {
  const base = { enforcement: 'enforced', preserveEncodedSlash: false } as const
  const set = bindingSet([
    { ...base, zone: 'z1', resource: 'r', operations: [operation('GET', '/a', 's')] },
    { ...base, zone: 'z2', resource: 'r', operations: [], streamIdleTimeout: 5 },
  ])

  it('finds by zone and resource, and knows its zones', () => {
    assert.equal(set.size, 2)
    assert.equal(set.find('z1', 'r')?.operation('GET', '/a')?.scope, 's')
    assert.equal(set.find('z2', 'r')?.operation('GET', '/a'), undefined)
    assert.equal(set.find('z2', 'r')?.streamIdleTimeout, 5)
    assert.equal(set.find('z1', 'R'), undefined)
    assert.ok(set.hasZone('z1'))
    for (const name of ['z3', '', '__proto__', 'constructor']) {
      assert.equal(set.hasZone(name), false)
      assert.equal(set.find(name, 'r'), undefined)
      assert.equal(set.find('z1', name), undefined)
    }
  })
})
