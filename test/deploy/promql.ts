// Reads PromQL with the grammar of Prometheus: what does not parse, and which metrics an expression names.

import { parser } from '@prometheus-io/lezer-promql'

/**
 * The names of the metrics that an expression reads, once each.
 *
 * @throws Error with the place of what is no PromQL
 */
export function metricsOf(expression: string): Set<string> {
  const names = new Set<string>()
  parser.parse(expression).iterate({
    enter({ type, from, to }) {
      if (type.isError) {
        throw new Error(`not PromQL at character ${from + 1}: ${expression.slice(from)}`)
      }
      // A grouping label is no metric: only the identifier of a selector is.
      if (type.name === 'Identifier') names.add(expression.slice(from, to))
    },
  })
  return names
}

/** A metric's name, without what a histogram or a summary puts behind it. */
export function familyOf(name: string): string {
  return name.replace(/_(?:bucket|count|sum)$/, '')
}
