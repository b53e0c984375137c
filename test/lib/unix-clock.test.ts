// The clock that ends no revocation early.
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { unixClock } from '../../lib/unix-clock.ts'

function begin(t: TestContext) {
  const time = { wall: 1_000_000, steady: 5_000 }
  t.mock.method(Date, 'now', () => time.wall)
  t.mock.method(performance, 'now', () => time.steady)
  return { time, clock: unixClock() }
}

test('the clock goes with time', t => {
  const { time, clock } = begin(t)
  assert.equal(clock.now(), 1_000_000)
  time.wall += 7_000
  time.steady += 7_000
  assert.equal(clock.now(), 1_007_000)
})

test('the clock does not follow a jump forward, and follows one back', t => {
  const { time, clock } = begin(t)
  time.wall += 90_000_000
  assert.equal(clock.now(), 1_000_000)
  time.steady += 1_000
  assert.equal(clock.now(), 1_001_000)
  time.wall = 900_000
  assert.equal(clock.now(), 900_000)
})

test('the clock follows a jump forward that somebody confirms, and no further', t => {
  const { time, clock } = begin(t)
  clock.atLeast(1_500_000)
  assert.equal(clock.now(), 1_000_000, 'it is never ahead of the machine')
  time.wall = 2_000_000
  assert.equal(clock.now(), 1_500_000)
  clock.atLeast(1_200_000)
  time.steady += 1_000
  assert.equal(clock.now(), 1_501_000)
})
