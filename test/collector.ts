// An OpenTelemetry collector that records: it takes traces by OTLP over HTTP, as protobuf.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { listen } from './gateway/harness.ts'
import type { Cleanup } from './redis.ts'
import { until } from './until.ts'

/** A span as it came. */
export interface CollectedSpan {
  readonly name: string
  readonly traceId: string
  readonly spanId: string
  /** Empty for the root of a trace. */
  readonly parentId: string
  readonly kind: 'internal' | 'server' | 'client' | 'other'
  /** Nanoseconds since 1970. */
  readonly start: bigint
  readonly end: bigint
  readonly attributes: Readonly<Record<string, string | number>>
  readonly failed: boolean
  /** Of its status; empty when there is none. */
  readonly message: string
  /** Events and links. */
  readonly extras: number
  readonly resource: Readonly<Record<string, string | number>>
}

/** A collector. */
export interface Collector {
  readonly url: string
  readonly server: Server
  readonly spans: CollectedSpan[]
  /** Headers of each export. */
  readonly exports: IncomingMessage['headers'][]
  /** All bytes that came, as latin1 text, for canaries. */
  readonly bytes: () => string
  /** Answers; replace it to answer otherwise. Default: 200. */
  answer: (response: ServerResponse) => void
  /** The spans of a trace, once there are as many, by name; the request's own is `request`. */
  trace(traceId: string, count: number): Promise<Readonly<Record<string, CollectedSpan>>>
}

/** Starts a collector on loopback. */
export async function startCollector(t: Cleanup): Promise<Collector> {
  const chunks: Buffer[] = []
  const server = createServer((request, response) => {
    const body: Buffer[] = []
    request.on('data', chunk => body.push(chunk))
    request.on('end', () => {
      chunks.push(...body)
      collector.exports.push({ ...request.headers, ':path': request.url })
      collector.spans.push(...spansIn(Buffer.concat(body)))
      collector.answer(response)
    })
  })
  const port = await listen(server)
  t.after(async () => {
    server.closeAllConnections()
    server.close()
  })
  const collector: Collector = {
    url: `http://127.0.0.1:${port}`,
    server,
    spans: [],
    exports: [],
    bytes: () => Buffer.concat(chunks).toString('latin1'),
    answer: response => response.end(),
    async trace(traceId, count) {
      const found = () => collector.spans.filter(span => span.traceId === traceId)
      await until(() => found().length >= count, 20_000)
      return Object.fromEntries(
        found().map(span => [span.kind === 'server' ? 'request' : span.name, span]),
      )
    },
  }
  return collector
}

const KINDS = ['other', 'internal', 'server', 'client'] as const

/** The spans of an `ExportTraceServiceRequest` (opentelemetry/proto/trace/v1). */
function spansIn(body: Buffer): CollectedSpan[] {
  return messages(body, 1).flatMap(resourceSpans => {
    const resource = messages(resourceSpans, 1).map(it => attributesIn(it, 1))[0] ?? {}
    return messages(resourceSpans, 2).flatMap(scope =>
      messages(scope, 2).map(span => spanIn(span, resource)),
    )
  })
}

function spanIn(span: Buffer, resource: CollectedSpan['resource']): CollectedSpan {
  const [status = Buffer.alloc(0)] = messages(span, 15)
  const time = (number: number) => messages(span, number)[0]?.readBigUInt64LE() ?? 0n
  return {
    name: text(span, 5),
    traceId: messages(span, 1)[0]?.toString('hex') ?? '',
    spanId: messages(span, 2)[0]?.toString('hex') ?? '',
    parentId: messages(span, 4)[0]?.toString('hex') ?? '',
    kind: KINDS[number(span, 6)] ?? 'other',
    start: time(7),
    end: time(8),
    attributes: attributesIn(span, 9),
    failed: number(status, 3) === 2,
    message: text(status, 2),
    extras: messages(span, 11).length + messages(span, 13).length,
    resource,
  }
}

function attributesIn(message: Buffer, field: number): Record<string, string | number> {
  return Object.fromEntries(
    messages(message, field).map(pair => {
      const [value = Buffer.alloc(0)] = messages(pair, 2)
      return [text(pair, 1), fieldsOf(value)[0]?.number === 1 ? text(value, 1) : number(value, 3)]
    }),
  )
}

interface Field {
  readonly number: number
  /** The value's bytes: of a varint as it is written. */
  readonly value: Buffer
}

function messages(message: Buffer, field: number): Buffer[] {
  return fieldsOf(message)
    .filter(({ number }) => number === field)
    .map(({ value }) => value)
}

function text(message: Buffer, field: number): string {
  return messages(message, field)[0]?.toString() ?? ''
}

function number(message: Buffer, field: number): number {
  const [value] = messages(message, field)
  return value === undefined ? 0 : varint(value, 0)[0]
}

/** The fields of a protobuf message, in the order in which they stand. */
function fieldsOf(message: Buffer): Field[] {
  const fields: Field[] = []
  let at = 0
  while (at < message.length) {
    const [tag, start] = varint(message, at)
    let [begin, end] = [start, start]
    switch (tag & 7) {
      case 0:
        end = varint(message, start)[1]
        break
      case 1:
        end += 8
        break
      case 2: {
        const [length, after] = varint(message, start)
        begin = after
        end = after + length
        break
      }
      case 5:
        end += 4
        break
      default:
        throw new Error(`no protobuf at byte ${at}`)
    }
    fields.push({ number: Math.floor(tag / 8), value: message.subarray(begin, end) })
    at = end
  }
  return fields
}

function varint(bytes: Buffer, at: number): [value: number, next: number] {
  let value = 0
  for (let shift = 1; ; shift *= 128, at += 1) {
    const byte = bytes[at]
    if (byte === undefined) throw new Error('a number breaks off')
    value += (byte & 127) * shift
    if (byte < 128) return [value, at + 1]
  }
}
