// Holds the STS circuit to contract section 4: three failures open it, one probe at a time, one success closes it.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { Circuit, type Entry } from '../../lib/circuit.ts'

const OPTIONS = { threshold: 3, openFor: 10_000 }

/** Enters and leaves with a result, at once. */
function attempt(circuit: Circuit, result: 'success' | 'failure' | 'neutral', now: number): void {
  const entry = circuit.enter(now)
  assert.ok(entry, 'the circuit refused')
  circuit.leave(entry, result, now)
}

function opened(now: number): Circuit {
  const circuit = new Circuit(OPTIONS)
  for (let i = 0; i < 3; i++) attempt(circuit, 'failure', now)
  assert.equal(circuit.open, true)
  return circuit
}

describe('Circuit', () => {
  it('lets everything through while it is closed', () => {
    const circuit = new Circuit(OPTIONS)
    assert.equal(circuit.open, false)
    assert.equal(circuit.refuses(0), false)
    assert.equal(circuit.waitFor(0), 0)
    for (let i = 0; i < 50; i++) assert.equal(circuit.enter(0), 'closed')
  })

  it('opens at the third failure, not at the second', () => {
    const circuit = new Circuit(OPTIONS)
    attempt(circuit, 'failure', 0)
    attempt(circuit, 'failure', 0)
    assert.equal(circuit.refuses(0), false)
    attempt(circuit, 'failure', 0)
    assert.equal(circuit.refuses(0), true)
    assert.equal(circuit.enter(0), undefined)
  })

  it('counts failures however long they lie apart', () => {
    const circuit = new Circuit(OPTIONS)
    for (const now of [0, 3_600_000, 7_200_000]) attempt(circuit, 'failure', now)
    assert.equal(circuit.open, true)
  })

  it('starts anew after a success', () => {
    const circuit = new Circuit(OPTIONS)
    for (const result of ['failure', 'failure', 'success', 'failure', 'failure'] as const) {
      attempt(circuit, result, 0)
    }
    assert.equal(circuit.open, false)
  })

  it('takes no notice of refusals: they neither count nor reset', () => {
    const circuit = new Circuit(OPTIONS)
    for (let i = 0; i < 20; i++) attempt(circuit, 'neutral', 0)
    assert.equal(circuit.open, false)
    for (const result of ['failure', 'neutral', 'failure', 'neutral', 'failure'] as const) {
      attempt(circuit, result, 0)
    }
    assert.equal(circuit.open, true)
  })

  it('stays open for its time, to the millisecond', () => {
    const circuit = opened(1_000)
    assert.equal(circuit.waitFor(1_000), 10_000)
    assert.equal(circuit.waitFor(10_999), 1)
    assert.equal(circuit.enter(10_999), undefined)
    assert.equal(circuit.waitFor(11_000), 0)
    assert.equal(circuit.enter(11_000), 'probe')
  })

  it('lets one probe through, and refuses all beside it', () => {
    const circuit = opened(0)
    assert.equal(circuit.enter(10_000), 'probe')
    assert.equal(circuit.open, true)
    assert.equal(circuit.refuses(10_000), true)
    for (let i = 0; i < 50; i++) assert.equal(circuit.enter(99_000), undefined)
  })

  it('closes when the probe succeeds', () => {
    const circuit = opened(0)
    attempt(circuit, 'success', 10_000)
    assert.equal(circuit.open, false)
    attempt(circuit, 'failure', 10_000)
    attempt(circuit, 'failure', 10_000)
    assert.equal(circuit.open, false)
  })

  it('opens anew, for the whole time, when the probe fails', () => {
    const circuit = opened(0)
    const probe = circuit.enter(10_000)
    assert.ok(probe)
    circuit.leave(probe, 'failure', 12_000)
    assert.equal(circuit.enter(21_999), undefined)
    assert.equal(circuit.enter(22_000), 'probe')
  })

  it('frees the probe’s place when the STS refuses the probe', () => {
    const circuit = opened(0)
    attempt(circuit, 'neutral', 10_000)
    assert.equal(circuit.open, true)
    assert.equal(circuit.enter(10_000), 'probe')
  })

  it('does not prolong the time for failures of requests that were under way', () => {
    const circuit = new Circuit(OPTIONS)
    const underWay = Array.from({ length: 10 }, () => circuit.enter(0))
    underWay.forEach((entry, index) => {
      assert.ok(entry)
      circuit.leave(entry, 'failure', index * 1_000)
    })
    assert.equal(circuit.enter(11_999), undefined)
    assert.equal(circuit.enter(12_000), 'probe')
  })

  it('closes for a late success of a request that was under way', () => {
    const circuit = new Circuit(OPTIONS)
    const late = circuit.enter(0)
    assert.ok(late)
    for (let i = 0; i < 3; i++) attempt(circuit, 'failure', 0)
    circuit.leave(late, 'success', 5_000)
    assert.equal(circuit.open, false)
    assert.equal(circuit.enter(5_000), 'closed')
  })

  it('tells each time that it opens', () => {
    let times = 0
    const circuit = new Circuit({ ...OPTIONS, onOpen: () => (times += 1) })
    for (let i = 0; i < 3; i++) attempt(circuit, 'failure', 0)
    assert.equal(times, 1)
    attempt(circuit, 'failure', 10_000)
    assert.equal(times, 2)
    attempt(circuit, 'success', 20_000)
    assert.equal(times, 2)
  })

  it('behaves like its description under any interleaving', () => {
    type Step =
      | { do: 'enter' }
      | { do: 'wait'; milliseconds: number }
      | { do: 'leave'; which: number; result: 'success' | 'failure' | 'neutral' }
    const step: fc.Arbitrary<Step> = fc.oneof(
      { weight: 4, arbitrary: fc.constant({ do: 'enter' } as const) },
      {
        weight: 1,
        arbitrary: fc.record({
          do: fc.constant('wait' as const),
          milliseconds: fc.constantFrom(1, 4_999, 5_000, 10_000),
        }),
      },
      {
        weight: 4,
        arbitrary: fc.record({
          do: fc.constant('leave' as const),
          which: fc.nat(30),
          result: fc.constantFrom('success', 'failure', 'failure', 'neutral'),
        }),
      },
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), steps => {
        const circuit = new Circuit(OPTIONS)
        const inside: Entry[] = []
        let now = 0
        let failuresInARow = 0
        let openSince: number | undefined
        for (const action of steps) {
          const probes = inside.filter(entry => entry === 'probe').length
          assert.ok(probes <= 1, 'two probes at once')
          const isOver = openSince !== undefined && now >= openSince + OPTIONS.openFor
          const expected =
            openSince === undefined ? 'closed' : isOver && probes === 0 ? 'probe' : undefined
          assert.equal(circuit.open, openSince !== undefined)
          assert.equal(circuit.refuses(now), expected === undefined)
          if (action.do === 'wait') now += action.milliseconds
          if (action.do === 'enter') {
            const entry = circuit.enter(now)
            assert.equal(entry, expected)
            if (entry !== undefined) inside.push(entry)
          }
          if (action.do !== 'leave' || inside.length === 0) continue
          const [entry] = inside.splice(action.which % inside.length, 1)
          assert.ok(entry)
          circuit.leave(entry, action.result, now)
          if (action.result === 'success') {
            failuresInARow = 0
            openSince = undefined
          } else if (action.result === 'failure') {
            failuresInARow += 1
            if (openSince === undefined ? failuresInARow >= 3 : entry === 'probe') openSince = now
          }
        }
      }),
      { numRuns: 500 },
    )
  })
})
