// Measures each rung of the ladder in turn with the others, round by round: whatever befalls the machine meanwhile befalls
// all of them.
import { setTimeout as pause } from 'node:timers/promises'
import { memoryOf } from './cpu.ts'
import type { Flood, Flooded } from './flood.ts'
import type { Worker } from './processes.ts'
import type { Cleanup } from '../test/redis.ts'
import { ratioOf, type Report, type Spread, spreadOf } from './report.ts'
import { BASE, type Rung, WHOLE } from './rungs.ts'
import type { Stage } from './stage.ts'
import type { Subject } from './subject.ts'

/** What was measured of one rung. */
export interface RungResult {
  readonly name: string
  readonly title: string
  /** Microseconds of CPU a request at saturation. */
  readonly cpu: Spread
  /** Times the CPU of bare reply-from, round by round. */
  readonly cpuRatio: Spread
  /** Requests a second at saturation. */
  readonly throughput: Spread
  /** Share of a core that the process used then: what is far under 1 waited for the others. */
  readonly busy: Spread
  /** Latency at half of that, in milliseconds, and times bare reply-from's at half of its own. */
  readonly p50: Spread
  readonly p50Ratio: Spread
  readonly p99: Spread
  readonly p99Ratio: Spread
  /** What is on top of a call straight to the upstream, in milliseconds. */
  readonly addedP50: number
  readonly addedP99: number
  /** Resident bytes before the load, the most after a load, and the high-water mark. */
  readonly idleBytes: number
  readonly loadedBytes: number
  readonly highWaterBytes: number
}

/** How it is measured. */
export interface LadderOptions {
  readonly rounds: number
  /** Seconds of each load of a round. */
  readonly seconds: number
  /** What to measure, {@link BASE} among it. */
  readonly rungs: readonly Rung[]
}

/** A load generator. */
export type Flooder = Worker<Flood, Flooded>

/** As many callers as keep a process busy without a queue that grows. */
const CALLERS = 32
/** Connections of callers that do not wait for one another. */
const CONNECTIONS = 256
/** Milliseconds before each load is measured. */
const RAMP = 400
/** Seconds of load before the first round: what is not compiled yet costs several times as much. */
const WARM_UP = 4
/** Milliseconds after the start in which the gateway gives back what the start took. */
const SETTLE = 3_000
/** More requests a second than any gateway here answers. */
const MOST = 6_000
/** Most requests a second by the clock: beyond it the generator itself is late. */
const MOST_RATE = 8_000
const MIB = 1024 * 1024

interface Contender {
  readonly rung: Rung
  readonly subject: Subject
  readonly idleBytes: number
  readonly cpu: number[]
  readonly throughput: number[]
  readonly busy: number[]
  readonly p50: number[]
  readonly p99: number[]
  loadedBytes: number
}

/** Measures the rungs; prints as it goes. */
export async function measureLadder(
  ends: Cleanup,
  stage: Stage,
  flooder: Flooder,
  report: Report,
  options: LadderOptions,
): Promise<readonly RungResult[]> {
  report.section(`The ladder: ${options.rounds} rounds, ${options.seconds} s for each load`)
  const contenders = await start(ends, stage, report, options.rungs)
  const give = (contender: Contender, load: Partial<Flood>) =>
    flooder.give({
      port: contender.subject.port,
      pid: contender.subject.pid,
      ramp: RAMP,
      seconds: options.seconds,
      mandates: mandatesFor(contender.rung, stage, options.seconds),
      ...load,
    })
  for (const contender of contenders) {
    const mandates = mandatesFor(contender.rung, stage, WARM_UP)
    await give(contender, { callers: CALLERS, seconds: WARM_UP, mandates })
  }
  const straight = { p50: new Array<number>(), p99: new Array<number>() }
  for (let round = 0; round < options.rounds; round++) {
    for (const contender of inTurn(contenders, round)) {
      const { rung, subject } = contender
      const saturated = await give(contender, { callers: CALLERS })
      const throughput = onlyOk(rung.name, saturated)
      contender.throughput.push(throughput)
      contender.cpu.push(saturated.cpu)
      contender.busy.push(saturated.busy)
      contender.loadedBytes = Math.max(contender.loadedBytes, memoryOf(subject.pid).resident)
      // Half of what it carried a moment ago: the machine may carry less another time.
      const half = { rate: Math.min(throughput / 2, MOST_RATE), connections: CONNECTIONS }
      const halfway = await give(contender, half)
      onlyOk(rung.name, halfway)
      addLatency(contender, halfway)
      if (rung.name !== BASE) continue
      const port = Number(new URL(stage.upstream).port)
      addLatency(straight, await give(contender, { ...half, port }))
    }
  }
  const results = resultsOf(contenders, straight)
  report.table(ladderRows(results))
  tellBars(report, results)
  tellLocalChecks(report, contenders)
  for (const { subject } of contenders) await subject.stop()
  return results
}

