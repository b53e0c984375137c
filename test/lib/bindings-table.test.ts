// What it shows: a row of the table is taken as it is meant, or refused by name; never half, and never with a crash.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { BindingTable, type ResourceRow, TableReading } from '../../lib/bindings-table.ts'

function row(members: Partial<ResourceRow> = {}, operations?: unknown): ResourceRow {
  return {
    zone_id: 'z',
    identifier: 'r',
    operations: JSON.stringify(operations ?? []),
    operation_enforcement: 'enforced',
    ...members,
  }
}

function reading(rows: readonly ResourceRow[], known = new BindingTable()): TableReading {
  const read = new TableReading(known)
  for (const one of rows) read.add(one)
  return read
}

function bindingOf(...operations: readonly unknown[]) {
  const { table, problems } = reading([row({}, operations)])
  assert.deepEqual(problems, [])
  return table.find('z', 'r')
}

const problemsOf = (members: Partial<ResourceRow>, operations?: unknown) =>
  reading([row(members, operations)]).problems

describe('a row of the table', () => {
  it('is a binding', () => {
    const binding = bindingOf({ method: 'GET', path: '/v1/invoices', scope: 'billing:read' })
    assert.equal(binding?.zone, 'z')
    assert.equal(binding?.resource, 'r')
    assert.equal(binding?.enforcement, 'enforced')
    assert.equal(binding?.preserveEncodedSlash, false)
    assert.equal(binding?.operation('GET', '/v1/invoices')?.scope, 'billing:read')
    assert.equal(binding?.operation('HEAD', '/v1/invoices'), undefined)
  })

  it('is closed when it enforces nothing', () => {
    assert.equal(bindingOf()?.operation('GET', '/'), undefined)
  })

  it('has exact paths: a colon is a colon', () => {
    const binding = bindingOf(
      { method: 'GET', path: '/v1/invoices/:id', scope: 'a' },
      { method: 'GET', path: '/v1/invoices/:name', scope: 'b' },
      { method: 'GET', path: '/v1/:', scope: 'c' },
      { method: 'GET', path: '/v1/:a-b/*' },
    )
    assert.equal(binding?.operation('GET', '/v1/invoices/:id')?.scope, 'a')
    assert.equal(binding?.operation('GET', '/v1/invoices/:name')?.scope, 'b')
    assert.equal(binding?.operation('GET', '/v1/:')?.scope, 'c')
    assert.equal(binding?.operation('GET', '/v1/:a-b/*')?.scope, '')
    for (const path of ['/v1/invoices/7', '/v1/invoices/:ID', '/v1/x', '/v1/:a-b/x']) {
      assert.equal(binding?.operation('GET', path), undefined, path)
    }
  })

  it('may leave the scope out, null or empty, and have members that nobody knows yet', () => {
    for (const members of [{}, { scope: null }, { scope: '' }, { description: {}, tier: 3 }]) {
      const binding = bindingOf({ method: 'GET', path: '/', ...members })
      assert.equal(binding?.operation('GET', '/')?.scope, '')
    }
  })

  it('may say the same twice', () => {
    const operation = { method: 'GET', path: '/', scope: 'a' }
    assert.equal(bindingOf(operation, operation)?.operation('GET', '/')?.scope, 'a')
  })

  const get = (members: object) => [{ method: 'GET', path: '/', ...members }]
  const refused: [
    name: string,
    members: Partial<ResourceRow>,
    operations: unknown,
    line: RegExp,
  ][] = [
    [
      'an unknown enforcement',
      { operation_enforcement: 'observe' },
      [],
      /^operation_enforcement: must be enforced or transport_uniform$/,
    ],
    ['no enforcement', { operation_enforcement: null }, [], /^operation_enforcement: /],
    ['no operations', { operations: null }, [], /^operations: must be a list$/],
    ['operations that are no list', {}, {}, /^operations: must be a list$/],
    ['operations that are no JSON', { operations: '[' }, [], /^operations: must be a list$/],
    [
      'operations without end',
      { operations: `[${' '.repeat(1024 * 1024)}]` },
      [],
      /^operations: must not be longer/,
    ],
    ['an operation that is text', {}, ['GET /'], /^operations\[0\]: must be a mapping$/],
    [
      'an operation without path',
      {},
      [{ method: 'GET' }],
      /^operations\[0\]: must have the field path$/,
    ],
    [
      'a method in lower case',
      {},
      get({ method: 'get' }),
      /^operations\[0\]\.method: must be an HTTP method/,
    ],
    ['CONNECT', {}, get({ method: 'CONNECT' }), /^operations\[0\]\.method: /],
    ['a method that is none', {}, get({ method: 7 }), /^operations\[0\]\.method: /],
    [
      'a path that is no text',
      {},
      get({ path: null }),
      /^operations\[0\]\.path: must be a string$/,
    ],
    ['a relative path', {}, get({ path: 'v1' }), /^operations\[0\]\.path: must begin with "\/"$/],
    ['an encoded path', {}, get({ path: '/a%20b' }), /^operations\[0\]\.path: .*decoded/],
    ['a dot segment', {}, get({ path: '/a/../b' }), /^operations\[0\]\.path: .*segment/],
    ['a query', {}, get({ path: '/a?b' }), /^operations\[0\]\.path: .*query/],
    [
      'a scope that is a list',
      {},
      get({ scope: ['a'] }),
      /^operations\[0\]\.scope: must be one scope/,
    ],
    ['two scopes in one', {}, get({ scope: 'a b' }), /^operations\[0\]\.scope: must be one scope/],
    [
      'one call with two scopes',
      {},
      [...get({ scope: 'a' }), ...get({ scope: 'b' })],
      /^operations\[1\]: contradicts operations\[0\] /,
    ],
    [
      'a mistake where operations are not enforced',
      { operation_enforcement: 'transport_uniform' },
      [7],
      /^operations\[0\]: must be a mapping$/,
    ],
  ]
  for (const [name, members, operations, line] of refused) {
    it(`is refused for ${name}, by its name and the place`, () => {
      const read = reading([row(members, operations)])
      const [problem = '', ...others] = read.problems
      assert.deepEqual(others, [])
      const [where, ...rule] = problem.split(': ')
      assert.equal(where, 'zone "z", resource "r"')
      assert.match(rule.join(': '), line)
      assert.equal(read.table.find('z', 'r'), undefined)
      assert.equal(read.isFaulty('z', 'r'), true)
    })
  }

  it('is refused for a zone or a resource that no request can name', () => {
    assert.match(
      problemsOf({ zone_id: 'a zone' })[0] ?? '',
      /^zone "a zone", .*: zone_id: a zone is/,
    )
    assert.match(
      problemsOf({ identifier: ' r' })[0] ?? '',
      /resource " r": identifier: .*white space/,
    )
    assert.match(
      problemsOf({ identifier: 'x'.repeat(2049) })[0] ?? '',
      /x\.\.\.": identifier: .*2048/,
    )
    assert.match(problemsOf({ zone_id: null })[0] ?? '', /zone_id and identifier must be text/)
    assert.match(problemsOf({ identifier: 7 })[0] ?? '', /zone_id and identifier must be text/)
  })

  it('is refused when another one is there for the same resource', () => {
    const read = reading([row(), row({ identifier: 's' }), row({ zone_id: 'y' }), row()])
    assert.deepEqual(read.problems, [
      'zone "z", resource "r": identifier: must be that of one row only, the others archived',
    ])
    assert.equal(read.isFaulty('z', 'r'), true)
    assert.equal(read.isFaulty('y', 'r'), false)
  })

  it('never crashes, and quotes no value, whatever its columns hold', () => {
    const json = fc.oneof(
      fc.json(),
      fc
        .array(
          fc.record(
            {
              method: fc.oneof(fc.constant('GET'), fc.anything()),
              path: fc.anything(),
              scope: fc.anything(),
            },
            { requiredKeys: [] },
          ),
        )
        .map(list =>
          JSON.stringify(list, (_, value: unknown) => (typeof value === 'bigint' ? 1 : value)),
        ),
      fc.anything(),
    )
    fc.assert(
      fc.property(
        fc.record({
          zone_id: fc.oneof(fc.constant('z'), fc.anything()),
          identifier: fc.oneof(fc.constant('r'), fc.string({ unit: 'binary' }), fc.anything()),
          operations: json,
          operation_enforcement: fc.oneof(
            fc.constant('enforced'),
            fc.anything().filter(it => typeof it !== 'bigint'),
          ),
        }),
        hostile => {
          const read = reading([hostile])
          assert.equal(read.table.size + Math.min(1, read.problems.length), 1)
        },
      ),
      { numRuns: 500 },
    )
  })

  it('matches exactly the calls that it declares, each with its scope', () => {
    const segment = fc.constantFrom('v1', ':id', 'a', 'A', '', '*', ':', 'ü', 'a:b', '~3a')
    const path = fc.array(segment, { minLength: 1, maxLength: 4 }).map(it => `/${it.join('/')}`)
    const method = fc.constantFrom('GET', 'POST', 'HEAD')
    const operation = fc.record({ method, path, scope: fc.constantFrom('', 'a', 'b') })
    const unique = fc.uniqueArray(operation, { selector: it => `${it.method} ${it.path}` })
    fc.assert(
      fc.property(unique, fc.array(fc.tuple(method, path)), (operations, calls) => {
        const binding = bindingOf(...operations)
        for (const it of operations) {
          assert.equal(binding?.operation(it.method, it.path)?.scope, it.scope)
        }
        for (const [calledMethod, calledPath] of calls) {
          const declared = operations.find(
            it => it.method === calledMethod && it.path === calledPath,
          )
          const matched = binding?.operation(calledMethod, calledPath)
          assert.deepEqual(matched, declared && { ...declared })
        }
      }),
    )
  })
})

