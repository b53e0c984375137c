// Long work in slices.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { pace } from '../../lib/pace.ts'

test('a slice is over after its time, and the next one begins when others had their turn', async t => {
  let now = 0
  t.mock.method(performance, 'now', () => now)
  const slice = pace(4)
  assert.equal(slice.isOver(), false)
  now = 3
  assert.equal(slice.isOver(), false)
  now = 4
  assert.equal(slice.isOver(), true)
  let turn = false
  setImmediate(() => {
    turn = true
  })
  await slice.rest()
  assert.equal(turn, true)
  assert.equal(slice.isOver(), false)
  now = 8
  assert.equal(slice.isOver(), true)
})
