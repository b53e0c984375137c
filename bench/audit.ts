// Measures what the durability of evidence costs, and fails when the default costs more than its aim.
//
// npm run bench:audit [-- --generations=3 --rounds=3 --slices=20 --rate=150 --dir=DIRECTORY]
import { fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { DEV_ISSUER } from '../dev/sts.ts'
import { AUDIT_STREAM } from '../plugins/audit/sink.ts'
import { type Gateway, KEYS, startGateway } from '../test/gateway/harness.ts'
import { startRedis, type TestRedis } from '../test/redis.ts'
import type { Load, LoadMessage } from './load.ts'
import { Ends, median, Report } from './report.ts'

const { values } = parseArgs({
  options: {
    generations: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '3' },
    slices: { type: 'string', default: '20' },
    rate: { type: 'string', default: '150' },
    dir: { type: 'string', default: tmpdir() },
  },
})
/** Two processes of the same program differ too: each generation has new ones. */
const GENERATIONS = Number(values.generations)
/** Of a generation. */
const ROUNDS = Number(values.rounds)
/** Of a round: each gateway has that many in turn with the others. */
const SLICES = Number(values.slices)
const RATE = Number(values.rate)
/** Requests of a slice. */
const REQUESTS = 100
/** Slices of a round at a fixed rate. */
const TIMED_SLICES = 5
const RESOURCE = 'resource://bench'
/** Milliseconds after which whatever a request leaves to do is done: batches, and what the journal is told of them. */
const SETTLE = 200
/** CPU of `strict` as a multiple of `relaxed`. */
const AIM = 1.05

const DURABILITIES = ['relaxed', 'strict', 'synced'] as const
type Durability = (typeof DURABILITIES)[number]

interface Contender {
  readonly durability: Durability
  readonly gateway: Gateway
}

