// What it shows: one source of bindings decides, and without one the STS alone does.

import assert from 'node:assert/strict'
import { describe, it, type TestContext } from 'node:test'
import Fastify from 'fastify'
import { bindingSet } from '../../lib/bindings.ts'
import bindings, { type BindingSource } from '../../plugins/bindings.ts'

async function gateway(t: TestContext) {
  const app = Fastify()
  t.after(() => app.close())
  await app.register(bindings)
  return app
}

function source(members: Partial<BindingSource> = {}): BindingSource {
  const set = bindingSet([
    {
      zone: 'z',
      resource: 'r',
      enforcement: 'enforced',
      operations: [],
      preserveEncodedSlash: false,
    },
  ])
  return {
    hasZone: zone => set.hasZone(zone),
    find: (zone, resource) => set.find(zone, resource),
    healthy: () => true,
    stale: false,
    size: 1,
    ...members,
  }
}

describe('the bindings plugin', () => {
  it('leaves the decision to the STS when there is no source', async t => {
    const app = await gateway(t)
    assert.equal(app.bindings.configured, false)
    assert.equal(app.bindings.find('z', 'r'), undefined)
    assert.equal(app.bindings.hasZone('z'), false)
    assert.equal(app.bindings.reread('z', 'r'), undefined)
    assert.equal(app.bindings.healthy(), true)
    assert.equal(app.bindings.stale, false)
    assert.equal(app.bindings.size, 0)
  })

  it('asks the source that was chosen', async t => {
    const app = await gateway(t)
    const asked: (string | undefined)[][] = []
    app.bindings.use(
      source({
        healthy: () => false,
        stale: true,
        size: 7,
        async reread(zone, resource) {
          asked.push([zone, resource])
        },
      }),
    )
    assert.equal(app.bindings.configured, true)
    assert.equal(app.bindings.hasZone('z'), true)
    assert.equal(app.bindings.hasZone('y'), false)
    assert.equal(app.bindings.find('z', 'r')?.resource, 'r')
    assert.equal(app.bindings.find('z', 's'), undefined)
    assert.equal(app.bindings.healthy(), false)
    assert.equal(app.bindings.stale, true)
    assert.equal(app.bindings.size, 7)
    await app.bindings.reread('z')
    await app.bindings.reread('z', 's')
    assert.deepEqual(asked, [
      ['z', undefined],
      ['z', 's'],
    ])
  })

  it('reads nothing anew from a source that notices every change by itself', async t => {
    const app = await gateway(t)
    app.bindings.use(source())
    assert.equal(app.bindings.reread('z', 's'), undefined)
  })

  it('takes no second source', async t => {
    const app = await gateway(t)
    app.bindings.use(source())
    assert.throws(() => app.bindings.use(source({ size: 2 })), /a source of bindings already/)
    assert.equal(app.bindings.size, 1)
  })
})
