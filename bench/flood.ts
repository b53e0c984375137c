// A flood of requests from a process of its own, by callers that wait for their answers or by the clock whatever becomes
// of those before. A mandate that was refused as overloaded was not spent, and serves again.
import { setTimeout as pause } from 'node:timers/promises'
import { mint } from './mint.ts'
import { RawClient } from './raw-client.ts'

/** What is to be sent. */
export interface Flood {
  readonly port: number
  /** Callers, each of which sends its next request when it has its answer; or requests a second. */
  readonly callers?: number | undefined
  readonly rate?: number | undefined
  /** What is measured, after a second and a half in which queues fill. */
  readonly seconds: number
  /** Where mandates are minted, `count` of them; undefined: none is presented. */
  readonly mandates?: { readonly sts: string; readonly resource: string; readonly count: number }
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
}

/** Of callers that do not wait for one another: twice what may be in flight. */
const CONNECTIONS = 2_000
const RAMP = 1_500
/** Milliseconds between two looks at the clock. */
const TICK = 2

async function flood({ port, callers, rate, seconds, mandates }: Flood): Promise<Flooded> {
  const requests = mandates === undefined ? undefined : await requestsOf(mandates)
  const client = new RawClient(port, callers ?? CONNECTIONS)
  if (rate !== undefined) await client.open('GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n')
  const counts: Record<string, number> = {}
  const times: number[] = []
  let answers = 0
  let lost = 0
  const begin = performance.now() + RAMP
  const end = begin + seconds * 1_000
  const one = async () => {
    const request = requests === undefined ? requestWith('') : requests.pop()
    if (request === undefined) throw new Error('too few mandates were minted')
    const startedAt = performance.now()
    const status = await client.send(request)
    const now = performance.now()
    answers += 1
    if (status === 503) requests?.push(request)
    if (now < begin || now > end) return
    counts[status] = (counts[status] ?? 0) + 1
    if (status === 200) times.push(now - startedAt)
  }
  const caller = async () => {
    while (performance.now() < end) await one()
  }
  if (callers !== undefined) await Promise.all(Array.from({ length: callers }, caller))
  if (rate !== undefined) {
    const fail = (error: Error) => {
      if (performance.now() < end) throw error
      lost += 1
    }
    const startedAt = performance.now()
    for (let sent = 0; performance.now() < end; ) {
      const due = ((performance.now() - startedAt) / 1_000) * rate
      for (; sent < due; sent++) one().catch(fail)
      await pause(TICK)
    }
  }
  client.close()
  const perSecond = Object.fromEntries(
    Object.entries(counts).map(([status, count]) => [status, count / seconds]),
  )
  return { answers, perSecond, times: times.toSorted((a, b) => a - b), lost }
}

function requestWith(headers: string): string {
  return `GET /v1/x HTTP/1.1\r\nHost: gateway\r\n${headers}\r\n`
}

/** What was minted and not spent yet: all floods of a process present mandates of one STS. */
const minted: string[] = []

async function requestsOf(mandates: NonNullable<Flood['mandates']>): Promise<string[]> {
  const { resource, count } = mandates
  await mint(mandates, count - minted.length, token =>
    minted.push(
      requestWith(`Authorization: Bearer ${token}\r\nX-Caracal-Resource: ${resource}\r\n`),
    ),
  )
  return minted
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
