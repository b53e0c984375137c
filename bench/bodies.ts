// Measures how fast large bodies pass, either way, through the gateway, bare reply-from and nginx.
import { once } from 'node:events'
import { connect } from 'node:net'
import type { Cleanup } from '../test/redis.ts'
import { memoryOf } from './cpu.ts'
import { findNginx, startNginx } from './nginx.ts'
import { ratioOf, type Report, type Spread, spreadOf } from './report.ts'
import { signerOf } from './signer.ts'
import { RESOURCE, type Stage } from './stage.ts'
import { startBare, startGateway, type Subject } from './subject.ts'

/** How fast bodies go one way. */
export interface BodiesResult {
  readonly way: Way
  /** MiB a second. */
  readonly gateway: Spread
  readonly bare: Spread
  readonly nginx: Spread | undefined
  /** The gateway's, as a share of another's, round by round. */
  readonly ofBare: Spread
  readonly ofNginx: Spread | undefined
}

type Way = 'download' | 'upload'

const WAYS: readonly Way[] = ['download', 'upload']
const GIB = 1024 ** 3
const MIB = 1024 ** 2
const CHUNK = Buffer.alloc(64 * 1024, 0x61)
/** Share of bare reply-from's throughput. */
const LEAST = 0.95

/** Sends bodies of 1 GiB through each in turn; prints as it goes. */
export async function measureBodies(
  ends: Cleanup,
  stage: Stage,
  report: Report,
  rounds: number,
): Promise<readonly BodiesResult[]> {
  report.section(`Bodies of 1 GiB: ${rounds} rounds`)
  const nginx = findNginx()
  const subjects = {
    bare: await startBare(ends, stage.upstream),
    gateway: await startGateway(ends, { ...stage.env, MAX_REQUEST_BYTES: String(GIB) }),
    nginx: nginx && (await startNginx(ends, nginx, stage.folder, stage.upstream)),
  }
  const sign = signerOf(stage.key)
  const results: BodiesResult[] = []
  for (const way of WAYS) {
    const rate = async (subject: Subject | undefined, bytes: number) => {
      if (subject === undefined) return Number.NaN
      const startedAt = performance.now()
      await transfer(subject.port, way, bytes, sign(RESOURCE))
      return bytes / MIB / ((performance.now() - startedAt) / 1_000)
    }
    const rates = {
      bare: new Array<number>(),
      gateway: new Array<number>(),
      nginx: new Array<number>(),
    }
    for (let round = 0; round <= rounds; round++) {
      const order =
        round % 2 === 0
          ? (['bare', 'gateway', 'nginx'] as const)
          : (['nginx', 'gateway', 'bare'] as const)
      for (const name of order) {
        // The first round warms up.
        const taken = await rate(subjects[name], round === 0 ? GIB / 8 : GIB)
        if (round > 0) rates[name].push(taken)
      }
    }
    results.push({
      way,
      gateway: spreadOf(rates.gateway),
      bare: spreadOf(rates.bare),
      nginx: nginx && spreadOf(rates.nginx),
      ofBare: ratioOf(rates.gateway, rates.bare),
      ofNginx: nginx && ratioOf(rates.gateway, rates.nginx),
    })
  }
  for (const { way, gateway, ofBare, ofNginx } of results) {
    report.figure(`${way}: the gateway`, gateway.median, 'MiB/s')
    report.figure(
      `${way}: time, times bare reply-from`,
      1 / ofBare.median,
      'x',
      Number((1 / LEAST).toFixed(3)),
    )
    if (ofNginx !== undefined) report.figure(`${way}: time, times nginx`, 1 / ofNginx.median, 'x')
  }
  const most = memoryOf(subjects.gateway.pid).highWater
  report.figure('the gateway: most memory meanwhile', most / MIB, 'MiB', 180)
  for (const subject of Object.values(subjects)) await subject?.stop()
  return results
}

/** Sends or fetches a body of so many bytes. @throws Error when the answer is not 200, or not whole */
async function transfer(port: number, way: Way, bytes: number, token: string): Promise<void> {
  const socket = connect({ port, host: '127.0.0.1' })
  const answered = Promise.withResolvers<void>()
  // An answer's body may be any number of bytes: only the first of them are kept, to read the head.
  let head = ''
  let received = 0
  const whole = () => {
    const end = head.indexOf('\r\n\r\n')
    if (end === -1) return false
    if (!head.startsWith('HTTP/1.1 200 ')) throw new Error(`answered ${head.slice(0, 200)}`)
    const length = way === 'upload' ? 1 : end + 4 + bytes
    return received >= length
  }
  socket.on('data', (chunk: Buffer) => {
    received += chunk.length
    if (head.length < 4_096) head += chunk.toString('latin1', 0, 4_096)
    try {
      if (whole()) answered.resolve()
    } catch (error) {
      answered.reject(error)
    }
  })
  socket.once('close', () => answered.reject(new Error(`broken off after ${received} bytes`)))
  socket.once('error', answered.reject)
  const common = `Host: gateway\r\nAuthorization: Bearer ${token}\r\nX-Caracal-Resource: ${RESOURCE}\r\n`
  if (way === 'download') socket.write(`GET /bytes/${bytes} HTTP/1.1\r\n${common}\r\n`)
  else {
    const type = 'Content-Type: application/octet-stream\r\n'
    socket.write(`POST /v1/x HTTP/1.1\r\n${common}${type}Content-Length: ${bytes}\r\n\r\n`)
    for (let left = bytes; left > 0; left -= CHUNK.length) {
      if (!socket.write(CHUNK)) await Promise.race([once(socket, 'drain'), answered.promise])
    }
  }
  await answered.promise
  socket.destroy()
}
