// Holds the overload check to its count: so many requests at once, and never a place lost or given twice.

import assert from 'node:assert/strict'
import { describe, it, type TestContext } from 'node:test'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { Denial } from '../../denial.ts'
import overload, { type OverloadOptions } from '../../plugins/overload.ts'
import { Passage } from '../../plugins/passage.ts'
import { until } from '../until.ts'

async function started(
  t: TestContext,
  maxInFlight: number,
  { maxEventLoopDelay = 10_000, ...memory }: Partial<OverloadOptions> = {},
) {
  const app: FastifyInstance = Fastify()
  t.after(() => app.close())
  await app.register(overload, { maxInFlight, maxEventLoopDelay, ...memory })
  await app.ready()
  // `admit` looks at neither.
  const request: FastifyRequest = Object.create(null)
  const reply: FastifyReply = Object.create(null)
  const admit = (passage: Passage) => app.overload.admit(request, passage, reply)
  return { app, admit }
}

const overloaded = (error: unknown) => error instanceof Denial && error.check === 'overloaded'

describe('overload', () => {
  it('admits as many as it may, and denies the next', async t => {
    const { app, admit } = await started(t, 2)
    const [first, second] = [new Passage(), new Passage()]
    void admit(first)
    void admit(second)
    assert.equal(app.overload.inFlight, 2)
    assert.throws(() => admit(new Passage()), overloaded)
    assert.equal(app.overload.inFlight, 2)
    app.overload.release(first)
    void admit(new Passage())
    assert.equal(app.overload.inFlight, 2)
  })

  it('gives a place free once, and only one that was taken', async t => {
    const { app, admit } = await started(t, 2)
    const taken = new Passage()
    void admit(taken)
    app.overload.release(new Passage())
    assert.equal(app.overload.inFlight, 1)
    app.overload.release(taken)
    app.overload.release(taken)
    assert.equal(app.overload.inFlight, 0)
  })

  it('gives no place to a request that it denies', async t => {
    const { app, admit } = await started(t, 0)
    const denied = new Passage()
    assert.throws(() => admit(denied), overloaded)
    app.overload.release(denied)
    assert.equal(app.overload.inFlight, 0)
  })

  it('denies while the event loop is late, and admits when it no longer is', async t => {
    const { app, admit } = await started(t, 10, { maxEventLoopDelay: 100 })
    void admit(new Passage())
    const blocked = new Int32Array(new SharedArrayBuffer(4))
    const block = setInterval(() => Atomics.wait(blocked, 0, 0, 300), 1)
    try {
      await until(() => app.isUnderPressure(), 20_000)
      assert.throws(() => admit(new Passage()), overloaded)
    } finally {
      clearInterval(block)
    }
    await until(() => !app.isUnderPressure(), 20_000)
    void admit(new Passage())
    assert.equal(app.overload.inFlight, 2)
  })

  for (const bound of ['maxHeapBytes', 'maxResidentBytes'] as const) {
    it(`denies while memory is beyond ${bound}`, async t => {
      const { app, admit } = await started(t, 10, { maxEventLoopDelay: 250, [bound]: 1 })
      await until(() => app.overload.full, 20_000)
      assert.throws(() => admit(new Passage()), overloaded)
    })
  }

  it('denies no more than it must while its event loop is busy', async t => {
    const { app, admit } = await started(t, 40, { maxEventLoopDelay: 10_000 })
    const taken = Array.from({ length: 20 }, () => new Passage())
    for (const passage of taken) void admit(passage)
    assert.equal(app.overload.full, false)
    let busy = true
    const spin = () => {
      const end = performance.now() + 5
      while (performance.now() < end);
      if (busy) setImmediate(spin)
    }
    spin()
    try {
      await until(() => app.overload.full, 20_000)
      assert.throws(() => admit(new Passage()), overloaded)
      // What waits for its upstream does not wait for the loop.
      for (const passage of [...taken.slice(0, 1), ...taken.slice(0, 1)]) {
        app.overload.dispatched(passage)
      }
      const third = new Passage()
      void admit(third)
      assert.throws(() => admit(new Passage()), overloaded)
      app.overload.release(third)
      assert.equal(app.overload.full, false)
    } finally {
      busy = false
    }
    for (const passage of taken) app.overload.release(passage)
    assert.equal(app.overload.inFlight, 0)
  })
})
