// Several processes' metrics become one service's: each by what it means.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { type Family, mergeFamilies, totals } from '../../lib/metric-families.ts'

const gauge = (aggregator: Family['aggregator'], ...values: number[]): Family[][] =>
  values.map(value => [
    { name: 'g', help: 'G', type: 'gauge', aggregator, values: [{ value, labels: {} }] },
  ])

const valuesOf = (families: readonly Family[]) =>
  families.flatMap(({ values }) => values.map(({ value }) => value))

describe('mergeFamilies', () => {
  it('makes of gauges what they mean', () => {
    assert.deepEqual(valuesOf(mergeFamilies(gauge('sum', 3, 1, 2))), [6])
    assert.deepEqual(valuesOf(mergeFamilies(gauge(undefined, 3, 1, 2))), [6])
    assert.deepEqual(valuesOf(mergeFamilies(gauge('max', 3, 1, 2))), [3])
    assert.deepEqual(valuesOf(mergeFamilies(gauge('min', 3, 1, 2))), [1])
    assert.deepEqual(valuesOf(mergeFamilies(gauge('average', 3, 1, 2))), [2])
    assert.deepEqual(valuesOf(mergeFamilies(gauge('first', 3, 1, 2))), [3])
    assert.deepEqual(mergeFamilies(gauge('omit', 3, 1, 2)), [])
  })

  it('lets the first process say what becomes of a gauge', () => {
    const [own = [], ...others] = [...gauge('first', 5), ...gauge('omit', 1, 2)]
    assert.deepEqual(valuesOf(mergeFamilies([own, ...others])), [5])
  })

  it('sums series by name and labels, those that one process alone has too', () => {
    const of = (...series: [string, number][]): Family => ({
      name: 'c_total',
      help: 'C',
      type: 'counter',
      values: series.map(([check, value]) => ({ value, labels: { check } })),
    })
    const [merged] = mergeFamilies([[of(['a', 1], ['b', 2])], [of(['b', 3], ['c', 4])], []])
    assert.deepEqual(
      merged?.values.map(({ labels, value }) => [labels?.['check'], value]),
      [
        ['a', 1],
        ['b', 5],
        ['c', 4],
      ],
    )
  })

  it('keeps the newest exemplar of a bucket, and tells buckets, sum and count apart', () => {
    const of = (count: number, exemplar: object | null): Family => ({
      name: 'h',
      help: 'H',
      type: 'histogram',
      values: [
        { metricName: 'h_bucket', value: count, labels: { le: '+Inf' }, exemplar },
        { metricName: 'h_sum', value: count / 2, labels: {} },
        { metricName: 'h_count', value: count, labels: {} },
      ],
    })
    const old = { labelSet: { trace_id: 'old' }, value: 1, timestamp: 100 }
    const young = { labelSet: { trace_id: 'young' }, value: 2, timestamp: 101 }
    const [merged] = mergeFamilies([[of(2, old)], [of(4, young)], [of(6, null)]])
    assert.deepEqual(merged?.values, [
      { metricName: 'h_bucket', value: 12, labels: { le: '+Inf' }, exemplar: young },
      { metricName: 'h_sum', value: 6, labels: {}, exemplar: undefined },
      { metricName: 'h_count', value: 12, labels: {}, exemplar: undefined },
    ])
  })

  it('takes the worst quantile, and the worst delay of an event loop', () => {
    const summary = (value: number): Family => ({
      name: 's',
      help: 'S',
      type: 'summary',
      values: [
        { value, labels: { quantile: 0.99 } },
        { metricName: 's_count', value },
      ],
    })
    const merged = mergeFamilies([[summary(0.25)], [summary(0.5)]])
    assert.deepEqual(valuesOf(merged), [0.5, 0.75])
    assert.deepEqual(valuesOf(totals(merged)), [0.75])
    const late = gauge('average', 0.1, 0.3).map(families =>
      families.map(family => ({ ...family, name: 'nodejs_eventloop_lag_p99_seconds' })),
    )
    assert.deepEqual(valuesOf(mergeFamilies(late)), [0.3])
  })
})

describe('totals', () => {
  it('are what only grows', () => {
    const counter: Family = { name: 'c_total', help: 'C', type: 'counter', values: [] }
    assert.deepEqual(totals([counter, ...gauge('sum', 1).flat()]), [counter])
  })
})
