// What a whole run leaves: figures as JSON, a chart, and the tables of docs/performance.md.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import type { BodiesResult } from './bodies.ts'
import { chartOf } from './chart.ts'
import type { DenialResult } from './denials.ts'
import type { GrowthResult } from './growth.ts'
import { ladderRows, type RungResult } from './ladder.ts'
import type { Machine } from './machine.ts'
import type { Bar, Spread } from './report.ts'
import type { StreamsResult } from './streams.ts'

/** Everything that one run measured. */
export interface Results {
  /** ISO 8601 date. */
  readonly date: string
  readonly machine: Machine
  readonly rounds: number
  readonly seconds: number
  readonly ladder: readonly RungResult[]
  readonly denials: readonly DenialResult[]
  readonly streams: StreamsResult
  readonly bodies: readonly BodiesResult[]
  /** Milliseconds. */
  readonly start: Spread
  readonly growth: readonly GrowthResult[]
  readonly bars: readonly Bar[]
}

/** Where the figures of the last whole run are kept. */
export const RESULTS = new URL('results/', import.meta.url)
const LATEST = new URL('latest.json', RESULTS)
const PAGE = new URL('../docs/performance.md', import.meta.url)
const BEGIN = '<!-- written by npm run bench -->'
const END = '<!-- end -->'
const KIB = 1024
const MIB = 1024 * KIB

/** The figures of the last whole run; undefined when there are none. */
export function readResults(): Results | undefined {
  return existsSync(LATEST) ? JSON.parse(readFileSync(LATEST, 'utf8')) : undefined
}

/** Keeps the figures of a whole run, and writes the chart and the page that show them. */
export function writeResults(measured: Results): void {
  mkdirSync(RESULTS, { recursive: true })
  writeFileSync(LATEST, `${JSON.stringify(measured, rounded, 2)}\n`)
  // From what was kept, so that both can be told to agree with it.
  const results = readResults()
  if (results === undefined) throw new Error('the figures were not kept')
  writeFileSync(new URL('chart.svg', RESULTS), chartOf(results.ladder))
  writeFileSync(PAGE, withTables(readFileSync(PAGE, 'utf8'), results))
}

/** A page with the tables of a run between its markers. @throws Error when it has none */
export function withTables(page: string, results: Results): string {
  const [before, after] = [page.indexOf(BEGIN), page.indexOf(END)]
  if (before === -1 || after < before) throw new Error('docs/performance.md lacks its markers')
  return `${page.slice(0, before)}${BEGIN}\n\n${renderTables(results)}\n\n${page.slice(after)}`
}

function renderTables(results: Results): string {
  const { machine, date, rounds, seconds } = results
  const versions = Object.entries(machine.versions).map(
    ([name, version]) => `${name} ${version ?? 'not installed'}`,
  )
  const { gatewayBytes, bareBytes, streams } = results.streams
  return [
    `Measured on ${date}: ${machine.processor}, ${machine.cores} cores, ${machine.memoryGib} GiB, Linux ${machine.kernel}; ${versions.join(', ')}. ${rounds} rounds, ${seconds} s for each load.`,
    '![CPU of a request, rung by rung](../bench/results/chart.svg)',
    '### The ladder',
    markdown(ladderRows(results.ladder)),
    '### Refusals',
    markdown([
      ['check', 'CPU us', 'x reply-from', 'spread'],
      ...results.denials.map(({ check, cpu, ratio }) => [
        `\`${check}\``,
        cpu.median.toFixed(0),
        ratio.median.toFixed(2),
        range(ratio, 2),
      ]),
    ]),
    '### Bodies of 1 GiB',
    markdown([
      ['', 'MiB/s', 'share of reply-from', 'spread', 'share of nginx'],
      ...results.bodies.map(({ way, gateway, ofBare, ofNginx }) => [
        way,
        gateway.median.toFixed(0),
        ofBare.median.toFixed(2),
        range(ofBare, 2),
        ofNginx?.median.toFixed(2) ?? '-',
      ]),
    ]),
    '### Open event streams, start',
    markdown([
      ['', ''],
      [
        `memory of one of ${streams} idle streams`,
        `${(gatewayBytes / KIB).toFixed(1)} KiB; bare reply-from ${(bareBytes / KIB).toFixed(1)} KiB`,
      ],
      [
        'start to ready, median',
        `${results.start.median.toFixed(0)} ms (${range(results.start, 0)})`,
      ],
    ]),
    '### By what the gateway holds',
    markdown([
      ['bindings', 'revocations', 'CPU us', 'spread', 'x one of each', 'MiB'],
      ...results.growth.map(({ bindings, revocations, cpu, times, residentBytes }) => [
        `${bindings}`,
        `${revocations}`,
        cpu.median.toFixed(0),
        range(cpu, 0),
        times.toFixed(2),
        (residentBytes / MIB).toFixed(0),
      ]),
    ]),
    '### Bars',
    markdown([
      ['bar', 'measured', 'at most', 'holds'],
      ...results.bars.map(({ name, value, unit, bound, holds }) => [
        name,
        `${value >= 100 ? value.toFixed(0) : value.toPrecision(3)} ${unit}`,
        `${bound} ${unit}`,
        holds ? 'yes' : '**no**',
      ]),
    ]),
  ].join('\n\n')
}

function range({ min, max }: Spread, digits: number): string {
  return `${min.toFixed(digits)}-${max.toFixed(digits)}`
}

/** A table whose first column is text and whose others are figures. */
function markdown([head = [], ...rows]: readonly (readonly string[])[]): string {
  const rule = head.map((_, column) => (column === 0 ? '---' : '---:'))
  return [head, rule, ...rows].map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

/** Five digits: more of them nobody measured. */
function rounded(_name: string, value: unknown): unknown {
  return typeof value === 'number' ? Number(value.toPrecision(5)) : value
}
