// Measures what a core and a Redis carry, what the gateway still does when more is asked of it than it can do, and what it
// costs to say no; fails when that is less, or more, than it must be.
//
// npm run bench:overload [-- --rounds=5 --seconds=4]
import { parseArgs } from 'node:util'
import { request } from 'undici'
import { type Gateway, startGateway } from '../test/gateway/harness.ts'
import type { TestRedis } from '../test/redis.ts'
import { RESOURCE, startCounterparts } from './counterparts.ts'
import { cpuOf } from './cpu.ts'
import type { Flood, Flooded } from './flood.ts'
import { type Server, startServer, startWorker, type Worker } from './processes.ts'
import { RawClient } from './raw-client.ts'
import { Ends, median, Report } from './report.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '4' },
  },
})
const ROUNDS = Number(values.rounds)
/** Of each load of a round. */
const SECONDS = Number(values.seconds)
/** As many as keep the gateway busy without a queue that grows. */
const CALLERS = 32
/** Goodput at a multiple of the load at the peak, as a share of the peak. */
const AIMS = [
  { times: 2, share: 0.8 },
  { times: 4, share: 0.6 },
] as const
/** CPU of an answer that says no, as a multiple of a request that bare reply-from passes on. */
const COST_AIM = 0.25
const COST_CALLERS = 16
const COST_SECONDS = 1

/** Requests a second that the gateway cannot be expected to answer. */
const MOST = 3_000

type Flooder = Worker<Flood, Flooded>

const report = new Report()
const ends = new Ends()
await ends.during(measure)
report.end()

async function measure(): Promise<void> {
  const { redis, sts, upstream, env } = await startCounterparts(ends)
  const start = (own: Record<string, string>) => startGateway(ends, { ...env, ...own })
  const flooder: Flooder = startWorker(ends, 'flood.ts')
  const bare = await startServer(ends, 'bare.ts', { UPSTREAM: upstream }, /^(\d+)$/)
  const gateway = await start({})
  await measureShares(flooder, { gateway, bare, redis, sts })
  await measureGoodput(flooder, gateway, sts)
  await gateway.stop()
  // Its one place is taken by a request that the upstream does not answer: everyone else hears no.
  const full = await start({ MAX_IN_FLIGHT: '1', UPSTREAM_TIMEOUT: '10m', READ_TIMEOUT: '20m' })
  await hold(full, sts)
  await measureCost(flooder, full, bare)
}

interface Parts {
  readonly gateway: Gateway
  readonly bare: Server
  readonly redis: TestRedis
  readonly sts: string
}

/** What one core carries of governed requests, and what they ask of Redis. */
async function measureShares(flooder: Flooder, { gateway, bare, redis, sts }: Parts) {
  const load = { callers: CALLERS, seconds: SECONDS }
  const shares = { cpu: new Array<number>(), rate: new Array<number>(), redis: new Array<number>() }
  let bytes = Number.NaN
  for (let round = 0; round <= ROUNDS; round++) {
    const mandates = { sts, resource: RESOURCE, count: MOST * (SECONDS + 2) }
    const [own, others] = [gateway.child.pid ?? 0, redis.pid]
    const before = [cpuOf(own), cpuOf(others), await memoryOf(redis)]
    const governed = await flooder.give({ port: gateway.port, mandates, ...load })
    const after = [cpuOf(own), cpuOf(others), await memoryOf(redis)]
    const [spent, asked, kept] = after.map(
      (figure, n) => (figure - (before[n] ?? 0)) / governed.answers,
    )
    const plainBefore = cpuOf(bare.child.pid ?? 0)
    const plain = await flooder.give({ port: Number(bare.said), ...load })
    const plainSpent = (cpuOf(bare.child.pid ?? 0) - plainBefore) / plain.answers
    // The first round warms both up.
    if (round === 0 || spent === undefined || asked === undefined) continue
    shares.cpu.push(spent / plainSpent)
    shares.rate.push((governed.perSecond['200'] ?? 0) / (plain.perSecond['200'] ?? Number.NaN))
    shares.redis.push(asked / spent)
    bytes = kept ?? Number.NaN
  }
  report.section(
    `A governed request, ${CALLERS} callers, ${ROUNDS} rounds of ${SECONDS} s, medians`,
  )
  report.figure('its CPU, times that of bare reply-from', median(shares.cpu), 'x')
  report.figure('requests a second, share of bare reply-from’s', median(shares.rate), 'x')
  report.figure('CPU of Redis, share of the gateway’s', median(shares.redis), 'x')
  report.figure('memory of Redis, its spent id and its evidence', bytes, 'bytes')
}

