// Guarantees that the page shows the figures that are kept.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, it } from 'node:test'
import { chartOf } from '../../bench/chart.ts'
import { readResults, RESULTS, withTables } from '../../bench/results.ts'

const HINT = 'run `npm run bench`'

describe('the figures of the benchmark', () => {
  const results = readResults()

  it('are those of docs/performance.md', () => {
    const page = readFileSync(new URL('../../docs/performance.md', import.meta.url), 'utf8')
    assert.ok(results !== undefined, HINT)
    assert.equal(page, withTables(page, results), HINT)
  })

  it('are those of the chart', () => {
    assert.ok(results !== undefined, HINT)
    assert.equal(readFileSync(new URL('chart.svg', RESULTS), 'utf8'), chartOf(results.ladder), HINT)
  })
})
