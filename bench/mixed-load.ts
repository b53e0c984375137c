// Load of every kind from a process of its own, for as long as it runs: requests with and without a body, refusals, and
// event streams that open and close. Far from saturation: what is looked for is what grows.
import { randomInt } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { RawClient } from './raw-client.ts'
import { type SigningKey, signerOf } from './signer.ts'
import { RESOURCE } from './stage.ts'
import { openStream } from './streams.ts'

/** What to load, and for how long. */
export interface MixedLoad {
  readonly port: number
  readonly key: SigningKey
  readonly seconds: number
}

/** How many of each kind were answered as they should be; whatever else happens ends the process. */
export type Answered = Readonly<Record<Kind, number>>

type Kind = 'get' | 'post' | 'denied' | 'stream'

/** Callers of each kind, each of which pauses between two requests, for milliseconds. */
const CALLERS: Readonly<Record<Kind, { readonly count: number; readonly rest: number }>> = {
  get: { count: 8, rest: 50 },
  post: { count: 4, rest: 50 },
  denied: { count: 2, rest: 50 },
  stream: { count: 20, rest: 500 },
}
const BODY = 'x'.repeat(16 * 1024)
/** Milliseconds for which a stream stays open, at most. */
const STREAM_TIME = 2_000

async function run({ port, key, seconds }: MixedLoad): Promise<Answered> {
  const sign = signerOf(key)
  const client = new RawClient(port)
  const answered = { get: 0, post: 0, denied: 0, stream: 0 }
  const until = performance.now() + seconds * 1_000
  const ask = async (line: string, wanted: number, headers: string, body = '') => {
    const common = `Host: gateway\r\nX-Caracal-Resource: ${RESOURCE}\r\n`
    const status = await client.send(`${line} HTTP/1.1\r\n${common}${headers}\r\n${body}`)
    if (status !== wanted) throw new Error(`${line} was answered ${status}, not ${wanted}`)
  }
  const bearer = () => `Authorization: Bearer ${sign(RESOURCE)}\r\n`
  const works: Readonly<Record<Kind, () => Promise<void>>> = {
    get: () => ask('GET /v1/x', 200, bearer()),
    post: () => ask('POST /v1/x', 200, `${bearer()}Content-Length: ${BODY.length}\r\n`, BODY),
    async denied() {
      await ask('GET /v1/x', 401, '')
      await ask('GET /v1/%2e%2e/x', 400, bearer())
      await ask('GET /undeclared', 403, bearer())
    },
    async stream() {
      const socket = await openStream(port, sign(RESOURCE))
      await pause(randomInt(STREAM_TIME))
      socket.destroy()
    },
  }
  const caller = async (kind: Kind) => {
    while (performance.now() < until) {
      await works[kind]()
      answered[kind] += 1
      await pause(CALLERS[kind].rest)
    }
  }
  const kinds: readonly Kind[] = ['get', 'post', 'denied', 'stream']
  await Promise.all(
    kinds.flatMap(kind => Array.from({ length: CALLERS[kind].count }, () => caller(kind))),
  )
  client.close()
  return answered
}

process.on('message', (load: MixedLoad) => {
  run(load).then(
    answered => process.send?.(answered),
    (error: unknown) => {
      console.error(error)
      process.exit(1)
    },
  )
})
