// Load from a process of its own: mints mandates at an STS ahead of the time that is measured, then spends one a request.
import { Pool } from 'undici'

/** What is to be sent. */
export interface Load {
  readonly gateway: string
  readonly sts: string
  readonly resource: string
  readonly requests: number
  /** Requests a second; undefined: as fast as 16 callers get their answers. */
  readonly rate: number | undefined
}

/** What the process says: that all mandates of a load are minted, then, when it was told `go`, how long each took. */
export type LoadMessage = 'minted' | { readonly milliseconds: readonly number[] }

type Spend = (token: string) => Promise<void>

const CALLERS = 16

const pools = new Map<string, Pool>()

function pool(url: string): Pool {
  const known = pools.get(url) ?? new Pool(url, { connections: 64, keepAliveTimeout: 60_000 })
  pools.set(url, known)
  return known
}

async function run(load: Load): Promise<void> {
  const tokens = await mint(load)
  const go = new Promise(resolve => process.once('message', resolve))
  tell('minted')
  await go
  const spend = (token: string) => request(load, token)
  const milliseconds =
    load.rate === undefined ? await inTurn(tokens, spend) : await inTime(tokens, load.rate, spend)
  process.once('message', begin)
  tell({ milliseconds })
}

async function mint({ sts, resource, requests }: Load): Promise<string[]> {
  const tokens: string[] = []
  const path = `/mint?${new URLSearchParams({ resource }).toString()}`
  await repeat(requests, async () => {
    const { statusCode, body } = await pool(sts).request({ path, method: 'GET' })
    const token = await body.text()
    if (statusCode !== 200) throw new Error(`the STS answered ${statusCode}: ${token}`)
    tokens.push(token)
  })
  return tokens
}

async function request({ gateway, resource }: Load, token: string): Promise<void> {
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
    if (early > 0) await new Promise(resolve => setTimeout(resolve, early))
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

function tell(message: LoadMessage): void {
  process.send?.(message)
}

function begin(load: Load): void {
  run(load).catch((error: unknown) => {
    console.error(error)
    process.exit(1)
  })
}

process.once('message', begin)