/** What all rounds have given for a durability, in their order. */
interface Figures {
  /** Microseconds of CPU a request. */
  readonly cpu: number[]
  /** Milliseconds. */
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
try {
  await measure()
} finally {
  await ends.run()
}
tell()
report.end()

async function measure(): Promise<void> {
  const redis = await startRedis(ends)
  const upstream = await startProcess('streams-upstream.ts', {}, /^(\d+)$/)
  const sts = await startProcess(
    '../dev/sts-server.ts',
    {
      PORT: '0',
      RESOURCE,
      UPSTREAM_URL: `http://127.0.0.1:${upstream}`,
      GATEWAY_STS_HMAC_KEY: KEYS.sts,
    },
    /(http:\S+)$/,
  )
  for (let generation = 0; generation < GENERATIONS; generation++) {
    const contenders: Contender[] = []
    for (const durability of DURABILITIES) {
      contenders.push({ durability, gateway: await start(durability, redis, sts) })
    }
    const load = startLoad(sts, contenders)
    await load.give(2 * SLICES, undefined)
    for (let round = 0; round < ROUNDS; round++) {
      await redis.command('DEL', AUDIT_STREAM)
      await measureCpu(contenders, load)
      await measureLatency(contenders, load)
    }
    await load.stop()
    for (const { gateway } of contenders) await gateway.stop()
  }
}

async function start(durability: Durability, redis: TestRedis, sts: string): Promise<Gateway> {
  const directory = await mkdtemp(join(values.dir, 'bench-audit-'))
  ends.after(() => rm(directory, { recursive: true, force: true }))
  return startGateway(ends, {
    CARACAL_MODE: 'stable',
    STS_URL: sts,
    STS_ISSUER: DEV_ISSUER,
    REDIS_URL: redis.url,
    GATEWAY_STS_HMAC_KEY: KEYS.sts,
    STREAMS_HMAC_KEY: KEYS.streams,
    AUDIT_HMAC_KEY: KEYS.audit,
    METRICS_BEARER: 'metrics-bearer',
    AUDIT_DURABILITY: durability,
    AUDIT_REPLAY_DIR: directory,
  })
}

interface LoadProcess {
  /**
   * Sends slices of requests.
   *
   * @param begin called when all is ready to go
   * @returns milliseconds that each took, by contender, once what they leave to do is done
   */
  give(
    slices: number,
    rate: number | undefined,
    begin?: () => Promise<void>,
  ): Promise<readonly (readonly number[])[]>
  stop(): Promise<void>
}

async function measureCpu(contenders: readonly Contender[], load: LoadProcess): Promise<void> {
  let before: number[] = []
  await load.give(SLICES, undefined, async () => {
    before = await Promise.all(contenders.map(cpuOf))
  })
  const after = await Promise.all(contenders.map(cpuOf))
  for (const [index, { durability }] of contenders.entries()) {
    const spent = (after[index] ?? Number.NaN) - (before[index] ?? Number.NaN)
    figures[durability].cpu.push(spent / (SLICES * REQUESTS))
  }
}

async function measureLatency(contenders: readonly Contender[], load: LoadProcess): Promise<void> {
  const times = await load.give(TIMED_SLICES, RATE)
  for (const [index, { durability }] of contenders.entries()) {
    const sorted = times[index]?.toSorted((a, b) => a - b) ?? []
    const { p50, p99 } = figures[durability]
    p50.push(sorted[Math.floor(sorted.length * 0.5)] ?? Number.NaN)
    p99.push(sorted[Math.floor(sorted.length * 0.99)] ?? Number.NaN)
  }
}

function tell(): void {
  const rounds = `${GENERATIONS * ROUNDS} rounds with ${GENERATIONS} processes each`
  report.section(`CPU a request: ${rounds}, ${SLICES * REQUESTS} requests a round, 16 callers`)
  report.table([
    ['', 'us', 'of all rounds', 'x relaxed', 'of all rounds', 'of their middle half'],
    ...DURABILITIES.map(durability => {
      const { cpu } = figures[durability]
      const ratios = ratiosOf(durability)
      return [
        durability,
        median(cpu).toFixed(0),
        spread(cpu, 0),
        median(ratios).toFixed(3),
        spread(ratios, 3),
        spread(middle(ratios), 3),
      ]
    }),
  ])
  const strict = median(ratiosOf('strict'))
  report.figure('strict: times relaxed, the median of paired rounds', strict, 'x', AIM)
  if (strict < 1) report.note('less than relaxed: its cost drowns in the noise of this machine')

  report.section(`Latency at ${RATE} requests a second, ${TIMED_SLICES * REQUESTS} a round`)
  const { p50: least50, p99: least99 } = figures.relaxed
  report.table([
    ['', 'p50 ms', 'added', 'of all rounds', 'p99 ms', 'added', 'of all rounds'],
    ...DURABILITIES.map(durability => {
      const { p50, p99 } = figures[durability]
      return [durability, ...latencyCells(p50, least50), ...latencyCells(p99, least99)]
    }),
  ])
}

/** CPU as a multiple of that of `relaxed` in the same round. */
function ratiosOf(durability: Durability): number[] {
  const { cpu } = figures.relaxed
  return figures[durability].cpu.map((spent, round) => spent / (cpu[round] ?? Number.NaN))
}

/** A median, what it adds to that of another, and how far that lies apart. */
function latencyCells(times: readonly number[], base: readonly number[]): string[] {
  const added = times.map((time, round) => time - (base[round] ?? Number.NaN))
  return [median(times).toFixed(2), median(added).toFixed(2), spread(added, 2)]
}

/** Starts the process that gives the load. */
function startLoad(sts: string, contenders: readonly Contender[]): LoadProcess {
  const child = fork(new URL('load.ts', import.meta.url))
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill()
    await once(child, 'exit')
  }
  ends.after(stop)
  const next = () =>
    new Promise<LoadMessage>((resolve, reject) => {
      const onExit = () => reject(new Error('the load broke off'))
      child.once('exit', onExit)
      child.once('message', (message: LoadMessage) => {
        child.off('exit', onExit)
        resolve(message)
      })
    })
  const gateways = contenders.map(({ gateway }) => gateway.url)
  const common = { gateways, requests: REQUESTS, sts, resource: RESOURCE }
  return {
    async give(slices, rate, begin) {
      child.send({ ...common, slices, rate } satisfies Load)
      await next()
      await begin?.()
      child.send('go')
      const message = await next()
      if (message === 'minted') throw new Error('the load has no figures')
      await new Promise(resolve => setTimeout(resolve, SETTLE))
      return message.times
    },
    stop,
  }
}

/** Microseconds that a process's threads have run so far. */
async function cpuOf({ gateway }: Contender): Promise<number> {
  const threads = `/proc/${gateway.child.pid}/task`
  let sum = 0
  for (const thread of await readdir(threads)) {
    const [ran] = (await readFile(join(threads, thread, 'schedstat'), 'utf8')).split(' ')
    sum += Number(ran) / 1_000
  }
  return sum
}

/** Starts a script of this folder; resolves to what its first line matches. */
async function startProcess(
  script: string,
  env: Readonly<Record<string, string>>,
  pattern: RegExp,
): Promise<string> {
  const child = spawn(process.execPath, [fileURLToPath(new URL(script, import.meta.url))], {
    env: { PATH: process.env['PATH'] ?? '', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  ends.after(async () => {
    child.kill()
    await once(child, 'exit')
  })
  const [line] = await once(createInterface({ input: child.stdout }), 'line')
  const found = pattern.exec(String(line))?.[1]
  if (found === undefined) throw new Error(`${script} says: ${line}`)
  return found
}

function spread(numbers: readonly number[], digits: number): string {
  return `${Math.min(...numbers).toFixed(digits)} to ${Math.max(...numbers).toFixed(digits)}`
}

/** What is left without the lowest and the highest quarter. */
function middle(numbers: readonly number[]): number[] {
  const quarter = Math.floor(numbers.length / 4)
  return numbers.toSorted((a, b) => a - b).slice(quarter, numbers.length - quarter)
}
