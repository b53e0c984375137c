// What it shows: a bindings file is taken as it is meant, or refused with the places that are wrong.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { readBindingsFile } from '../../lib/bindings-file.ts'
import type { Binding, BindingSet } from '../../lib/bindings.ts'

function setOf(text: string): BindingSet {
  const file = readBindingsFile(text)
  assert.ok(file.ok, file.ok ? '' : file.problems.join('\n'))
  return file.set
}

function problemsOf(text: string): readonly string[] {
  const file = readBindingsFile(text)
  assert.ok(!file.ok, 'the file was taken')
  return file.problems
}

/** A file with one resource, `r` of zone `z`, with these fields. */
function resource(fields: unknown): string {
  return JSON.stringify({ version: 1, zones: { z: { resources: { r: fields } } } })
}

function operations(...list: unknown[]): string {
  return resource({ operations: list })
}

/** The one binding of a file with these fields. */
function bindingOf(fields: unknown): Binding | undefined {
  return setOf(resource(fields)).find('z', 'r')
}

function named(identifier: string): string {
  return JSON.stringify({ version: 1, zones: { z: { resources: { [identifier]: {} } } } })
}

function withoutPlaces(lines: readonly string[]): string[] {
  return lines.map(line => line.replace(/ \(\d+:\d+\)/, ''))
}

const EXAMPLE = `version: 1
zones:
  zone-1:
    resources:
      resource://billing-api:
        operation_enforcement: enforced      # closed but for these
        operations:
          - { method: GET,  path: /v1/invoices,      scope: billing:read }
          - { method: GET,  path: /v1/invoices/:id,  scope: billing:read }
          - { method: POST, path: /v1/invoices,      scope: billing:write }
      resource://mcp:
        operation_enforcement: transport_uniform
        preserve_encoded_slash: true
        stream_idle_timeout: 10m
  "zone:2":
    resources:
      resource://billing-api:
        operation_enforcement: observe
        operations: []
      resource://plain: {}
`

