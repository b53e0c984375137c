// Mutated requests on raw connections never end the process, and never reach an upstream beside the checks.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { head, startStack, Wire } from '../gateway/harness.ts'
import { until } from '../until.ts'
import { assertUnharmed } from './wire.ts'

const CASES = Number(process.env['FUZZ_CASES'] ?? 2_000)
const SEED = Number(process.env['FUZZ_SEED'] ?? Math.floor(Math.random() * 2 ** 32))
const AT_A_TIME = 40

/** How long a connection is watched that may never get an answer; nothing depends on it. */
const PATIENCE = 150

const stack = await startStack({ after }, { env: { READ_HEADER_TIMEOUT: '2s', LOG_LEVEL: 'info' } })
stack.direct({ auth_mode: 'caracal_jwt' })

/** Mulberry32: small, and the same everywhere for one seed. */
function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

const random = generator(SEED)
const below = (limit: number): number => Math.floor(random() * limit)
const pick = <T>(items: readonly [T, ...T[]]): T => items[below(items.length)] ?? items[0]

const TARGETS = [
  '/a',
  '/a/b?c=d',
  '/a%2Fb',
  '/a%2f..%2fb',
  '//a',
  '/',
  '*',
  'http://other.test/a',
  '/health',
  '/a%00',
  '/%e4%b8%ad',
] as const
const METHODS = ['GET', 'POST', 'PUT', 'HEAD', 'OPTIONS', 'QUERY', 'PURGE', 'CONNECT'] as const
const FIELDS = [
  'Transfer-Encoding: chunked',
  'Transfer-Encoding: gzip',
  'Content-Length: 5',
  'Content-Length: 0',
  'Content-Length: 99999999',
  'Connection: close',
  'Connection: x-caracal-resource, authorization',
  'Connection: upgrade',
  'Upgrade: h2c',
  'Expect: 100-continue',
  'Host: other.test',
  'X-Caracal-Resource: resource://billing-api',
  'X-Caracal-Client-ID: a',
  'X-Request-Id: a b',
  'Authorization: Bearer a.b.c',
  'TE: trailers',
  'Cookie: a=b',
  'Keep-Alive: timeout=1',
  '__proto__: a',
  'constructor: a',
] as const
const BYTES = [
  '\r',
  '\n',
  '\r\n',
  '\0',
  ' ',
  '\t',
  ':',
  ',',
  ';',
  '%',
  '/',
  '\x7f',
  '\x80',
  '\xff',
] as const
const BODIES = [
  '',
  'hello',
  '5\r\nhello\r\n0\r\n\r\n',
  '5;a=b\r\nhello\r\n0\r\nT: 1\r\n\r\n',
] as const

/** A request that would pass, or one that lacks its mandate. */
function request(): string {
  const token = random() < 0.85 ? stack.mint({ jti: randomUUID() }) : 'a.b.c'
  const fields: string[] = []
  const body = random() < 0.5 ? pick(BODIES) : ''
  if (body.startsWith('5')) fields.push('Transfer-Encoding: chunked')
  else if (body !== '') fields.push(`Content-Length: ${body.length}`)
  while (random() < 0.3) fields.push(pick(FIELDS))
  return `${head(`${pick(METHODS)} ${pick(TARGETS)}`, token, ...fields)}\r\n${body}`
}

const MUTATIONS: readonly [Mutation, ...Mutation[]] = [
  text => splice(text, below(text.length), 1, String.fromCharCode(below(256))),
  text => splice(text, below(text.length), 0, pick(BYTES)),
  text => splice(text, below(text.length), below(20), ''),
  text => text.slice(0, below(text.length)),
  text => splice(text, text.indexOf('\r\n') + 2, 0, `${pick(FIELDS)}\r\n`),
  text => text.replaceAll('\r\n', '\n'),
  text => text.replace('HTTP/1.1', pick(['HTTP/1.0', 'HTTP/2.0', 'HTTP/0.9', 'RTSP/1.0', ''])),
  text => {
    const lines = text.split('\r\n')
    const [line = ''] = lines.splice(below(lines.length), 1)
    lines.splice(below(lines.length), 0, line)
    return lines.join('\r\n')
  },
  text => {
    const from = below(text.length)
    return splice(text, below(text.length), 0, text.slice(from, from + below(200)))
  },
  text => text + request(),
  text => splice(text, below(text.length), 0, 'x'.repeat(below(20_000))),
]
type Mutation = (text: string) => string

