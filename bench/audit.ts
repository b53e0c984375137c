// Measures what the durability of evidence costs, and fails when the default costs more than its aim.
//
// npm run bench:audit [-- --rounds=9 --slices=20 --rate=150 --dir=DIRECTORY]
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
    rounds: { type: 'string', default: '9' },
    slices: { type: 'string', default: '20' },
    rate: { type: 'string', default: '150' },
    dir: { type: 'string', default: tmpdir() },
  },
})
const ROUNDS = Number(values.rounds)
/** Of a round: each gateway has that many in turn with the others. */
const SLICES = Number(values.slices)
const RATE = Number(values.rate)
/** Requests of a slice. */
const REQUESTS = 100
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
  /** Microseconds of CPU a request, by round. */
  readonly cpu: number[]
  /** Milliseconds, by round. */
  readonly p50: number[]
  readonly p99: number[]
}

const report = new Report()
const ends = new Ends()
try {
  await measure()
} finally {
  await ends.run()
}
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
  const contenders: Contender[] = []
  for (const durability of DURABILITIES) {
    const directory = await mkdtemp(join(values.dir, 'bench-audit-'))
    ends.after(() => rm(directory, { recursive: true, force: true }))
    const gateway = await startGateway(ends, {
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
    contenders.push({ durability, gateway, cpu: [], p50: [], p99: [] })
  }
  const give = startLoad(sts, contenders)
  await give(3 * SLICES, undefined)
  await measureCpu(contenders, redis, give)
  await measureLatency(contenders, redis, give)
}

/** Sends slices of requests; resolves to how long each took, by contender, once what they leave to do is done. */
type Give = (
  slices: number,
  rate: number | undefined,
  begin?: () => Promise<void>,
) => Promise<readonly (readonly number[])[]>

async function measureCpu(all: Contender[], redis: TestRedis, give: Give): Promise<void> {
  const requests = SLICES * REQUESTS
  report.section(`CPU a request, ${ROUNDS} rounds of ${requests} requests to each, by 16 callers`)
  for (let round = 0; round < ROUNDS; round++) {
    await redis.command('DEL', AUDIT_STREAM)
    let before: number[] = []
    await give(SLICES, undefined, async () => {
      before = await Promise.all(all.map(cpuOf))
    })
    const after = await Promise.all(all.map(cpuOf))
    for (const [index, { cpu }] of all.entries()) {
      cpu.push(((after[index] ?? Number.NaN) - (before[index] ?? Number.NaN)) / requests)
    }
  }
  const [relaxed] = all
  const ratios = ({ cpu }: Contender) =>
    cpu.map((spent, round) => spent / (relaxed?.cpu[round] ?? Number.NaN))
  report.table([
    ['', 'us', 'of all rounds', 'x relaxed', 'of all rounds', 'of their middle half'],
    ...all.map(contender => [
      contender.durability,
      median(contender.cpu).toFixed(0),
      spread(contender.cpu, 0),
      median(ratios(contender)).toFixed(3),
      spread(ratios(contender), 3),
      spread(middle(ratios(contender)), 3),
    ]),
  ])
  const strict = median(all.flatMap(one => (one.durability === 'strict' ? ratios(one) : [])))
  report.figure('strict: times relaxed, the median of paired rounds', strict, 'x', AIM)
  if (strict < 1)
    report.note('less than relaxed: what it costs drowns in the noise of this machine')
}

async function measureLatency(all: Contender[], redis: TestRedis, give: Give): Promise<void> {
  const rounds = Math.ceil(ROUNDS / 2)
  report.section(
    `Latency at ${RATE} requests a second, ${rounds} rounds of ${5 * REQUESTS} requests`,
  )
  for (let round = 0; round < rounds; round++) {
    await redis.command('DEL', AUDIT_STREAM)
    const times = await give(5, RATE)
    for (const [index, { p50, p99 }] of all.entries()) {
      const sorted = times[index]?.toSorted((a, b) => a - b) ?? []
      p50.push(sorted[Math.floor(sorted.length * 0.5)] ?? Number.NaN)
      p99.push(sorted[Math.floor(sorted.length * 0.99)] ?? Number.NaN)
    }
  }
  const [relaxed] = all
  report.table([
    ['', 'p50 ms', 'added', 'of all rounds', 'p99 ms', 'added', 'of all rounds'],
    ...all.map(({ durability, p50, p99 }) => [
      durability,
      ...latencyCells(p50, relaxed?.p50),
      ...latencyCells(p99, relaxed?.p99),
    ]),
  ])
}

/** A median, what it adds to that of another, and how far that lies apart. */
function latencyCells(times: readonly number[], base: readonly number[] = []): string[] {
  const added = times.map((time, round) => time - (base[round] ?? Number.NaN))
  return [median(times).toFixed(2), median(added).toFixed(2), spread(added, 2)]
}

/** Starts the process that gives the load. */
function startLoad(sts: string, contenders: readonly Contender[]): Give {
  const child = fork(new URL('load.ts', import.meta.url))
  ends.after(async () => {
    child.kill()
    if (child.exitCode === null) await once(child, 'exit')
  })
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
  return async (slices, rate, begin) => {
    const load = { ...common, slices, rate } satisfies Load
    child.send(load)
    await next()
    await begin?.()
    child.send('go')
    const message = await next()
    if (message === 'minted') throw new Error('the load has no figures')
    await new Promise(resolve => setTimeout(resolve, SETTLE))
    return message.times
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
