// Guarantees that the Helm chart says what the gateway, its alert rules and its dashboard say: writes the parts of the
// chart that repeat them, for `npm run docs`. `test/deploy/chart.test.ts` fails when they differ.

import { readFileSync } from 'node:fs'
import { isMap, isScalar, parseDocument, type YAMLMap } from 'yaml'
import { SECRETS, schema } from '../config.ts'

const DEPLOY = new URL('../deploy/', import.meta.url)
const CHART = new URL('helm/caracal-gateway/', DEPLOY)

/** Variables that the chart sets itself, from values of its own. */
const OWN: readonly string[] = [
  'PORT',
  'AUDIT_REPLAY_DIR',
  'BINDINGS_FILE',
  'SHUTDOWN_DELAY',
  'SHUTDOWN_TIMEOUT',
  'TLS_CERT_FILE',
  'TLS_KEY_FILE',
]

/** A row of the table of values: dotted path, default as JSON, description. */
export interface ValueRow {
  readonly path: string
  readonly default: string
  readonly description: string
}

/**
 * The values of the chart that have a description (a comment that begins with `--`), in their order.
 *
 * @throws Error for a value that neither has a description nor holds such values
 */
export function valueRows(yaml: string): ValueRow[] {
  const { contents } = parseDocument(yaml)
  if (!isMap(contents)) throw new Error('values.yaml holds no map')
  return rowsOf(contents, [], contents.commentBefore ?? '')
}

function rowsOf(map: YAMLMap, above: readonly string[], commentOfFirst: string): ValueRow[] {
  return map.items.flatMap(({ key, value }, index) => {
    if (!isScalar(key)) throw new Error(`a key of ${above.join('.')} is no word`)
    const path = [...above, String(key.value)]
    // The parser keeps a comment before the first key with the map.
    const comment = key.commentBefore ?? (index === 0 ? commentOfFirst : '')
    const [, description] = /(?:^|\n) -- ([^\n]*)$/.exec(comment) ?? []
    if (description !== undefined) {
      return [{ path: path.join('.'), default: JSON.stringify(value), description }]
    }
    if (!isMap(value)) throw new Error(`${path.join('.')} has no description in values.yaml`)
    return rowsOf(value, path, value.commentBefore ?? '')
  })
}

/** The chart's README with the table of values that `values.yaml` gives. */
export function renderChartReadme(readme: string, yaml: string): string {
  const rows = valueRows(yaml).map(
    row => `| \`${row.path}\` | \`${row.default}\` | ${row.description.replaceAll('|', '\\|')} |`,
  )
  const table = ['| Value | Default | Meaning |', '| --- | --- | --- |', ...rows].join('\n')
  return readme.replace(
    /(<!-- values: .*? -->\n\n)[^]*?(\n\n<!-- end of values -->)/,
    (_whole, before: string, after: string) => `${before}${table}${after}`,
  )
}

/** The schema of the chart's values with the variables of the gateway that `config` and `secrets` take. */
export function renderChartSchema(text: string): string {
  const chart = JSON.parse(text)
  const variables = Object.keys(schema.properties)
    .filter(name => !OWN.includes(name) && !SECRETS.includes(name))
    .sort()
  chart.properties.config.properties = Object.fromEntries(
    variables.map(name => [name, { type: 'string' }]),
  )
  chart.properties.secrets.properties = Object.fromEntries(
    SECRETS.map(name => [name, { $ref: '#/$defs/secretKey' }]),
  )
  return `${JSON.stringify(chart, null, 2)}\n`
}

function read(file: string, base: URL): string {
  return readFileSync(new URL(file, base), 'utf8')
}

/** Every file of the chart that repeats another, with the text that it should have. */
export function chartFiles(): { readonly file: URL; readonly text: string }[] {
  const texts = {
    'README.md': renderChartReadme(read('README.md', CHART), read('values.yaml', CHART)),
    'values.schema.json': renderChartSchema(read('values.schema.json', CHART)),
    // Helm reads nothing outside the chart.
    'files/rules.yml': read('prometheus/rules.yml', DEPLOY),
    'files/caracal-gateway.json': read('grafana/caracal-gateway.json', DEPLOY),
  }
  return Object.entries(texts).map(([name, text]) => ({ file: new URL(name, CHART), text }))
}
