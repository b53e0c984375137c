// Requests to the byte, and what came of each of them: many at once, told apart by their request ids.
import { type IncomingMessage, request as httpRequest } from 'node:http'
import { createServer, type Socket } from 'node:net'
import type { Cleanup } from '../redis.ts'
import { until } from '../until.ts'
import { type AuditEvent, listen, RESOURCE, type Stack } from './harness.ts'

/** What {@link send} sends; the rest of the head is what passes every check. */
export interface RawRequest {
  /** `X-Request-Id`; none is sent without one. */
  readonly id?: string
  readonly method?: string
  readonly path?: string
  /** Flat list of further names and values, sent as they are. */
  readonly headers?: readonly string[]
  readonly body?: string | Buffer
  readonly token: string
  /** `Host`. */
  readonly host?: string
}

/** An answer, read whole, with its header lines as they came. */
export interface RawAnswer {
  readonly status: number
  readonly rawHeaders: readonly string[]
  readonly body: Buffer
  readonly text: string
  /** Whether the body came to its end. */
  readonly complete: boolean
  /** The lines of one header. */
  values(name: string): string[]
  json(): Record<string, unknown>
}

/** Sends one request to a gateway on loopback. Header names, their order and repetition stay as given. */
export function send(port: number, options: RawRequest): Promise<RawAnswer> {
  const {
    id,
    method = 'GET',
    path = '/',
    headers = [],
    body,
    token,
    host = 'gateway.test',
  } = options
  const length =
    body === undefined || headers.some(name => /^(?:content-length|transfer-encoding)$/i.test(name))
      ? []
      : ['Content-Length', String(Buffer.byteLength(body))]
  return new Promise((resolve, reject) => {
    const request = httpRequest({
      host: '127.0.0.1',
      port,
      method,
      path,
      agent: false,
      setHost: false,
      headers: [
        'Host',
        host,
        'Authorization',
        `Bearer ${token}`,
        'X-Caracal-Resource',
        RESOURCE,
        ...(id === undefined ? [] : ['X-Request-Id', id]),
        ...length,
        ...headers,
      ],
    })
    request.on('error', reject)
    request.on('upgrade', () => reject(new Error('the connection was upgraded')))
    request.on('response', response => {
      void read(response).then(resolve, reject)
    })
    // As bytes: Node writes the headers before a text in the text's encoding.
    request.end(body === undefined ? undefined : Buffer.from(body))
  })
}

async function read(response: IncomingMessage): Promise<RawAnswer> {
  const chunks: Buffer[] = []
  try {
    for await (const chunk of response) chunks.push(chunk)
  } catch (error) {
    if (response.complete) throw error
  }
  const body = Buffer.concat(chunks)
  const { statusCode = 0, rawHeaders, complete } = response
  return {
    status: statusCode,
    rawHeaders,
    body,
    text: body.toString(),
    complete,
    values: name => valuesOf(rawHeaders, name),
    json: () => JSON.parse(body.toString()),
  }
}

/** The lines of one header in a flat list of names and values. */
export function valuesOf(rawHeaders: readonly string[], name: string): string[] {
  const lower = name.toLowerCase()
  return rawHeaders.filter(
    (_, index) => index % 2 === 1 && rawHeaders[index - 1]?.toLowerCase() === lower,
  )
}

/** Does `work` for every item, so many at a time; results in the order of the items. */
export async function inParallel<Item, Result>(
  items: readonly Item[],
  width: number,
  work: (item: Item, index: number) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = []
  const queue = items.entries()
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (const [index, item] of queue) results[index] = await work(item, index)
    }),
  )
  return results
}

/** The audit events by request id, once every one of the ids has some. */
export async function eventsById(
  stack: Stack,
  ids: readonly string[],
): Promise<Map<string, AuditEvent[]>> {
  let found = new Map<string, AuditEvent[]>()
  await until(async () => {
    found = Map.groupBy(await stack.events(), event => event.request_id)
    return ids.every(id => found.has(id))
  }, 10_000)
  return found
}

/** The check that the gateway's log names for each request that it refused. */
export function checksById(stack: Pick<Stack, 'gateway'>): Map<unknown, unknown> {
  return new Map(
    stack.gateway.logs
      .filter(line => line['check'] !== undefined)
      .map(line => [line['reqId'], line['check']]),
  )
}

/** An upstream that answers bytes: `serve` gets each connection, and the head of its first request once it is there. */
export async function startRawUpstream(
  t: Cleanup,
  serve: (socket: Socket, head: string) => void,
): Promise<{ readonly url: string; readonly port: number; readonly sockets: Set<Socket> }> {
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.on('close', () => sockets.delete(socket))
    let head = ''
    const onData = (chunk: Buffer) => {
      head += chunk.toString('latin1')
      if (!head.includes('\r\n\r\n')) return
      socket.off('data', onData)
      serve(socket, head)
    }
    socket.on('data', onData)
  })
  const port = await listen(server)
  t.after(async () => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return { url: `http://127.0.0.1:${port}`, port, sockets }
}
