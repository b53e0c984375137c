// Measures what the durability of evidence costs, and fails when the default costs more than its aim.
//
// npm run bench:audit [-- --generations=5 --slices=30 --rate=150 --dir=DIRECTORY]
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { AUDIT_STREAM } from '../plugins/audit/sink.ts'
import { type Gateway, startGateway } from '../test/gateway/harness.ts'
import { type Counterparts, RESOURCE, startCounterparts } from './counterparts.ts'
import type { Load, Taken } from './load.ts'
import { startWorker } from './processes.ts'
import { Ends, median, Report } from './report.ts'

const { values } = parseArgs({
  options: {
    generations: { type: 'string', default: '5' },
    slices: { type: 'string', default: '30' },
    rate: { type: 'string', default: '150' },
    dir: { type: 'string', default: tmpdir() },
  },
})
/** Two processes of the same program differ too: each generation has new ones. */
const GENERATIONS = Number(values.generations)
/** Of a generation: each gateway has that many in turn with the others. */
const SLICES = Number(values.slices)
const RATE = Number(values.rate)
/** Requests of a slice. */
const REQUESTS = 100
/** Slices of a generation before it is measured: what is not compiled yet costs several times as much. */
const WARM_SLICES = 60
/** Slices of a generation at a fixed rate. */
const TIMED_SLICES = 6
/** CPU of `strict` as a multiple of `relaxed`. */
const AIM = 1.05

const DURABILITIES = ['relaxed', 'strict', 'synced'] as const
type Durability = (typeof DURABILITIES)[number]

interface Contender {
  readonly durability: Durability
  readonly gateway: Gateway
}

/** What all generations have given for a durability, in their order. */
interface Figures {
  /** Microseconds of CPU a request, of each slice. */
  readonly cpu: number[]
  /** Milliseconds, of each generation. */
  readonly p50: number[]
  readonly p99: number[]
}

const report = new Report()
const ends = new Ends()
const figures: Readonly<Record<Durability, Figures>> = {
  relaxed: { cpu: [], p50: [], p99: [] },
  strict: { cpu: [], p50: [], p99: [] },
  synced: { cpu: [], p50: [], p99: [] },
}
await ends.during(measure)
tell()
report.end()

async function measure(): Promise<void> {
  const { redis, sts, env } = await startCounterparts(ends)
  for (let generation = 0; generation < GENERATIONS; generation++) {
    const contenders: Contender[] = []
    for (const durability of DURABILITIES) {
      contenders.push({ durability, gateway: await start(durability, env) })
    }
    const load = startWorker<Load, readonly Taken[]>(ends, 'load.ts')
    const give = (slices: number, rate: number | undefined) =>
      load.give({
        gateways: contenders.map(target),
        slices,
        requests: REQUESTS,
        rate,
        sts,
        resource: RESOURCE,
      })
    await give(WARM_SLICES, undefined)
    await redis.command('DEL', AUDIT_STREAM)
    collect(await give(SLICES, undefined), ({ cpu }, taken) => cpu.push(...taken.cpu))
    collect(await give(TIMED_SLICES, RATE), ({ p50, p99 }, { times }) => {
      const sorted = times.toSorted((a, b) => a - b)
      p50.push(sorted[Math.floor(sorted.length * 0.5)] ?? Number.NaN)
      p99.push(sorted[Math.floor(sorted.length * 0.99)] ?? Number.NaN)
    })
    await load.stop()
    for (const { gateway } of contenders) await gateway.stop()
  }
}

async function start(durability: Durability, env: Counterparts['env']): Promise<Gateway> {
  const directory = await mkdtemp(join(values.dir, 'bench-audit-'))
  ends.after(() => rm(directory, { recursive: true, force: true }))
  return startGateway(ends, { ...env, AUDIT_DURABILITY: durability, AUDIT_REPLAY_DIR: directory })
}

function collect(all: readonly Taken[], add: (figures: Figures, taken: Taken) => void): void {
  for (const [index, durability] of DURABILITIES.entries()) {
    const taken = all[index]
    if (taken !== undefined) add(figures[durability], taken)
  }
}

function tell(): void {
  const slices = `${SLICES} slices of ${REQUESTS} requests in each of ${GENERATIONS} generations`
  report.section(`CPU a request: ${slices}, 16 callers`)
  report.table([
    ['', 'us', 'x relaxed', 'by generation'],
    ...DURABILITIES.map(durability => {
      const ratios = ratiosOf(durability)
      const generations = Array.from({ length: GENERATIONS }, (_, index) =>
        middleMean(ratios.slice(index * SLICES, (index + 1) * SLICES)),
      )
      return [
        durability,
        middleMean(figures[durability].cpu).toFixed(0),
        middleMean(ratios).toFixed(3),
        spread(generations, 3),
      ]
    }),
  ])
  const strict = middleMean(ratiosOf('strict'))
  report.figure('strict: times relaxed, slice by slice, mean of the middle half', strict, 'x', AIM)
  if (strict < 1) report.note('less than relaxed: its cost drowns in the noise of this machine')

  const requests = TIMED_SLICES * REQUESTS
  report.section(`Latency at ${RATE} requests a second, ${requests} in each generation`)
  const { p50: least50, p99: least99 } = figures.relaxed
  report.table([
    ['', 'p50 ms', 'added', 'of all', 'p99 ms', 'added', 'of all'],
    ...DURABILITIES.map(durability => {
      const { p50, p99 } = figures[durability]
      return [durability, ...latencyCells(p50, least50), ...latencyCells(p99, least99)]
    }),
  ])
}

/** CPU as a multiple of that of `relaxed`, slice by slice. */
function ratiosOf(durability: Durability): number[] {
  const { cpu } = figures.relaxed
  return figures[durability].cpu.map((spent, slice) => spent / (cpu[slice] ?? Number.NaN))
}

/** A median, what it adds to that of another, and how far that lies apart. */
function latencyCells(times: readonly number[], base: readonly number[]): string[] {
  const added = times.map((time, index) => time - (base[index] ?? Number.NaN))
  return [median(times).toFixed(2), median(added).toFixed(2), spread(added, 2)]
}

function target({ gateway: { url, child } }: Contender): Load['gateways'][number] {
  return { url, pid: child.pid ?? 0 }
}

function spread(numbers: readonly number[], digits: number): string {
  return `${Math.min(...numbers).toFixed(digits)} to ${Math.max(...numbers).toFixed(digits)}`
}

/** The mean without the lowest and the highest quarter: of slices that nothing befell. */
function middleMean(numbers: readonly number[]): number {
  const quarter = Math.floor(numbers.length / 4)
  const middle = numbers.toSorted((a, b) => a - b).slice(quarter, numbers.length - quarter)
  return middle.reduce((sum, number) => sum + number, 0) / middle.length
}
