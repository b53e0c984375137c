/**
 * Makes one service's metrics of those of its processes, exemplars included, which the client library leaves out.
 */

/** A metric as a registry's `getMetricsAsJSON` gives it. */
export interface Family {
  readonly name: string
  readonly help: string
  readonly type: string
  /** What becomes of the values of several processes; `sum` unless told. */
  readonly aggregator?: Aggregator | undefined
  readonly values: readonly Sample[]
}

/** What becomes of the values of several processes: the client library's names. */
export type Aggregator = 'omit' | 'sum' | 'first' | 'min' | 'max' | 'average'

/** A value of a {@link Family}. */
export interface Sample {
  readonly value: number
  /** None, where the library leaves them out. */
  readonly labels?: Readonly<Partial<Record<string, string | number>>> | undefined
  /** The series, where it is not called as its family is: that of a histogram's bucket, say. */
  readonly metricName?: string | undefined
  readonly exemplar?: Exemplar | null | undefined
}

/** A request that a sample points to. */
interface Exemplar {
  /** Unix seconds. */
  readonly timestamp?: number | undefined
}

/**
 * One service's metrics.
 *
 * @param processes the metrics of each; of a gauge that is the `first`, an earlier process decides
 */
export function mergeFamilies(processes: readonly (readonly Family[])[]): Family[] {
  const byName = Map.groupBy(processes.flat(), ({ name }) => name)
  return [...byName.values()].flatMap(families => {
    const [first] = families
    const aggregator = first?.aggregator ?? 'sum'
    if (first === undefined || aggregator === 'omit') return []
    const samples = families.flatMap(({ values }) => values)
    const series = Map.groupBy(samples, ({ metricName, labels }) =>
      JSON.stringify([metricName, labels ?? {}]),
    )
    const values = [...series.values()].map(of => mergeSamples(worst(first, of) ?? aggregator, of))
    return [{ ...first, values }]
  })
}

/** Of a process that has ended: what only ever grows, so that no sum falls when its gauges go. */
export function totals(families: readonly Family[]): Family[] {
  return families
    .filter(({ type }) => type !== 'gauge')
    .map(family => ({ ...family, values: family.values.filter(sample => !isQuantile(sample)) }))
}

/** Quantiles cannot be summed, and of delays of the event loop an average would hide the process that is late. */
function worst({ name }: Family, [sample]: readonly Sample[]): 'max' | undefined {
  const late = /^nodejs_eventloop_lag_p\d+_seconds$/.test(name)
  return late || (sample !== undefined && isQuantile(sample)) ? 'max' : undefined
}

function isQuantile({ labels }: Sample): boolean {
  return labels?.['quantile'] !== undefined
}

function mergeSamples(aggregator: Exclude<Aggregator, 'omit'>, samples: Sample[]): Sample {
  const [first] = samples
  if (first === undefined) throw new RangeError('a series has one sample at least')
  const value = AGGREGATORS[aggregator](samples.map(sample => sample.value))
  const exemplar = samples
    .flatMap(sample => sample.exemplar ?? [])
    .reduce<Exemplar | undefined>(newer, undefined)
  return { ...first, value, exemplar }
}

const AGGREGATORS: Record<Exclude<Aggregator, 'omit'>, (values: number[]) => number> = {
  sum,
  first: ([value = Number.NaN]) => value,
  min: values => Math.min(...values),
  max: values => Math.max(...values),
  average: values => sum(values) / values.length,
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0)
}

function newer(one: Exemplar | undefined, other: Exemplar): Exemplar {
  return one !== undefined && (one.timestamp ?? 0) > (other.timestamp ?? 0) ? one : other
}
