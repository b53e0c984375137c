// Measures whether a governed request costs the same however many bindings and revocations there are.
import { setTimeout as pause } from 'node:timers/promises'
import { request } from 'undici'
import { REVOCATIONS, signedRevocation } from '../test/gateway/support.ts'
import { type Cleanup, startRedis, type TestRedis } from '../test/redis.ts'
import { until } from '../test/until.ts'
import { memoryOf } from './cpu.ts'
import type { Flooder } from './ladder.ts'
import { type Report, type Spread, spreadOf } from './report.ts'
import { ZONE } from './signer.ts'
import { METRICS_BEARER, type Stage, writeBindings } from './stage.ts'
import { startGateway, type Subject } from './subject.ts'

/** What a governed request costs with so many of both. */
export interface GrowthResult {
  readonly bindings: number
  readonly revocations: number
  /** Microseconds of CPU. */
  readonly cpu: Spread
  /** Its cheapest round, times that with one of each. */
  readonly times: number
  readonly residentBytes: number
}

const SIZES = [
  { bindings: 1, revocations: 1 },
  { bindings: 1_000, revocations: 1 },
  { bindings: 100_000, revocations: 1 },
  { bindings: 1, revocations: 1_000_000 },
] as const
const CALLERS = 32
const RAMP = 300
const WARM_UP = 4
const MOST = 6_000
const BATCH = 5_000
/** What is flat: times what one of each costs. */
const FLAT = 1.15

/** Measures all sizes in turn; prints as it goes. */
export async function measureGrowth(
  ends: Cleanup,
  stage: Stage,
  flooder: Flooder,
  report: Report,
  { rounds, seconds }: { readonly rounds: number; readonly seconds: number },
): Promise<readonly GrowthResult[]> {
  report.section(
    `CPU of a governed request by what the gateway holds: ${rounds} rounds of ${seconds} s`,
  )
  const contenders: { size: (typeof SIZES)[number]; subject: Subject; cpu: number[] }[] = []
  for (const size of SIZES) {
    const { bindings, revocations } = size
    // A Redis of its own: who reads a million revocations is not to share it with who reads one.
    const redis = await startRedis(ends)
    const file = await writeBindings(stage.folder, bindings)
    const env = { ...stage.env, REDIS_URL: redis.url, BINDINGS_FILE: file }
    const subject = await startGateway(ends, env)
    await revoke(redis, revocations)
    await until(async () => (await activeRevocations(subject)) >= revocations, 300_000)
    contenders.push({ size, subject, cpu: [] })
  }
  for (let round = 0; round <= rounds; round++) {
    const time = round === 0 ? WARM_UP : seconds
    for (let turn = 0; turn < contenders.length; turn++) {
      const contender = contenders[(round + turn) % contenders.length]
      if (contender === undefined) continue
      const { port, pid } = contender.subject
      const mandates = stage.mandates(Math.ceil(MOST * (time + RAMP / 1_000)))
      const { cpu, perSecond } = await flooder.give({
        port,
        pid,
        callers: CALLERS,
        ramp: RAMP,
        seconds: time,
        mandates,
      })
      if (Object.keys(perSecond).join() !== '200')
        throw new Error(`answered ${JSON.stringify(perSecond)}`)
      if (round > 0) contender.cpu.push(cpu)
      await pause(100)
    }
  }
  // Noise makes a round dearer, never cheaper: of each its cheapest round is compared.
  const cheapest = contenders.map(({ cpu }) => Math.min(...cpu))
  const [first = Number.NaN] = cheapest
  const results = contenders.map(({ size, subject, cpu }, index): GrowthResult => {
    const times = (cheapest[index] ?? Number.NaN) / first
    return { ...size, cpu: spreadOf(cpu), times, residentBytes: memoryOf(subject.pid).resident }
  })
  for (const { bindings, revocations, times } of results.slice(1)) {
    const name = `${bindings} bindings, ${revocations} revocations`
    report.figure(`${name}: CPU, times one of each`, times, 'x', FLAT)
  }
  for (const { subject } of contenders) await subject.stop()
  return results
}

/** Publishes so many revocations of others. */
async function revoke(redis: TestRedis, count: number): Promise<void> {
  for (let at = 0; at < count; at += BATCH) {
    const added = Array.from({ length: Math.min(BATCH, count - at) }, (_, n) =>
      redis.add(REVOCATIONS, signedRevocation({ zone_id: ZONE, session_id: `session-${at + n}` })),
    )
    await Promise.all(added)
  }
}

async function activeRevocations({ port }: Subject): Promise<number> {
  const headers = { authorization: `Bearer ${METRICS_BEARER}` }
  const { body } = await request(`http://127.0.0.1:${port}/metrics`, { headers })
  return Number(/^caracal_gateway_revocations_active (\S+)/m.exec(await body.text())?.[1])
}