async function memoryOf(redis: TestRedis): Promise<number> {
  const text = String(await redis.command('INFO', 'memory'))
  return Number(/used_memory:(\d+)/.exec(text)?.[1])
}

async function measureGoodput(flooder: Flooder, gateway: Gateway, sts: string): Promise<void> {
  const { port } = gateway
  const flood = (load: Partial<Flood>, most: number) => {
    // Some are on their way when it ends, and what is then left of them serves again.
    const mandates = { sts, resource: RESOURCE, count: Math.ceil(most * (SECONDS + 3)) }
    return flooder.give({ port, seconds: SECONDS, mandates, ...load })
  }
  const shares = AIMS.map((): number[] => [])
  const rows = [['', 'asked/s', '200/s', '503/s', 'left', 'p50 ms', 'p99 ms', 'of peak']]
  const row = (name: string, asked: number, flooded: Flooded, share: number) => {
    const { perSecond, times, lost } = flooded
    const { 200: good = 0, 503: refused = 0, ...others } = perSecond
    const rest = Object.values(others).reduce((sum, count) => sum + count, lost)
    rows.push([
      name,
      ...[asked, good, refused, rest].map(number => number.toFixed(0)),
      ...[0.5, 0.99].map(part => (times[Math.floor(times.length * part)] ?? Number.NaN).toFixed(0)),
      share.toFixed(2),
    ])
  }
  for (let round = 0; round < ROUNDS; round++) {
    const peak = await flood({ callers: CALLERS }, MOST)
    const most = peak.perSecond['200'] ?? Number.NaN
    row(`round ${round + 1}: peak`, most, peak, 1)
    for (const [index, { times }] of AIMS.entries()) {
      const flooded = await flood({ rate: most * times }, most * times)
      const share = (flooded.perSecond['200'] ?? 0) / most
      shares[index]?.push(share)
      row(`${times} times that`, most * times, flooded, share)
    }
  }
  report.section(`Goodput, ${SECONDS} s each`)
  report.table(rows)
  for (const [index, { times, share }] of AIMS.entries()) {
    const lacking = 1 - median(shares[index] ?? [])
    const name = `peak goodput that ${times} times the load takes away, median`
    report.figure(name, lacking, 'of it', Number((1 - share).toFixed(2)))
  }
}

/** CPU of a process for each of the answers that a flood gets from it, in microseconds. */
async function costOf(
  flooder: Flooder,
  pid: number,
  port: number,
  status: string,
): Promise<number> {
  const before = cpuOf(pid)
  const flooded = await flooder.give({ port, callers: COST_CALLERS, seconds: COST_SECONDS })
  const spent = cpuOf(pid) - before
  const strangers = Object.keys(flooded.perSecond).filter(other => other !== status)
  if (strangers.length > 0) throw new Error(`answers of ${strangers.join(', ')}, not ${status}`)
  return spent / flooded.answers
}

/** Resolves when the gateway has a request in flight that stays there. */
async function hold(gateway: Gateway, sts: string): Promise<void> {
  const minted = await request(`${sts}/mint`, { query: { resource: RESOURCE } })
  const token = await minted.body.text()
  const headers = { authorization: `Bearer ${token}`, 'x-caracal-resource': RESOURCE }
  const held = request(`${gateway.url}/held`, { headers, headersTimeout: 0 })
  // It ends with the gateway.
  held.catch(() => undefined)
  const client = new RawClient(gateway.port)
  while ((await client.send('GET /v1/x HTTP/1.1\r\nHost: gateway\r\n\r\n')) !== 503);
  client.close()
}

async function measureCost(flooder: Flooder, full: Gateway, bare: Server): Promise<void> {
  const costs = { bare: new Array<number>(), refusal: new Array<number>() }
  for (let round = 0; round <= 2 * ROUNDS; round++) {
    const passed = await costOf(flooder, bare.child.pid ?? 0, Number(bare.said), '200')
    const refused = await costOf(flooder, full.child.pid ?? 0, full.port, '503')
    // The first round warms both up.
    if (round === 0) continue
    costs.bare.push(passed)
    costs.refusal.push(refused)
  }
  report.section('CPU of an answer')
  report.figure('bare reply-from, a request passed on', median(costs.bare), 'us')
  report.figure('the gateway, `overloaded`', median(costs.refusal), 'us')
  const ratios = costs.refusal.map((cost, round) => cost / (costs.bare[round] ?? Number.NaN))
  report.figure('times bare reply-from, median of paired rounds', median(ratios), 'x', COST_AIM)
}