describe('readBindingsFile', () => {
  it('reads the format of the guide', () => {
    const set = setOf(EXAMPLE)
    assert.equal(set.size, 4)
    const billing = set.find('zone-1', 'resource://billing-api')
    assert.equal(billing?.enforcement, 'enforced')
    assert.equal(billing.preserveEncodedSlash, false)
    assert.equal(billing.streamIdleTimeout, undefined)
    assert.deepEqual(billing.operation('GET', '/v1/invoices/7'), {
      method: 'GET',
      path: '/v1/invoices/:id',
      scope: 'billing:read',
    })
    assert.equal(billing.operation('POST', '/v1/invoices')?.scope, 'billing:write')
    assert.equal(billing.operation('DELETE', '/v1/invoices'), undefined)
    const mcp = set.find('zone-1', 'resource://mcp')
    assert.equal(mcp?.enforcement, 'transport_uniform')
    assert.equal(mcp.preserveEncodedSlash, true)
    assert.equal(mcp.streamIdleTimeout, 600_000)
    const observed = set.find('zone:2', 'resource://billing-api')
    assert.equal(observed?.enforcement, 'observe')
    assert.equal(observed.operation('GET', '/v1/invoices'), undefined)
  })

  it('enforces by default when operations are given, an empty list included', () => {
    assert.equal(bindingOf({})?.enforcement, 'transport_uniform')
    assert.equal(bindingOf({ operations: [] })?.enforcement, 'enforced')
    assert.equal(bindingOf({ operations: [{ method: 'GET', path: '/' }] })?.enforcement, 'enforced')
    assert.equal(bindingOf({ operation_enforcement: 'enforced' })?.enforcement, 'enforced')
    assert.equal(
      bindingOf({ operation_enforcement: 'observe', operations: [] })?.enforcement,
      'observe',
    )
  })

  it('takes an operation without scope as one that needs none', () => {
    const binding = setOf(operations({ method: 'GET', path: '/a' })).find('z', 'r')
    assert.equal(binding?.operation('GET', '/a')?.scope, '')
  })

  it('does not know a zone without resources', () => {
    const set = setOf('version: 1\nzones: { z: { resources: {} } }')
    assert.equal(set.hasZone('z'), false)
    assert.equal(setOf('version: 1\nzones: {}').size, 0)
  })

  it('reads keys as text, whatever YAML would make of them', () => {
    const set = setOf('version: 1\nzones: { 0x10: { resources: { true: {}, null: {}, 1e3: {} } } }')
    for (const name of ['true', 'null', '1e3']) assert.ok(set.find('0x10', name), name)
    for (const name of ['__proto__', 'constructor', 'toString']) {
      const text = `{"version":1,"zones":{"${name}":{"resources":{"${name}":{}}}}}`
      assert.ok(setOf(text).find(name, name), name)
      assert.ok(setOf(`# YAML\n${text}`).find(name, name), name)
    }
  })

  it('takes anchors, as long as they do not multiply', () => {
    const shared = `version: 1
zones:
  z:
    resources:
      a: { operations: &list [{ method: GET, path: /a }] }
${Array.from({ length: 300 }, (_, i) => `      r${i}: { operations: *list }`).join('\n')}
`
    assert.equal(setOf(shared).size, 301)
    const levels = Array.from({ length: 9 }, (_, i) => {
      const item = i === 0 ? '"lol"' : `*l${i - 1}`
      return `  l${i}: &l${i} [${Array(9).fill(item).join(', ')}]`
    })
    const started = performance.now()
    assert.match(problemsOf(`version: 1\nzones:\n${levels.join('\n')}\n`)[0] ?? '', /alias count/)
    assert.ok(performance.now() - started < 5000)
  })

  it('survives what is no file of bindings at all', () => {
    for (const text of [
      '',
      '\n',
      '# nothing',
      'text',
      '[]',
      '7',
      'null',
      '"',
      '{',
      '\0',
      '&a [*a]',
    ]) {
      assert.notEqual(problemsOf(text).length, 0, JSON.stringify(text))
    }
    assert.notEqual(problemsOf('['.repeat(100_000)).length, 0)
    assert.notEqual(problemsOf(`{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}`).length, 0)
  })

  const refused: [name: string, text: string, problem: string][] = [
    ['no version', 'zones: {}', 'file (1:1): must have the field version'],
    ['no zones', 'version: 1', 'file (1:1): must have the field zones'],
    ['another version', 'version: 2\nzones: {}', 'version (1:1): must be the number 1'],
    ['a version as text', 'version: "1"\nzones: {}', 'version (1:1): must be the number 1'],
    [
      'an unknown field of the file',
      'version: 1\nzones: {}\nzone: {}',
      'zone (3:1): unknown field (known here: version, zones)',
    ],
    [
      'a name that is there twice',
      'version: 1\nzones:\n  z:\n    resources: {}\n  z:\n    resources: {}',
      'zones.z (5:3): is there twice',
    ],
    [
      'a name that is there twice in JSON, however it is written',
      '{"version":1,"zones":{"z":{"resources":{"r":{},"\\u0072":{}}}}}',
      'zones.z.resources.r (1:48): is there twice',
    ],
    [
      'a field that is there twice',
      'version: 1\nzones: { z: { resources: { r: { operations: [{ method: GET, path: /, path: / }] } } } }',
      'zones.z.resources.r.operations[0].path (2:70): is there twice',
    ],
    [
      'a zone that no token can name',
      'version: 1\nzones:\n  a b: { resources: {} }',
      'zones["a b"] (3:3): a zone is 1 to 128 letters, digits, ".", "_", ":" and "-"',
    ],
    ['zones as a list', 'version: 1\nzones: []', 'zones (2:1): must be a mapping of zones'],
    [
      'a zone without resources',
      'version: 1\nzones:\n  z: {}',
      'zones.z (3:3): must have the field resources',
    ],
    [
      'a resource without a value',
      'version: 1\nzones:\n  z:\n    resources:\n      resource://a:\n',
      'zones.z.resources["resource://a"] (5:7): must be a mapping',
    ],
    [
      'a merge key',
      'version: 1\nzones: { z: { resources: { a: &a {}, r: { <<: *a } } } }',
      'zones.z.resources.r["<<"] (2:43): unknown field (known here: operation_enforcement, operations, preserve_encoded_slash, stream_idle_timeout)',
    ],
    [
      'two documents',
      'version: 1\nzones: {}\n---\nversion: 1\nzones: {}',
      'file (3:1): must be one document',
    ],
    ['another YAML', '%YAML 1.1\n---\nversion: 1\nzones: {}', 'file (1:1): must be YAML 1.2'],
    ['a tag of its own', 'version: !mine 1\nzones: {}', 'file (1:10): Unresolved tag: !mine'],
    ['a key that is no text', 'version: 1\nzones: { [a]: {} }', 'file (2:10): a name must be text'],
  ]
  for (const [name, text, problem] of refused) {
    it(`refuses ${name}, and says where`, () => {
      assert.ok(problemsOf(text).includes(problem), problemsOf(text).join('\n'))
    })
  }

  const fields: [name: string, fields: unknown, place: string, rule: RegExp][] = [
    [
      'an unknown enforcement',
      { operation_enforcement: 'Enforced' },
      '.operation_enforcement',
      /^must be enforced, /,
    ],
    ['operations that are no list', { operations: {} }, '.operations', /^must be a list$/],
    ['operations left empty', { operations: null }, '.operations', /^must be a list$/],
    [
      'an operation that is no mapping',
      { operations: ['GET /'] },
      '.operations[0]',
      /^must be a mapping$/,
    ],
    [
      'a slash kept as text',
      { preserve_encoded_slash: 'true' },
      '.preserve_encoded_slash',
      /^must be true or false$/,
    ],
    [
      'a slash kept where operations are enforced',
      { preserve_encoded_slash: true, operations: [] },
      '.preserve_encoded_slash',
      /^must not be true with operation_enforcement enforced$/,
    ],
    [
      'a slash kept where operations are observed',
      { preserve_encoded_slash: true, operation_enforcement: 'observe' },
      '.preserve_encoded_slash',
      /observe$/,
    ],
    [
      'a timeout without unit',
      { stream_idle_timeout: 60 },
      '.stream_idle_timeout',
      /^must be a duration/,
    ],
    [
      'a timeout of nothing',
      { stream_idle_timeout: '0s' },
      '.stream_idle_timeout',
      /^must be a duration/,
    ],
    [
      'a timeout that no timer can wait',
      { stream_idle_timeout: '600h' },
      '.stream_idle_timeout',
      /^must be a duration/,
    ],
    ['a misspelt field', { operation: [] }, '.operation', /^unknown field/],
  ]
  for (const [name, value, place, rule] of fields) {
    it(`refuses ${name}`, () => {
      const [problem = '', ...others] = problemsOf(resource(value))
      assert.deepEqual(others, [])
      const [where, what] = problem.split(/ \(\d+:\d+\): /)
      assert.equal(where, `zones.z.resources.r${place}`)
      assert.match(what ?? '', rule)
    })
  }

  it('takes a timeout up to what a timer can wait, and a fraction of a millisecond rounded', () => {
    assert.equal(bindingOf({ stream_idle_timeout: '1ms' })?.streamIdleTimeout, 1)
    assert.equal(bindingOf({ stream_idle_timeout: '1m30s' })?.streamIdleTimeout, 90_000)
    assert.equal(bindingOf({ stream_idle_timeout: '596h' })?.streamIdleTimeout, 596 * 3_600_000)
    assert.equal(bindingOf({ stream_idle_timeout: '1500us' })?.streamIdleTimeout, 2)
  })

  const badPaths: [path: unknown, rule: RegExp][] = [
    ['', /begin/],
    ['v1', /begin/],
    ['http://h/v1', /begin/],
    [7, /string/],
    [null, /string/],
    ['/a?b', /query/],
    ['/a#b', /"#"/],
    ['/a\\b', /backslash/],
    ['/a\nb', /control/],
    ['/a\x7fb', /control/],
    ['/a%20b', /decoded/],
    ['/100%', /decoded/],
    ['/.', /segment/],
    ['/a/../b', /segment/],
    ['/a/..;x/b', /segment/],
    ['/a/.;', /segment/],
    ['/:', /name/],
    ['/:/a', /name/],
    ['/:1', /name/],
    ['/:a-b', /name/],
    ['/::a', /name/],
    ['/:id(x)', /name/],
    ['/:id?', /query/],
    ['/\ud800', /Unicode/],
  ]
  for (const [path, rule] of badPaths) {
    it(`refuses the path ${JSON.stringify(path)}`, () => {
      const [problem = '', ...others] = problemsOf(operations({ method: 'GET', path, scope: 's' }))
      assert.deepEqual(others, [])
      assert.match(problem, /^zones\.z\.resources\.r\.operations\[0\]\.path \(1:\d+\): /)
      assert.match(problem, rule)
    })
  }
  for (const path of [
    '/',
    '//',
    '/a/',
    '/a b',
    '/v1/models:generate',
    '/*',
    '/..a',
    '/...',
    '/é',
    '/a;b',
    '/:_a/:a',
    '/~',
    '/(a)',
  ]) {
    it(`takes the path ${path}`, () => {
      const declared = setOf(operations({ method: 'GET', path })).find('z', 'r')
      assert.equal(declared?.operation('GET', path.replaceAll(/:_?a/g, 'x'))?.path, path)
    })
  }

  it('takes every method of Node but CONNECT, in upper case', () => {
    for (const method of ['GET', 'HEAD', 'QUERY', 'M-SEARCH', 'TRACE', 'OPTIONS']) {
      setOf(operations({ method, path: '/' }))
    }
    for (const method of ['CONNECT', 'get', 'FETCH', '', '*', null, 1]) {
      const [problem = ''] = problemsOf(operations({ method, path: '/' }))
      assert.match(problem, /^zones\.z\.resources\.r\.operations\[0\]\.method .*upper case/)
    }
  })

  it('refuses a scope that no token can carry', () => {
    for (const scope of ['', ' ', 'a b', 'a"b', 'a\\b', 'é', null, 7]) {
      const [problem = ''] = problemsOf(operations({ method: 'GET', path: '/', scope }))
      assert.match(problem, /^zones\.z\.resources\.r\.operations\[0\]\.scope .*leave the field out/)
    }
  })

  it('refuses two operations that no request can tell apart', () => {
    const [problem = '', ...others] = problemsOf(
      operations(
        { method: 'GET', path: '/a/:id/b', scope: 'read' },
        { method: 'POST', path: '/a/:id/b', scope: 'read' },
        { method: 'GET', path: '/a/:other/b', scope: 'write' },
      ),
    )
    assert.deepEqual(others, [])
    assert.match(problem, /operations\[2\] \(1:\d+\): duplicates operations\[0\] /)
  })

  it('refuses identifiers that no header can carry', () => {
    for (const name of ['', ' a', 'a ', 'a\u00a0', 'a\tb', 'a\x7f', 'a\u0085b', 'a'.repeat(2049)]) {
      assert.match(problemsOf(named(name))[0] ?? '', /a resource identifier /)
    }
    setOf(named('a'.repeat(2048)))
  })

  it('names the place in a file of several lines', () => {
    const text = EXAMPLE.replace('POST, path: /v1/invoices,', 'POST, path: v1/invoices,')
    assert.deepEqual(problemsOf(text), [
      'zones.zone-1.resources["resource://billing-api"].operations[2].path (10:29): must begin with "/"',
    ])
  })

  it('reports everything at once, fifty at most, and quotes no value', () => {
    const bad = (count: number) =>
      problemsOf(
        operations(...Array.from({ length: count }, () => ({ method: 'GET', path: 'hunter2' }))),
      )
    assert.equal(bad(50).length, 50)
    assert.equal(bad(1000).length, 51)
    assert.match(bad(1000).at(-1) ?? '', /not listed/)
    assert.doesNotMatch(bad(3).join('\n'), /hunter2/)
    const several = resource({ operations: [{ method: 'get', path: 'a', scope: '', x: 1 }], y: 1 })
    assert.equal(problemsOf(several).length, 5)
    // The file may be another than was meant.
    const secret = problemsOf('-----BEGIN PRIVATE KEY-----\nhunter2\n\thunter2 "hunter2: [\n')
    assert.doesNotMatch(secret.join('\n'), /hunter2/)
  })

  it('says the same of JSON and of YAML', () => {
    const json = operations({ method: 'GET', path: '/a' }, { method: 'GET', path: '/a' })
    assert.deepEqual(withoutPlaces(problemsOf(json)), withoutPlaces(problemsOf(`# YAML\n${json}`)))
  })

  it('reads a hundred thousand bindings, and finds each at once', () => {
    const resources: Record<string, unknown> = {}
    for (let i = 0; i < 100_000; i++) {
      resources[`resource://api-${i}`] = {
        operations: [
          { method: 'GET', path: `/v${i}/items`, scope: 'read' },
          { method: 'GET', path: `/v${i}/items/:id`, scope: 'read' },
        ],
      }
    }
    const text = JSON.stringify({ version: 1, zones: { z: { resources } } })
    const started = performance.now()
    const set = setOf(text)
    const took = performance.now() - started
    assert.equal(set.size, 100_000)
    assert.ok(took < 10_000, `took ${took} ms`)
    const lookups = performance.now()
    for (let i = 0; i < 100_000; i += 100) {
      assert.ok(set.find('z', `resource://api-${i}`)?.operation('GET', `/v${i}/items/7`))
    }
    const each = (performance.now() - lookups) / 1000
    assert.ok(each < 5, `${each} ms a first lookup`)
  })

  it('reads many entries of YAML in time that grows with their number', () => {
    const lines = Array.from({ length: 10_000 }, (_, i) => `      resource://api-${i}: {}`)
    const text = `version: 1\nzones:\n  z:\n    resources:\n${lines.join('\n')}\n`
    const started = performance.now()
    assert.equal(setOf(text).size, 10_000)
    assert.ok(performance.now() - started < 5000)
  })
})
