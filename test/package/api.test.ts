// What the package offers is what is recorded.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { API_REPORT, renderApiReport } from '../../scripts/api.ts'

test('etc/caracal-gateway.api.md is the public surface of the build; if the change is meant, `npm run api` records it', () => {
  assert.equal(readFileSync(API_REPORT, 'utf8'), renderApiReport())
})
