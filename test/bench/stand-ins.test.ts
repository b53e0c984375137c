// Holds the benchmark's stand-ins to the names of the checks that they stand in for.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as standIns from '../../bench/stand-ins.ts'
import * as checks from '../../hooks/index.ts'

test('the benchmark has a stand-in for each list of checks', () => {
  for (const name of Object.keys(checks)) assert.ok(Object.hasOwn(standIns, name), name)
})
