// Measures what an open event stream that says nothing costs in memory, through the gateway and through bare reply-from.
import { connect, type Socket } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import type { Cleanup } from '../test/redis.ts'
import { memoryOf, openFiles } from './cpu.ts'
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
/** Streams that are opened before, and closed: what serves them is then there, and little else. */
const WARM_UP = 500
/** Milliseconds in which what was needed to open them is given back. */
const SETTLE = 5_000
/** Files that a process has open beside its streams. */
const SPARE_FILES = 500

/** Opens as many streams as are wanted and the file limit allows; prints as it goes. */
export async function measureStreams(
  ends: Cleanup,
  stage: Stage,
  report: Report,
  wanted: number,
): Promise<StreamsResult> {
  // Each stream takes a descriptor on either side.
  const streams = Math.min(wanted, Math.floor((openFiles() - SPARE_FILES) / 2))
  report.section(`${streams} open event streams that say nothing`)
  if (streams < wanted)
    report.note(`${wanted} were wanted: a process may open ${openFiles()} files`)
  const sign = signerOf(stage.key)
  const measure = async (subject: Subject) => {
    const { port, pid } = subject
    const open = async (count: number) => {
      const sockets = await openStreams(port, count, () => sign(RESOURCE))
      await pause(SETTLE)
      return sockets
    }
    close(await open(WARM_UP))
    await pause(SETTLE)
    const before = memoryOf(pid).resident
    const sockets = await open(streams)
    const bytes = (memoryOf(pid).resident - before) / streams
    close(sockets)
    await subject.stop()
    return bytes
  }
  const bareBytes = await measure(await startBare(ends, stage.upstream))
  const gatewayBytes = await measure(await startGateway(ends, stage.env))
  report.figure('bare reply-from: memory a stream', bareBytes / 1024, 'KiB')
  report.figure('gateway: memory a stream', gatewayBytes / 1024, 'KiB', 50)
  report.figure('gateway: times bare reply-from', gatewayBytes / bareBytes, 'x', 1)
  return { streams, gatewayBytes, bareBytes }
}

function close(sockets: readonly Socket[]): void {
  for (const socket of sockets) socket.destroy()
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
