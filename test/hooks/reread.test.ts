// Holds a refusal by a copy of the bindings to contract section 10: the source is read anew before it stands, and what
// was read is judged from the binding on.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { denyMissingScope } from '../../hooks/missing-scope.ts'
import { denyUnboundResource } from '../../hooks/unbound-resource.ts'
import { denyUndeclaredOperation } from '../../hooks/undeclared-operation.ts'
import { denyUnknownZone } from '../../hooks/unknown-zone.ts'
import { type Bindings, bindingSet, type Enforcement, type Operation } from '../../lib/bindings.ts'
import { canonicalPath } from '../../lib/path.ts'
import type { Check } from '../../plugins/passage.ts'
import { judge, mandate, presented, RESOURCE } from './judge.ts'

/** What a source has on {@link RESOURCE} of zone-1; `undefined`: nothing. */
interface Held {
  readonly enforcement?: Enforcement
  readonly operations?: readonly Operation[]
}

const get = (scope: string, path = '/v1'): Operation => ({ method: 'GET', path, scope })
const READ: Held = { operations: [get('read')] }

/** A copy that says one thing, and after a reread another. */
function source(before: Held | undefined, after: Held | undefined, { rests = false } = {}) {
  const setOf = (held: Held | undefined) =>
    bindingSet(
      held === undefined
        ? []
        : [
            {
              zone: 'zone-1',
              resource: RESOURCE,
              enforcement: held.enforcement ?? 'enforced',
              operations: held.operations ?? [],
              preserveEncodedSlash: false,
            },
          ],
    )
  let set = setOf(before)
  const asked: (string | undefined)[][] = []
  const noted: string[] = []
  const bindings: Bindings = {
    configured: true,
    hasZone: zone => set.hasZone(zone),
    find: (zone, resource) => set.find(zone, resource),
    reread(zone, resource) {
      asked.push(resource === undefined ? [zone] : [zone, resource])
      if (rests) return undefined
      return new Promise(resolve => {
        setImmediate(() => {
          set = setOf(after)
          resolve()
        })
      })
    },
    healthy: () => true,
    stale: false,
    size: 1,
  }
  return { bindings, asked, noted, note: (check: string) => void noted.push(check) }
}

type Source = ReturnType<typeof source>

const CHECKS = {
  unknown_zone: ({ bindings }: Source) => denyUnknownZone(bindings),
  unbound_resource: ({ bindings }: Source) => denyUnboundResource(bindings),
  undeclared_operation: ({ bindings, note }: Source) => denyUndeclaredOperation(bindings, note),
  missing_scope: ({ bindings, note }: Source) => denyMissingScope(bindings, note),
} as const satisfies Record<string, (from: Source) => Check>

type Name = keyof typeof CHECKS

/** Runs one check as it runs behind the ones before it: binding and operation are those of the copy. */
function judged(name: Name, from: Source) {
  const binding = from.bindings.find('zone-1', RESOURCE)
  return judge(CHECKS[name](from), {
    passage: {
      presented: presented({ zone_id: 'zone-1' }),
      resource: RESOURCE,
      mandate: mandate({ scope: 'read' }),
      path: canonicalPath('/v1'),
      binding,
      operation: binding?.operation('GET', '/v1'),
    },
  })
}

/** What the copy holds when the check by itself refuses. */
const REFUSING: Record<Name, Held | undefined> = {
  unknown_zone: undefined,
  unbound_resource: undefined,
  undeclared_operation: { operations: [get('read', '/other')] },
  missing_scope: { operations: [get('write')] },
}

const NAMES = ['unknown_zone', 'unbound_resource', 'undeclared_operation', 'missing_scope'] as const

for (const name of NAMES) {
  describe(`the check ${name}`, () => {
    it('asks nobody where the copy admits', async () => {
      const from = source(READ, undefined)
      assert.equal((await judged(name, from)).check, 'admitted')
      assert.deepEqual(from.asked, [])
    })

    it('admits what the source allows by now', async () => {
      const from = source(REFUSING[name], READ)
      const { check, passage } = await judged(name, from)
      assert.equal(check, 'admitted')
      assert.deepEqual(from.asked, [name === 'unknown_zone' ? ['zone-1'] : ['zone-1', RESOURCE]])
      if (name === 'unknown_zone') return
      assert.equal(passage.binding, from.bindings.find('zone-1', RESOURCE))
      if (name === 'unbound_resource') return
      assert.equal(passage.operation?.scope, 'read')
    })

    it('denies what the source refuses too', async () => {
      const from = source(REFUSING[name], REFUSING[name])
      const { check } = await judged(name, from)
      assert.equal(check, name)
      assert.equal(from.asked.length, 1)
      assert.deepEqual(from.noted, [])
    })

    it('denies at once where nothing is read anew', async () => {
      const from = source(REFUSING[name], READ, { rests: true })
      const { check, passage } = await judged(name, from)
      assert.equal(check, name)
      assert.equal(passage.deciding, false)
    })
  })
}

describe('what was read anew', () => {
  const cases: readonly (readonly [
    name: Name,
    what: string,
    after: Held | undefined,
    verdict: string,
    noted?: readonly string[],
  ])[] = [
    ['undeclared_operation', 'is gone', undefined, 'unbound_resource'],
    ['undeclared_operation', 'is uniform', { enforcement: 'transport_uniform' }, 'admitted'],
    [
      'undeclared_operation',
      'is observed',
      { enforcement: 'observe' },
      'admitted',
      ['undeclared_operation'],
    ],
    ['missing_scope', 'is gone', undefined, 'unbound_resource'],
    ['missing_scope', 'is closed', {}, 'undeclared_operation'],
    ['missing_scope', 'needs another scope', { operations: [get('admin')] }, 'missing_scope'],
    ['missing_scope', 'needs no scope', { operations: [get('')] }, 'admitted'],
    ['missing_scope', 'is uniform', { enforcement: 'transport_uniform' }, 'admitted'],
    [
      'missing_scope',
      'is observed',
      { enforcement: 'observe', operations: [get('admin')] },
      'admitted',
      ['missing_scope'],
    ],
    [
      'missing_scope',
      'is observed, and declares nothing',
      { enforcement: 'observe' },
      'admitted',
      ['undeclared_operation'],
    ],
  ]
  for (const [name, what, after, verdict, noted = []] of cases) {
    it(`${what}: ${name} becomes ${verdict}`, async () => {
      const from = source(REFUSING[name], after)
      const { check, denial, passage } = await judged(name, from)
      assert.equal(check, verdict)
      assert.deepEqual(from.noted, noted)
      assert.equal(passage.wouldDeny, noted[0])
      assert.equal(passage.binding, from.bindings.find('zone-1', RESOURCE))
      if (verdict === 'missing_scope') assert.match(denial?.description ?? '', /admin/)
      if (after?.enforcement === 'transport_uniform') assert.equal(passage.operation, undefined)
    })
  }
})