function splice(text: string, at: number, remove: number, insert: string): string {
  return text.slice(0, at) + insert + text.slice(at + remove)
}

function mutated(): string {
  let text = request()
  while (random() < 0.2) text += request()
  while (random() < 0.6) text = pick(MUTATIONS)(text)
  return text
}

interface Plan {
  readonly text: string
  /** Where the bytes are cut into packets. */
  readonly cuts: readonly number[]
  readonly end: 'wait' | 'finish' | 'reset'
}

function plan(): Plan {
  const text = mutated()
  const cuts = random() < 0.5 ? [] : [below(text.length), below(text.length)].sort((a, b) => a - b)
  return { text, cuts, end: random() < 0.7 ? 'wait' : random() < 0.5 ? 'finish' : 'reset' }
}

async function perform({ text, cuts, end }: Plan): Promise<void> {
  const wire = new Wire(stack.gateway.port)
  wire.socket.setNoDelay(true)
  let from = 0
  for (const cut of [...cuts, text.length]) {
    wire.send(text.slice(from, cut))
    from = cut
    if (cut < text.length) await new Promise(setImmediate)
  }
  if (end === 'finish') {
    wire.socket.end()
    await wire.ended()
  } else {
    await until(() => wire.closed || wire.text !== '', PATIENCE).catch(() => undefined)
    if (end === 'reset') wire.socket.resetAndDestroy()
    else wire.close()
  }
  assert.match(wire.text, /^(HTTP\/1\.1 [1-5]\d\d |$)/)
  assert.doesNotMatch(wire.text, /node_modules|\bat \S+ \(|FST_|UND_ERR|HPE_|internal error/)
}

test(`the gateway stands ${CASES} mutated requests (FUZZ_SEED=${SEED})`, async () => {
  // Made before they are sent: what the seed gives must not depend on time.
  const plans = Array.from({ length: CASES }, plan)
  const next = plans.values()
  await Promise.all(
    Array.from({ length: AT_A_TIME }, async () => {
      for (const each of next) await perform(each)
    }),
  )
  await until(async () => (await stack.metric('requests_in_flight')) === 0, 10_000)

  const { exchanges } = stack.sts
  const granted = exchanges.filter(({ refusal }) => refusal === undefined)
  const spent = granted.map(({ claims }) => claims?.['jti'])
  assert.equal(new Set(spent).size, spent.length, 'no mandate is exchanged twice')
  const byId = Map.groupBy(granted, ({ fields }) => fields['gateway_request_id'] ?? '')
  for (const { method, url, headers } of stack.upstream.arrivals) {
    const id = String(headers['x-request-id'])
    const candidates = byId.get(id)
    assert.ok(candidates?.length, `nothing granted ${method} ${url} (${id})`)
    // What was judged is what was sent, and it carries what the STS gave for it.
    const path = decodeURIComponent(url.split('?')[0] ?? '')
    const at = candidates.findIndex(
      ({ fields }) => fields['request_method'] === method && fields['request_path'] === path,
    )
    assert.ok(at >= 0, `${method} ${path} was not what was granted`)
    candidates.splice(at, 1)
    assert.match(String(headers['authorization']), /^Bearer [\w-]+\.[\w-]+\.[\w-]+$/)
    assert.equal(headers['x-caracal-resource'], undefined)
    assert.equal(headers['host'], `127.0.0.1:${stack.upstream.port}`)
  }
  assert.ok(stack.upstream.arrivals.length > CASES / 20, 'some are good enough to pass')
  await assertUnharmed(stack)
})
