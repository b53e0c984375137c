// Measures what an open event stream that says nothing costs in memory, through the gateway and through bare reply-from.
import { connect, type Socket } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import type { Cleanup } from '../test/redis.ts'
import { memoryOf, openFiles } from './cpu.ts'
import type { Mandates } from './flood.ts'
import type { Flooder } from './ladder.ts'
import type { Report } from './report.ts'
import { signerOf } from './signer.ts'
import { RESOURCE, type Stage } from './stage.ts'
import { startBare, startGateway, type Subject } from './subject.ts'

/** What so many open streams take. */
export interface StreamsResult {
  readonly streams: number
  /** Resident bytes each. */
  readonly gatewayBytes: number
  readonly bareBytes: number
}

const OPENERS = 50
/** Seconds of load before: what serves streams is then compiled, and its heap has its size. */
const WARM_UP = 4
/** More requests a second than a gateway answers. */
const MOST = 6_000
/** Milliseconds in which what was needed to open them is given back. */
const SETTLE = 5_000
/** Files that a process has open beside its streams. */
const SPARE_FILES = 500

/** Opens as many streams as are wanted and the file limit allows; prints as it goes. */
export async function measureStreams(
  ends: Cleanup,
  stage: Stage,
  flooder: Flooder,
  report: Report,
  wanted: number,
): Promise<StreamsResult> {
  // Each stream takes a descriptor on either side.
  const streams = Math.min(wanted, Math.floor((openFiles() - SPARE_FILES) / 2))
  report.section(`${streams} open event streams that say nothing`)
  if (streams < wanted)
    report.note(`${wanted} were wanted: a process may open ${openFiles()} files`)
  const sign = signerOf(stage.key)
  const measure = async (subject: Subject, warmUp: Mandates) => {
    const { port, pid } = subject
    await flooder.give({ port, callers: 32, seconds: WARM_UP, ramp: 0, mandates: warmUp })
    await pause(SETTLE)
    const before = memoryOf(pid).resident
    const sockets = await openStreams(port, streams, () => sign(RESOURCE))
    await pause(SETTLE)
    const bytes = (memoryOf(pid).resident - before) / streams
    for (const socket of sockets) socket.destroy()
    await subject.stop()
    return bytes
  }
  const bareBytes = await measure(
    await startBare(ends, stage.upstream),
    stage.mandates(64, { reused: true }),
  )
  const gatewayBytes = await measure(
    await startGateway(ends, stage.env),
    stage.mandates(WARM_UP * MOST),
  )
  report.figure('bare reply-from: memory a stream', bareBytes / 1024, 'KiB')
  report.figure('gateway: memory a stream', gatewayBytes / 1024, 'KiB', 50)
  report.figure('gateway: times bare reply-from', gatewayBytes / bareBytes, 'x', 1)
  return { streams, gatewayBytes, bareBytes }
}

async function openStreams(port: number, count: number, mint: () => string): Promise<Socket[]> {
  const sockets: Socket[] = []
  let asked = 0
  const opener = async () => {
    while (asked++ < count) sockets.push(await openStream(port, mint()))
  }
  await Promise.all(Array.from({ length: OPENERS }, opener))
  return sockets
}

/** Resolves once the stream's first event has come. */
export function openStream(port: number, token: string): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>()
  const socket = connect({ port, host: '127.0.0.1' })
  let text = ''
  socket.setEncoding('latin1').on('data', (chunk: string) => {
    text = (text + chunk).slice(-2_048)
    if (text.includes('data: open')) resolve(socket)
  })
  socket.once('error', reject)
  socket.once('close', () => reject(new Error(`the stream ended with: ${text}`)))
  socket.write(
    `GET /idle HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer ${token}\r\nX-Caracal-Resource: ${RESOURCE}\r\n\r\n`,
  )
  return promise
}
