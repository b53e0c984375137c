// Answers what it was sent: the upstream of the demo, the compose file and the tests.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'

/** Options of {@link createEcho}. */
export interface EchoOptions {
  /** Sees every request as it arrives, before its body. */
  readonly onRequest?: (request: IncomingMessage) => void
}

const MAX_ECHOED_BYTES = 64 * 1024
const CHUNK = Buffer.alloc(64 * 1024, 'x')
const DEFAULT_EVENTS = 3
const DEFAULT_EVENT_INTERVAL = 100

/**
 * Makes an echo upstream on plain `node:http`; it does not listen yet.
 *
 * Any path answers JSON: `method`, `url`, `headers`, `body` (UTF-8, the first 64 KiB) and
 * `body_bytes` (all of it). `/_sse?count=3&interval=100` streams events (milliseconds apart),
 * `/_status/NNN` answers with that status, `/_bytes/N` streams N bytes.
 */
export function createEcho(options: EchoOptions = {}): Server {
  return createServer((request, reply) => {
    options.onRequest?.(request)
    answer(request, reply).catch(() => {
      // The client left in the middle: there is nobody to tell.
      reply.destroy()
    })
  })
}

async function answer(request: IncomingMessage, reply: ServerResponse): Promise<void> {
  const url = new URL(request.url ?? '/', 'http://echo.invalid')
  const [, command, argument] = /^\/_(sse|status|bytes)(?:\/(\d+))?$/.exec(url.pathname) ?? []
  const { text, bytes } = await readBody(request)
  if (command === 'sse') return streamEvents(url.searchParams, reply)
  if (command === 'bytes') return streamBytes(Number(argument ?? 0), reply)
  const status = command === 'status' ? Number(argument) : 200
  if (!(status >= 200 && status <= 999)) {
    reply.writeHead(400).end('status must be 200 to 999\n')
    return
  }
  const { method, headers } = request
  const body = JSON.stringify({ method, url: request.url, headers, body: text, body_bytes: bytes })
  reply.writeHead(status, { 'content-type': 'application/json' }).end(`${body}\n`)
}

async function readBody(request: IncomingMessage): Promise<{ text: string; bytes: number }> {
  const kept: Buffer[] = []
  let bytes = 0
  for await (const chunk of request) {
    if (bytes < MAX_ECHOED_BYTES) kept.push(chunk.subarray(0, MAX_ECHOED_BYTES - bytes))
    bytes += chunk.length
  }
  return { text: Buffer.concat(kept).toString(), bytes }
}

async function streamEvents(query: URLSearchParams, reply: ServerResponse): Promise<void> {
  const count = Number(query.get('count') ?? DEFAULT_EVENTS)
  const interval = Number(query.get('interval') ?? DEFAULT_EVENT_INTERVAL)
  reply.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
  reply.flushHeaders()
  for (let id = 1; id <= count && !reply.destroyed; id++) {
    reply.write(`id: ${id}\ndata: event ${id}\n\n`)
    if (id < count) await sleepOrClose(interval, reply)
  }
  reply.end()
}

async function streamBytes(count: number, reply: ServerResponse): Promise<void> {
  reply.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': count })
  await pipeline(Readable.from(chunksOf(count), { objectMode: false }), reply)
}

function* chunksOf(count: number): Generator<Buffer> {
  for (let left = count; left > 0; left -= CHUNK.length) yield CHUNK.subarray(0, left)
}

function sleepOrClose(milliseconds: number, reply: ServerResponse): Promise<void> {
  return new Promise(resolve => {
    const done = () => {
      clearTimeout(timer)
      reply.off('close', done)
      resolve()
    }
    const timer = setTimeout(done, milliseconds)
    reply.on('close', done)
  })
}
