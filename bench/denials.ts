// Measures what it costs to say no, beside a request that bare reply-from passes on.
import type { Cleanup } from '../test/redis.ts'
import type { Flooder } from './ladder.ts'
import { ratioOf, type Report, type Spread, spreadOf } from './report.ts'
import { signerOf } from './signer.ts'
import { RESOURCE, type Stage } from './stage.ts'
import { startBare, startGateway, type Subject } from './subject.ts'

/** What one refusal costs. */
export interface DenialResult {
  readonly check: string
  /** Microseconds of CPU. */
  readonly cpu: Spread
  /** Times a request that bare reply-from passes on, round by round. */
  readonly ratio: Spread
}

interface Refusal {
  readonly check: string
  readonly status: string
  readonly request: string
  /** Times the CPU of bare reply-from; undefined: only reported. */
  readonly bound?: number
}

const CALLERS = 32
const RAMP = 300
/** Seconds of each load before the first round, which counts for nothing. */
const WARM_UP = 3
/** A refusal before any signature is to cost less than half of a request passed on. */
const BOUND = 0.5

/** Measures the refusals in turn with bare reply-from; prints as it goes. */
export async function measureDenials(
  ends: Cleanup,
  stage: Stage,
  flooder: Flooder,
  report: Report,
  { rounds, seconds }: { readonly rounds: number; readonly seconds: number },
): Promise<readonly DenialResult[]> {
  const [bare, gateway] = [
    await startBare(ends, stage.upstream),
    await startGateway(ends, stage.env),
  ]
  const refusals = refusalsOf(stage)
  const base: number[] = []
  const costs = refusals.map(() => new Array<number>())
  const give = ({ port, pid }: Subject, time: number, request?: string) =>
    flooder.give({
      port,
      pid,
      callers: CALLERS,
      ramp: RAMP,
      seconds: time,
      mandates: stage.mandates(64, { reused: true }),
      request,
    })
  for (let round = 0; round <= rounds; round++) {
    const time = round === 0 ? WARM_UP : seconds
    const passed = await give(bare, time)
    if (round > 0) base.push(passed.cpu)
    for (const [index, { check, status, request }] of refusals.entries()) {
      const refused = await give(gateway, time, request)
      if (Object.keys(refused.perSecond).join() !== status) {
        throw new Error(`${check} was answered ${JSON.stringify(refused.perSecond)}`)
      }
      if (round > 0) costs[index]?.push(refused.cpu)
    }
  }
  await gateway.stop()
  await bare.stop()
  report.section(
    `What a refusal costs: ${rounds} rounds of ${seconds} s, bare reply-from: ${spreadOf(base).median.toFixed(0)} us`,
  )
  return refusals.map(({ check, bound }, index) => {
    const cpu = costs[index] ?? []
    const ratio = ratioOf(cpu, base)
    report.figure(`${check}: CPU, times bare reply-from`, ratio.median, 'x', bound)
    return { check, cpu: spreadOf(cpu), ratio }
  })
}

function refusalsOf({ key }: Stage): Refusal[] {
  const sign = signerOf(key)
  const token = sign(RESOURCE)
  const expiring = sign(RESOURCE, { exp: Math.floor(Date.now() / 1_000) })
  // Another's signature: of the right form, so that it has to be verified.
  const forged = [...token.split('.').slice(0, 2), sign(RESOURCE).split('.')[2]].join('.')
  return [
    { check: 'missing_bearer', status: '401', request: requestWith('/v1/x'), bound: BOUND },
    {
      check: 'expiring_bearer',
      status: '401',
      request: requestWith('/v1/x', expiring),
      bound: BOUND,
    },
    {
      check: 'path_traversal',
      status: '400',
      request: requestWith('/v1/%2e%2e/x', token),
      bound: BOUND,
    },
    { check: 'invalid_signature', status: '401', request: requestWith('/v1/x', forged) },
  ]
}

function requestWith(path: string, token?: string): string {
  const bearer = token === undefined ? '' : `Authorization: Bearer ${token}\r\n`
  return `GET ${path} HTTP/1.1\r\nHost: gateway\r\n${bearer}X-Caracal-Resource: ${RESOURCE}\r\n\r\n`
}