describe('a reading of the table', () => {
  it('takes over what says the same as before, and tells whether anything changed', () => {
    const rows = [row(), row({ identifier: 's' }, [{ method: 'GET', path: '/' }])]
    const before = reading(rows)
    assert.equal(before.changed, true)
    const same = reading(rows, before.table)
    assert.equal(same.changed, false)
    assert.equal(same.table.find('z', 's'), before.table.find('z', 's'))
    assert.equal(reading(rows.slice(1), before.table).changed, true)
    assert.equal(reading([...rows, row({ identifier: 't' })], before.table).changed, true)
    const other = reading([row(), row({ identifier: 's' })], before.table)
    assert.equal(other.changed, true)
    assert.equal(other.table.find('z', 's')?.operation('GET', '/'), undefined)
    const uniform = row({ operation_enforcement: 'transport_uniform' })
    assert.equal(reading([uniform, ...rows.slice(1)], before.table).changed, true)
  })

  it('gives up once nobody would read the list of problems', () => {
    const read = new TableReading(new BindingTable())
    for (let i = 0; i < 50; i++) read.add(row({ identifier: `r${i}`, operations: null }))
    assert.equal(read.hopeless, false)
    read.add(row({ operations: null }))
    assert.equal(read.hopeless, true)
  })
})

describe('the bindings of the table', () => {
  const entry = (zone: string, resource: string) => {
    const found = reading([row({ zone_id: zone, identifier: resource })]).table.find(zone, resource)
    assert.ok(found !== undefined)
    return found
  }

  it('are found by zone and resource, set and deleted one by one', () => {
    const table = new BindingTable()
    const [a, b] = [entry('z', 'a'), entry('z', 'b')]
    table.set(a)
    table.set(b)
    table.set(a)
    assert.equal(table.size, 2)
    assert.equal(table.find('z', 'a'), a)
    assert.equal(table.find('y', 'a'), undefined)
    assert.equal(table.find('z', '__proto__'), undefined)
    table.delete('z', 'a')
    table.delete('z', 'a')
    table.delete('y', 'a')
    assert.equal(table.size, 1)
    assert.equal(table.find('z', 'a'), undefined)
    assert.equal(table.hasZone('z'), true)
    assert.equal(table.hasZone('y'), false)
  })

  it('know a zone before any of its bindings', () => {
    const table = new BindingTable()
    table.addZone('z')
    assert.equal(table.hasZone('z'), true)
    assert.equal(table.size, 0)
    table.set(entry('z', 'a'))
    table.addZone('z')
    assert.equal(table.size, 1)
  })
})
