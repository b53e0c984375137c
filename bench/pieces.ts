// What single pieces of the path cost, beside other ways to do them: what was chosen, and what was tried and did not help.
//
// npm run bench:pieces [-- --rounds=9]
import { createPublicKey, verify } from 'node:crypto'
import { parseArgs } from 'node:util'
import { createVerifier } from 'fast-jwt'
import { Redis } from 'ioredis'
import { Pool } from 'undici'
import { BoundedRequest } from '../lib/bounded-request.ts'
import { exchangeBody } from '../lib/exchange.ts'
import { stackless } from '../lib/stackless.ts'
import { startRedis } from '../test/redis.ts'
import { startServer } from './processes.ts'
import { Ends, median, ratioOf, Report } from './report.ts'
import { createSigningKey, signerOf, ZONE } from './signer.ts'

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '9' } } })
const ROUNDS = Number(values.rounds)

/** One way to do a piece: does it so many times. */
type Way = (times: number) => void | Promise<void>

const report = new Report()
const ends = new Ends()

/** Measures ways in turn; all are multiples of the first, which is the gateway's. */
async function compare(title: string, times: number, ways: Readonly<Record<string, Way>>) {
  const costs = new Map(Object.keys(ways).map(name => [name, new Array<number>()]))
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [name, way] of Object.entries(ways)) {
      const before = process.cpuUsage()
      await way(times)
      const { user, system } = process.cpuUsage(before)
      // The first round warms up.
      if (round > 0) costs.get(name)?.push((user + system) / times)
    }
  }
  report.section(title)
  const [base = []] = costs.values()
  report.table([
    ['', 'us', 'x'],
    ...[...costs].map(([name, cost]) => [
      name,
      median(cost).toFixed(1),
      ratioOf(cost, base).median.toFixed(2),
    ]),
  ])
}

const repeated =
  (work: () => unknown): Way =>
  times => {
    for (let i = 0; i < times; i++) work()
  }

async function measure(): Promise<void> {
  const key = createSigningKey()
  const token = signerOf(key)('resource://bench')
  await measureSignature(key, token)
  await measureBody(token)
  await measureStack()
  await measureExchange()
  await measureClaims()
}

async function measureSignature(
  { publicJwk }: ReturnType<typeof createSigningKey>,
  token: string,
): Promise<void> {
  const publicKey = createPublicKey({ format: 'jwk', key: publicJwk })
  const pem = publicKey.export({ type: 'spki', format: 'pem' }).toString()
  const verifier = createVerifier({ key: pem, algorithms: ['ES256'], cache: false })
  const signed = Buffer.from(token.slice(0, token.lastIndexOf('.')))
  const signature = Buffer.from(token.slice(token.lastIndexOf('.') + 1), 'base64url')
  const joseKey = { key: publicKey, dsaEncoding: 'ieee-p1363' } as const
  const jobs: Promise<boolean>[] = []
  const asynchronous = () =>
    new Promise<boolean>((resolve, reject) => {
      verify('sha256', signed, joseKey, signature, (error, good) =>
        error === null ? resolve(good) : reject(error),
      )
    })
  await compare('A signature', 400, {
    'fast-jwt, errors without stacks': repeated(() => stackless(() => verifier(token))),
    'fast-jwt': repeated(() => verifier(token)),
    'node:crypto, JOSE form': repeated(() => verify('sha256', signed, joseKey, signature)),
    'node:crypto, on the thread pool': async times => {
      for (let i = 0; i < times; i++) jobs.push(asynchronous())
      await Promise.all(jobs.splice(0))
    },
  })
}

async function measureBody(token: string): Promise<void> {
  const request = {
    zoneId: ZONE,
    clientId: 'bench-client',
    token,
    resource: 'resource://bench',
    method: 'GET',
    path: '/v1/invoices/42',
    requestId: '00000000-0000-4000-8000-000000000000',
  }
  await compare('The body of an exchange', 5_000, {
    encodeURIComponent: repeated(() => exchangeBody(request)),
    URLSearchParams: repeated(() => new URLSearchParams({ ...request, a: 'b', c: 'd' }).toString()),
  })
}

async function measureStack(): Promise<void> {
  const at = (depth: number): Error => (depth === 0 ? new Error('x') : at(depth - 1))
  await compare('An error', 5_000, {
    'without a stack': repeated(() => stackless(() => at(10))),
    'with one': repeated(() => at(10)),
  })
}

async function measureExchange(): Promise<void> {
  const { said: port } = await startServer(ends, 'streams-upstream.ts', {}, /^(\d+)$/)
  const pool = new Pool(`http://127.0.0.1:${port}`)
  ends.after(() => pool.destroy())
  const post = {
    path: '/',
    method: 'POST',
    headers: { 'content-type': 'text/plain' },
    body: 'x'.repeat(900),
  } as const
  const bounds = { timeout: 5_000, limit: 16_384 }
  await compare('An exchange, its connection kept', 500, {
    'undici dispatch': inTurn(
      async () => void (await new BoundedRequest(pool, post, bounds).answer),
    ),
    'undici request': inTurn(async () => {
      const signal = AbortSignal.timeout(5_000)
      await (await pool.request({ ...post, signal })).body.text()
    }),
    fetch: inTurn(async () => {
      const signal = AbortSignal.timeout(5_000)
      await (await fetch(`http://127.0.0.1:${port}/`, { ...post, signal })).text()
    }),
  })
}

const inTurn =
  (work: () => Promise<void>): Way =>
  async times => {
    for (let i = 0; i < times; i++) await work()
  }

/** In one command for all, since a script has no `SET` of many keys that may each fail. */
const CLAIMS = `local claimed = {}
for i, key in ipairs(KEYS) do
  claimed[i] = redis.call('SET', key, ARGV[1], 'PX', ARGV[2], 'NX') and 1 or 0
end
return claimed`

async function measureClaims(): Promise<void> {
  const { url } = await startRedis(ends)
  const clients = [new Redis(url, { enableAutoPipelining: true }), new Redis(url)] as const
  const [pipelining, plain] = clients
  ends.after(async () => clients.forEach(client => client.disconnect()))
  let count = 0
  const key = () => `seen:jti:bench-${count++}`
  const keys = (size: number) => Array.from({ length: size }, key)
  for (const size of [1, 2, 4, 8]) {
    const batches =
      (claim: (all: readonly string[]) => Promise<unknown>): Way =>
      async times => {
        for (let i = 0; i < times; i += size) await claim(keys(size))
      }
    await compare(`A claim of a jti, ${size} in a turn of the event loop`, 800, {
      'auto-pipelined': batches(all =>
        Promise.all(all.map(each => pipelining.set(each, 'id', 'PX', 60_000, 'NX'))),
      ),
      'one by one': batches(all =>
        Promise.all(all.map(each => plain.set(each, 'id', 'PX', 60_000, 'NX'))),
      ),
      'one script': batches(all => plain.eval(CLAIMS, all.length, ...all, 'id', 60_000)),
    })
  }
}

await ends.during(measure)
report.end()
