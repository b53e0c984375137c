// Load from a process of its own: mints mandates at an STS ahead of the time that is measured, then spends one a request.
import { setTimeout as pause } from 'node:timers/promises'
import { Pool } from 'undici'
import { cpuOf } from './cpu.ts'
import { mint } from './mint.ts'

/** What is to be sent. */
export interface Load {
  /** Whatever befalls the machine meanwhile befalls all of them: each has a slice of the load in turn. */
  readonly gateways: readonly { readonly url: string; readonly pid: number }[]
  readonly slices: number
  /** Requests of a slice. */
  readonly requests: number
  /** Requests a second; undefined: as fast as 16 callers get their answers. */
  readonly rate: number | undefined
  readonly sts: string
  readonly resource: string
}

/** What a gateway's slices took, in their order. */
export interface Taken {
  /** Milliseconds of each request. */
  readonly times: readonly number[]
  /** Microseconds of CPU a request, of each slice. */
  readonly cpu: readonly number[]
}

type Spend = (token: string) => Promise<void>

const CALLERS = 16
/** Milliseconds after which whatever a slice leaves to do is done: batches, and what the journal is told of them. */
const SETTLE = 100

const pools = new Map<string, Pool>()

function pool(url: string): Pool {
  const known = pools.get(url) ?? new Pool(url, { connections: 64, keepAliveTimeout: 60_000 })
  pools.set(url, known)
  return known
}

/** Sends all slices. @returns what each gateway's took */
async function run(load: Load): Promise<readonly Taken[]> {
  const { gateways, slices, requests, rate } = load
  const tokens: string[] = []
  await mint(load, gateways.length * slices * requests, token => tokens.push(token))
  const taken = gateways.map(() => ({ times: new Array<number>(), cpu: new Array<number>() }))
  for (let slice = 0; slice < slices; slice++) {
    for (let turn = 0; turn < gateways.length; turn++) {
      // Another first each time.
      const index = (slice + turn) % gateways.length
      const { url = '', pid = 0 } = gateways[index] ?? {}
      const spend = (token: string) => request(url, load.resource, token)
      const part = tokens.splice(-requests)
      const before = cpuOf(pid)
      const times = rate === undefined ? await inTurn(part, spend) : await inTime(part, rate, spend)
      await pause(SETTLE)
      taken[index]?.times.push(...times)
      taken[index]?.cpu.push((cpuOf(pid) - before) / requests)
    }
  }
  return taken
}

async function request(gateway: string, resource: string, token: string): Promise<void> {
  const headers = { authorization: `Bearer ${token}`, 'x-caracal-resource': resource }
  const answer = await pool(gateway).request({ path: '/v1/x', method: 'GET', headers })
  const text = await answer.body.text()
  if (answer.statusCode !== 200) {
    throw new Error(`the gateway answered ${answer.statusCode}: ${text}`)
  }
}

/** Each caller sends its next request when it has its answer. */
async function inTurn(tokens: readonly string[], spend: Spend): Promise<number[]> {
  const times: number[] = []
  await repeat(tokens.length, async index => {
    const startedAt = performance.now()
    await spend(tokens[index] ?? '')
    times.push(performance.now() - startedAt)
  })
  return times
}

/** Each request has its time, whether those before are answered or not. */
async function inTime(tokens: readonly string[], rate: number, spend: Spend): Promise<number[]> {
  const startedAt = performance.now()
  const answers: Promise<number>[] = []
  for (const [index, token] of tokens.entries()) {
    const due = startedAt + (index * 1_000) / rate
    const early = due - performance.now()
    if (early > 0) await pause(early)
    // From its time on: what this process is late by has made the caller wait too.
    answers.push(spend(token).then(() => performance.now() - due))
  }
  return Promise.all(answers)
}

async function repeat(count: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0
  const caller = async () => {
    while (next < count) await work(next++)
  }
  await Promise.all(Array.from({ length: CALLERS }, caller))
}

process.on('message', (load: Load) => {
  run(load).then(
    taken => process.send?.(taken),
    (error: unknown) => {
      console.error(error)
      process.exit(1)
    },
  )
})
