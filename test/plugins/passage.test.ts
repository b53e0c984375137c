// Holds the passage to failing closed: nothing is readable before it is granted, and nothing is done for nobody.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import Fastify, { type FastifyRequest } from 'fastify'
import { Denial } from '../../denial.ts'
import { RevocationReceipt } from '../../lib/revocation-receipt.ts'
import passagePlugin, { type Check, hook, Passage, passageOf } from '../../plugins/passage.ts'
import { mandate } from '../hooks/judge.ts'

/** Sends one request through hooks made of these checks, and tells how it ended. */
async function travel(passage: Passage | null, checks: readonly Check[]) {
  const app = Fastify()
  await app.register(passagePlugin)
  let seen: FastifyRequest | undefined
  let error: Error | undefined
  let ran = false
  app.setErrorHandler((thrown: Error, _request, reply) => {
    error = thrown
    return reply.code(500).send()
  })
  app.addHook('onRequest', (request, _reply, done) => {
    request.passage = passage
    seen = request
    done()
  })
  for (const check of checks) app.addHook('onRequest', hook(check, tooEarly))
  app.get('/', async () => {
    ran = true
    return 'ran'
  })
  await app.inject('/')
  await app.close()
  if (seen === undefined) throw new Error('no request')
  return { request: seen, error, ran }
}

/** Evidence is due when a request is over, which these are not. */
const tooEarly = () => assert.fail('settled too early')

const never: Check = () => assert.fail('a check ran behind a denial')

describe('a request', () => {
  it('has no mandate and no resource before they are established', async () => {
    const { request } = await travel(new Passage(), [])
    assert.throws(() => request.mandate, /request\.mandate is not established/)
    assert.throws(() => request.resource, /request\.resource is not established/)
    assert.equal(request.binding, undefined)
    assert.equal(request.operation, undefined)
  })

  it('has none at all on a route that is not proxied', async () => {
    const { request } = await travel(null, [])
    for (const name of ['mandate', 'resource', 'binding', 'operation'] as const) {
      assert.throws(() => request[name], /not proxied/)
    }
    assert.throws(() => passageOf(request), /not proxied/)
  })

  it('shows what was established, and lets nobody replace it', async () => {
    const passage = Object.assign(new Passage(), { mandate: mandate(), resource: 'resource://a' })
    const { request } = await travel(passage, [])
    assert.equal(request.mandate, passage.mandate)
    assert.equal(request.resource, 'resource://a')
    assert.throws(() => Reflect.set(request, 'mandate', null) || assert.fail('refused'), /refused/)
    assert.equal(request.mandate, passage.mandate)
  })
})

describe('hook', () => {
  const denial = new Denial('revoked')
  const throws: Check = () => {
    throw denial
  }
  for (const [title, check] of [
    ['a check that throws', throws],
    ['a check that rejects', async (...args) => throws(...args)],
    ['a check that rejects later', () => new Promise((_, reject) => setImmediate(reject, denial))],
  ] as [string, Check][]) {
    it(`ends the request at ${title}`, async () => {
      const { error, ran } = await travel(new Passage(), [check, never])
      assert.equal(error, denial)
      assert.equal(ran, false)
    })
  }

  for (const reason of [undefined, null, false, 'reason']) {
    it(`ends the request at a check that throws ${String(reason)}, at once or later`, async () => {
      const throws = () => {
        // oxlint-disable-next-line typescript/only-throw-error -- what a library may do
        throw reason
      }
      for (const check of [throws, async () => throws()]) {
        const { error, ran } = await travel(new Passage(), [check, never])
        assert.match(String(error), /a check failed/)
        assert.equal(ran, false)
      }
    })
  }

  it('goes on behind a check that returns, at once or later', async () => {
    const order: string[] = []
    const { error, ran } = await travel(new Passage(), [
      () => void order.push('at once'),
      async () => {
        await new Promise(setImmediate)
        order.push('later')
      },
      () => void order.push('last'),
    ])
    assert.equal(error, undefined)
    assert.equal(ran, true)
    assert.deepEqual(order, ['at once', 'later', 'last'])
  })

  it('refuses a request without a passage: a check must not be skipped', async () => {
    const { error, ran } = await travel(null, [never])
    assert.match(String(error), /without a passage/)
    assert.equal(ran, false)
  })

  for (const [title, outcome] of [
    ['admits', async () => {}],
    ['denies', async () => assert.fail('sts_timeout')],
    ['never decides', () => new Promise<void>(() => {})],
  ] as [string, () => Promise<void>][]) {
    it(`waits no longer for a check when the mandate is revoked, even if it ${title} then`, async () => {
      const revoked = new Denial('revoked')
      let reason: unknown
      const check: Check = (_request, passage) => {
        passage.cancelWait = given => {
          reason = given
        }
        setImmediate(() => {
          passage.revoke(new RevocationReceipt('sid', undefined), revoked)
          passage.abandon()
          assert.equal(passage.deciding, false)
        })
        return new Promise(resolve => setImmediate(resolve)).then(outcome)
      }
      const { error, ran } = await travel(new Passage(), [check, never])
      assert.equal(error, revoked)
      assert.equal(reason, revoked)
      assert.equal(ran, false)
      await new Promise(setImmediate)
    })
  }

  it('believes a revocation, whatever the check says that it interrupted', async () => {
    const revoked = new Denial('revoked')
    const check: Check = async (_request, passage) => {
      passage.revoke(new RevocationReceipt('sid', undefined), revoked)
      throw new Denial('sts_timeout')
    }
    assert.equal((await travel(new Passage(), [check, never])).error, revoked)
  })

  for (const asynchronous of [false, true]) {
    it(`ends a request that was interrupted beside ${asynchronous ? 'a slow' : 'a'} check`, async () => {
      const interruption = new Denial('request_timeout')
      const check: Check = (_request, passage) => {
        passage.interruption = interruption
        return asynchronous ? Promise.resolve() : undefined
      }
      const { error, ran } = await travel(new Passage(), [check, never])
      assert.equal(error, interruption)
      assert.equal(ran, false)
    })
  }

  for (const [title, outcome] of [
    ['admits', undefined],
    ['denies', denial],
  ] as const) {
    it(`goes no further for a caller that went before a check ${title}, and settles what is due`, async () => {
      const app = Fastify()
      await app.register(passagePlugin)
      const passage = new Passage()
      const refused: Error[] = []
      const settled = Promise.withResolvers<void>()
      app.setErrorHandler((error: Error, _request, reply) => {
        refused.push(error)
        return reply.code(500).send()
      })
      app.addHook('onRequest', (request, _reply, done) => {
        request.passage = passage
        done()
      })
      const check: Check = async () => {
        await new Promise(setImmediate)
        assert.equal(passage.deciding, true)
        passage.closedAt = performance.now()
        if (outcome !== undefined) throw outcome
      }
      const onDecided = () => {
        assert.equal(passage.deciding, false)
        assert.deepEqual(refused, outcome === undefined ? [] : [outcome])
        settled.resolve()
      }
      app.addHook('onRequest', hook(check, onDecided))
      app.addHook('onRequest', hook(never, tooEarly))
      app.get('/', () => assert.fail('the route ran'))
      app.inject('/').then(
        () => undefined,
        () => undefined,
      )
      await settled.promise
      await new Promise(setImmediate)
      await app.close()
    })
  }
})