async function start(
  ends: Cleanup,
  stage: Stage,
  report: Report,
  rungs: readonly Rung[],
): Promise<Contender[]> {
  const started: { rung: Rung; subject: Subject }[] = []
  for (const rung of rungs) {
    const subject = await rung.start(ends, stage)
    if (subject === undefined) report.note(`${rung.title}: not installed here`)
    else started.push({ rung, subject })
  }
  await pause(SETTLE)
  return started.map(({ rung, subject }) => ({
    rung,
    subject,
    idleBytes: memoryOf(subject.pid).resident,
    loadedBytes: 0,
    cpu: [],
    throughput: [],
    busy: [],
    p50: [],
    p99: [],
  }))
}

/** Another first each round. */
function inTurn<T>(all: readonly T[], round: number): T[] {
  return [...all.slice(round % all.length), ...all.slice(0, round % all.length)]
}

function mandatesFor({ spends }: Rung, stage: Stage, seconds: number) {
  return spends
    ? stage.mandates(Math.ceil(MOST * (seconds + RAMP / 1_000)))
    : stage.mandates(64, { reused: true })
}

/** @throws Error when an answer was not 200 */
function onlyOk(name: string, { perSecond }: Flooded): number {
  const { 200: good = 0, ...others } = perSecond
  if (Object.keys(others).length > 0) {
    throw new Error(`${name} answered ${JSON.stringify(perSecond)}`)
  }
  return good
}

function addLatency(
  { p50, p99 }: { readonly p50: number[]; readonly p99: number[] },
  { times }: Flooded,
): void {
  p50.push(times[Math.floor(times.length * 0.5)] ?? Number.NaN)
  p99.push(times[Math.floor(times.length * 0.99)] ?? Number.NaN)
}

function resultsOf(
  contenders: readonly Contender[],
  straight: { readonly p50: readonly number[]; readonly p99: readonly number[] },
): RungResult[] {
  const base = contenders.find(({ rung }) => rung.name === BASE)
  if (base === undefined) throw new Error('the ladder needs bare reply-from')
  return contenders.map(contender => {
    const { rung, subject, cpu, p50, p99 } = contender
    return {
      name: rung.name,
      title: rung.title,
      cpu: spreadOf(cpu),
      cpuRatio: ratioOf(cpu, base.cpu),
      throughput: spreadOf(contender.throughput),
      busy: spreadOf(contender.busy),
      p50: spreadOf(p50),
      p50Ratio: ratioOf(p50, base.p50),
      p99: spreadOf(p99),
      p99Ratio: ratioOf(p99, base.p99),
      addedP50: spreadOf(p50).median - spreadOf(straight.p50).median,
      addedP99: spreadOf(p99).median - spreadOf(straight.p99).median,
      idleBytes: contender.idleBytes,
      loadedBytes: contender.loadedBytes,
      highWaterBytes: memoryOf(subject.pid).highWater,
    }
  })
}

/** The rows of the ladder's table, its head first. */
export function ladderRows(results: readonly RungResult[]): string[][] {
  return [
    [
      'rung',
      'CPU us',
      'x reply-from',
      'spread',
      'req/s',
      'core',
      'p50 ms',
      'added',
      'x',
      'p99 ms',
      'added',
      'x',
      'MiB idle',
      'loaded',
      'most',
    ],
    ...results.map(result => [
      result.title,
      result.cpu.median.toFixed(0),
      result.cpuRatio.median.toFixed(2),
      `${result.cpuRatio.min.toFixed(2)}-${result.cpuRatio.max.toFixed(2)}`,
      result.throughput.median.toFixed(0),
      result.busy.median.toFixed(2),
      result.p50.median.toFixed(2),
      result.addedP50.toFixed(2),
      result.p50Ratio.median.toFixed(2),
      result.p99.median.toFixed(2),
      result.addedP99.toFixed(2),
      result.p99Ratio.median.toFixed(2),
      ...[result.idleBytes, result.loadedBytes, result.highWaterBytes].map(bytes =>
        (bytes / MIB).toFixed(0),
      ),
    ]),
  ]
}

function tellBars(report: Report, results: readonly RungResult[]): void {
  const whole = results.find(({ name }) => name === WHOLE)
  if (whole === undefined) return
  const { cpuRatio, p50Ratio, p99Ratio } = whole
  report.figure('whole path: CPU, times bare reply-from', cpuRatio.median, 'x', 3.3)
  report.figure('whole path: p50 at half load, times bare reply-from', p50Ratio.median, 'x', 3)
  report.figure('whole path: p99 at half load, times bare reply-from', p99Ratio.median, 'x', 3)
  report.figure('whole path: memory, idle', whole.idleBytes / MIB, 'MiB', 180)
  report.figure('whole path: memory, most', whole.highWaterBytes / MIB, 'MiB', 180)
}

/** What the checks that ask nobody add, round by round. */
function tellLocalChecks(report: Report, contenders: readonly Contender[]): void {
  const cpuOf = (name: string) => contenders.find(({ rung }) => rung.name === name)?.cpu
  const [base, framework, local] = [BASE, 'framework', 'local'].map(cpuOf)
  if (base === undefined || framework === undefined || local === undefined) return
  const added = local.map((cpu, round) => cpu - (framework[round] ?? Number.NaN))
  const { median } = ratioOf(added, base)
  report.figure('checks of request, claims, binding: CPU added', median, 'x', 0.3)
}
