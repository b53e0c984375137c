// A flood of requests from a process of its own, by callers that wait for their answers or by the clock whatever becomes
// of those before. A mandate that was refused as overloaded was not spent, and serves again.
import { setTimeout as pause } from 'node:timers/promises'
import { cpuOf } from './cpu.ts'
import { mint } from './mint.ts'
import { RawClient } from './raw-client.ts'
import { type SigningKey, signerOf } from './signer.ts'

/** What is to be sent. */
export interface Flood {
  readonly port: number
  /** Callers, each of which sends its next request when it has its answer; or requests a second. */
  readonly callers?: number | undefined
  readonly rate?: number | undefined
  /** Connections at a `rate`; 2,000 unless told, twice what may be in flight. */
  readonly connections?: number | undefined
  /** What is measured, after a time in which queues fill. */
  readonly seconds: number
  /** That time, in milliseconds; a second and a half unless told. */
  readonly ramp?: number | undefined
  /** The process under test; undefined: its CPU is not asked for. */
  readonly pid?: number | undefined
  /** What is presented; undefined: nothing. */
  readonly mandates?: Mandates | undefined
  /** A request's bytes, in place of those that are made of mandates. */
  readonly request?: string | undefined
}

/** Mandates for a resource, so many of them: from an STS that mints, or signed here with the key of one that does not. */
export interface Mandates {
  readonly resource: string
  readonly count: number
  readonly sts?: string
  readonly key?: SigningKey
  /** Whether they are presented over and over, to somebody who does not spend them. */
  readonly reused?: boolean
}

/** What came of it. */
export interface Flooded {
  /** All answers, those of the first moment included. */
  readonly answers: number
  /** Answers a second, by status. */
  readonly perSecond: Readonly<Record<string, number>>
  /** Milliseconds until an answer of 200, sorted. */
  readonly times: readonly number[]
  /** Requests that had no answer at the end. */
  readonly lost: number
  /** Microseconds of CPU that the process under test spent for each answer; NaN when none was named. */
  readonly cpu: number
  /** Share of the time that it was running. */
  readonly busy: number
}

const CONNECTIONS = 2_000
const RAMP = 1_500
/** Milliseconds between two looks at the clock. */
const TICK = 1

async function flood(load: Flood): Promise<Flooded> {
  const { port, callers, rate, seconds, connections = CONNECTIONS, ramp = RAMP, pid } = load
  const next = await requestsOf(load)
  const client = new RawClient(port, callers ?? connections)
  if (rate !== undefined) await client.open('GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n')
  const counts: Record<string, number> = {}
  const times: number[] = []
  let answers = 0
  let counted = 0
  let lost = 0
  const now = { measuring: false, over: false }
  const one = async () => {
    const request = next.take()
    const startedAt = performance.now()
    const status = await client.send(request)
    answers += 1
    if (status === 503) next.giveBack(request)
    if (!now.measuring) return
    counted += 1
    counts[status] = (counts[status] ?? 0) + 1
    if (status === 200) times.push(performance.now() - startedAt)
  }
  const measure = async () => {
    await pause(ramp)
    const [before, begin] = [spent(pid), performance.now()]
    now.measuring = true
    await pause(seconds * 1_000)
    now.measuring = false
    const [after, end] = [spent(pid), performance.now()]
    now.over = true
    return { cpu: after - before, milliseconds: end - begin }
  }
  const measured = measure()
  const caller = async () => {
    while (!now.over) await one()
  }
  if (callers !== undefined) await Promise.all(Array.from({ length: callers }, caller))
  if (rate !== undefined) {
    const fail = (error: Error) => {
      if (!now.over) throw error
      lost += 1
    }
    const startedAt = performance.now()
    for (let sent = 0; !now.over; ) {
      const due = ((performance.now() - startedAt) / 1_000) * rate
      for (; sent < due; sent++) one().catch(fail)
      await pause(TICK)
    }
  }
  const { cpu, milliseconds } = await measured
  client.close()
  const perSecond = Object.fromEntries(
    Object.entries(counts).map(([status, count]) => [status, (count / milliseconds) * 1_000]),
  )
  return {
    answers,
    perSecond,
    times: times.toSorted((a, b) => a - b),
    lost,
    cpu: cpu / counted,
    busy: cpu / 1_000 / milliseconds,
  }
}

function spent(pid: number | undefined): number {
  return pid === undefined ? Number.NaN : cpuOf(pid)
}

interface Requests {
  /** @throws Error when there is none left */
  take(): string
  giveBack(request: string): void
}

async function requestsOf({ mandates, request }: Flood): Promise<Requests> {
  if (request !== undefined || mandates === undefined) {
    const same = request ?? requestWith('')
    return { take: () => same, giveBack: () => undefined }
  }
  const requests = await presenting(mandates)
  let turn = 0
  return {
    take() {
      const taken = mandates.reused ? requests[turn++ % requests.length] : requests.pop()
      if (taken === undefined) throw new Error('too few mandates were minted')
      return taken
    },
    giveBack(taken) {
      if (!mandates.reused) requests.push(taken)
    },
  }
}

function requestWith(headers: string): string {
  return `GET /v1/x HTTP/1.1\r\nHost: gateway\r\n${headers}\r\n`
}

/** What was minted and not spent yet: all floods of a process present mandates of one STS. */
const minted: string[] = []
const reused: string[] = []

async function presenting(mandates: Mandates): Promise<string[]> {
  const { resource, count, sts, key } = mandates
  const requests = mandates.reused ? reused : minted
  const take = (token: string) =>
    requests.push(
      requestWith(`Authorization: Bearer ${token}\r\nX-Caracal-Resource: ${resource}\r\n`),
    )
  if (sts !== undefined) await mint({ sts, resource }, count - requests.length, take)
  if (key !== undefined) {
    const sign = signerOf(key)
    while (requests.length < count) take(sign(resource))
  }
  return requests
}

process.on('message', (message: Flood) => {
  flood(message).then(
    flooded => process.send?.(flooded),
    (error: unknown) => {
      console.error(error)
      process.exit(1)
    },
  )
})
