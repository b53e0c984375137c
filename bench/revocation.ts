// Measures what revocations cost and how fast they cut, and fails when a bound of the contract is broken.
//
// npm run bench:revocation [-- --streams=10000 --entries=1000000]
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { RevocationSet } from '../lib/revocation-set.ts'
import { hmacKey, signStreamEntry } from '../lib/stream-signature.ts'
import { call, head, KEYS, type Stack, startStack } from '../test/gateway/harness.ts'
import { revoke, REVOCATIONS } from '../test/gateway/support.ts'
import { startPostgres } from '../test/postgres.ts'
import { until } from '../test/until.ts'
import { memoryOf, openFiles } from './cpu.ts'
import { Ends, median, Report } from './report.ts'

const { values } = parseArgs({
  options: {
    streams: { type: 'string', default: '10000' },
    entries: { type: 'string', default: '1000000' },
  },
})
const ENTRIES = Number(values.entries)
const MIB = 1024 * 1024
const DAY = 24 * 60 * 60 * 1000
const ADMIN_TOKEN = 'bench-admin'
/** What prom-client's event-loop monitor reports when nothing is late, seconds. */
const LAG_RESOLUTION = 0.01
/** How an event stream ends that a revocation cut: its last event, and the trailer. */
const REVOKED_END = /event: caracal-revoked[^]*\r\n0\r\nX-Caracal-Revoked: true\r\n/

const report = new Report()
const ends = new Ends()
await ends.during(async () => {
  room()
  lookups()
  await historyOfStream()
  await historyOfDatabase()
  await cuts()
})
report.end()

/** What a look-up costs however many are revoked. */
function lookups(): void {
  report.section('Look-up of an anchor, by revocations held (median of 15 interleaved rounds)')
  const now = Date.now()
  const sets = [1, 1_000, ENTRIES].map(size => {
    const set = new RevocationSet()
    for (let n = 0; n < size; n++) set.add('session', `session-${n}`, now + DAY, now)
    return { size, set, times: [] as number[] }
  })
  const absent = Array.from({ length: 20_000 }, (_, n) => `another-${n}`)
  for (let round = 0; round < 15; round++) {
    for (const { set, times } of sets) {
      const startedAt = process.hrtime.bigint()
      for (const id of absent)
        if (set.has('session', id, now)) throw new Error('found what is not there')
      times.push(Number(process.hrtime.bigint() - startedAt) / absent.length)
    }
  }
  const base = median(sets[0]?.times ?? [])
  for (const { size, times } of sets) {
    // Once a table no longer fits the processor's cache a look-up waits for memory, and for nothing else.
    report.figure(`${size} revoked: times one look-up among 1`, median(times) / base, 'x', 3)
  }
}

/** What an entry takes, while the set grows and when it is full. */
function room(): void {
  report.section(`Room for ${ENTRIES} anchors`)
  const now = Date.now()
  const set = new RevocationSet()
  const before = heldBytes()
  let worst = 0
  let longest = 0
  for (let n = 1; n <= ENTRIES; n++) {
    const startedAt = performance.now()
    set.add('agent_session', `agent-${n}`, now + DAY, now)
    longest = Math.max(longest, performance.now() - startedAt)
    if (n >= ENTRIES / 10 && n % (ENTRIES / 100) === 0) {
      worst = Math.max(worst, (heldBytes() - before) / n)
    }
  }
  if (set.size !== ENTRIES) throw new Error(`${set.size} are held`)
  report.figure('bytes an entry, at its worst while the set grows', worst, 'bytes', 64)
  report.figure('bytes an entry, when it is full', (heldBytes() - before) / set.size, 'bytes', 64)
  report.figure('longest single addition', longest, 'ms', 20)
}

function heldBytes(): number {
  globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

/** Whether the loop stays free while a gateway reads a long history of the stream. */
async function historyOfStream(): Promise<void> {
  report.section(`${ENTRIES} revocations of the stream, in the gateway's own process`)
  const stack = await startStack(ends, { env: { CARACAL_ADMIN_TOKEN: ADMIN_TOKEN } })
  const key = hmacKey('key', KEYS.streams)
  const BATCH = 5_000
  for (let at = 0; at < ENTRIES; at += BATCH) {
    const added = Array.from({ length: Math.min(BATCH, ENTRIES - at) }, (_, n) => {
      const fields = { zone_id: 'zone-1', session_id: `session-${at + n}`, reason: 'bench' }
      const signature = signStreamEntry(key, REVOCATIONS, fields)
      return stack.redis.add(REVOCATIONS, { ...fields, _sig: signature })
    })
    await Promise.all(added)
  }
  await measureReloads(stack)
}

/** The same for PostgreSQL. */
async function historyOfDatabase(): Promise<void> {
  report.section(`${ENTRIES} revocations in PostgreSQL, in the gateway's own process`)
  const postgres = await startPostgres(ends)
  await postgres.schema()
  await postgres.query(
    `insert into authority_records (id, zone_id, status, expires_at, revoked_at)
     select 'session-' || n, 'zone-1', 'revoked', now() + interval '1 hour', now()
     from generate_series(1, ${ENTRIES}) n`,
  )
  const env = { CARACAL_ADMIN_TOKEN: ADMIN_TOKEN, DATABASE_URL: postgres.url }
  await measureReloads(await startStack(ends, { env }))
  await postgres.stop()
}

async function measureReloads(stack: Stack): Promise<void> {
  await until(async () => (await stack.metric('revocations_active')) >= ENTRIES, 300_000)
  const stalls: number[] = []
  const seconds: number[] = []
  for (let round = 0; round < 5; round++) {
    await longestStall(stack)
    const startedAt = performance.now()
    const answer = await call(stack.gateway.url, '/internal/revocations/reload', {
      method: 'POST',
      token: ADMIN_TOKEN,
      resource: null,
    })
    if (answer.status !== 200) throw new Error(`reload: ${answer.text}`)
    seconds.push((performance.now() - startedAt) / 1000)
    stalls.push(await longestStall(stack))
  }
  // Contract section 15: 180 MiB, and 64 bytes a revocation on top.
  const bound = Math.round(180 + (ENTRIES * 64) / MIB)
  report.figure(
    'resident memory',
    memoryOf(stack.gateway.child.pid ?? 0).resident / MIB,
    'MiB',
    bound,
  )
  report.figure('a full reread (median of 5)', median(seconds), 's')
  // The machine may be busy with others: what the gateway does to its loop it does in every round.
  const stall = Math.min(...stalls)
  report.figure('longest stall of the event loop (smallest of 5 rereads)', stall, 'ms', 20)
  await stack.gateway.stop()
  await stack.redis.stop()
}

/** Milliseconds, since it was asked last. */
async function longestStall(stack: Stack): Promise<number> {
  const answer = await call(stack.gateway.url, '/metrics', {
    token: 'metrics-bearer',
    resource: null,
  })
  const lag = /^nodejs_eventloop_lag_max_seconds (\S+)/m.exec(answer.text)?.[1]
  return (Number(lag) - LAG_RESOLUTION) * 1000
}

/** From a message's way into Redis to the end of every stream that it concerns. */
async function cuts(): Promise<void> {
  const stack = await startStack(ends, {
    env: { MAX_IN_FLIGHT: '2000', STREAM_IDLE_TIMEOUT: '10m' },
  })
  const upstream = spawn(
    process.execPath,
    [fileURLToPath(new URL('streams-upstream.ts', import.meta.url))],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  ends.after(async () => {
    upstream.kill()
    await once(upstream, 'exit')
  })
  const [port] = await once(createInterface({ input: upstream.stdout }), 'line')
  stack.direct({ url: `http://127.0.0.1:${port}` })

  const most = Number(values.streams)
  for (const wanted of [1, 100, most]) {
    await measureCuts(stack, wanted, ['/idle', '/busy'], wanted > 1_000 ? undefined : 100)
  }
  await measureCuts(stack, most, ['/idle'], 1_000)
}

/**
 * Opens streams to the paths in turn, revokes them with one message, and measures until each of them has ended.
 *
 * @param bound milliseconds
 */
async function measureCuts(
  stack: Stack,
  wanted: number,
  paths: readonly string[],
  bound: number | undefined,
): Promise<void> {
  // Each stream takes the gateway a descriptor on either side.
  const count = Math.min(wanted, Math.floor((openFiles() - 100) / 2))
  report.section(`${count} open streams, ${paths.length > 1 ? 'half of them' : 'all of them'} idle`)
  if (count < wanted)
    report.note(`${wanted} were wanted: a process may open ${openFiles()} files here`)
  const lasts: number[] = []
  const firsts: number[] = []
  const waits: number[] = []
  for (let round = 0; round < (wanted > 1_000 ? 3 : 7); round++) {
    const session = randomUUID()
    const streams = await openStreams(stack, session, count, paths)
    const others = new AbortController()
    const waiting = pollWhile(stack, others.signal)
    const startedAt = performance.now()
    const revoked = revoke(stack.redis, { session_id: session })
    const times = await Promise.all(streams.map(stream => stream.ended))
    await revoked
    others.abort()
    waits.push(Math.max(...(await waiting)))
    firsts.push(Math.min(...times) - startedAt)
    lasts.push(Math.max(...times) - startedAt)
    for (const stream of streams) stream.socket.destroy()
    await until(async () => (await stack.metric('streams_open')) === 0, 60_000)
  }
  report.figure('message to first cut (median of rounds)', median(firsts), 'ms', 100)
  report.figure('message to last cut (median of rounds)', median(lasts), 'ms', bound)
  report.figure('message to last cut (worst round)', Math.max(...lasts), 'ms')
  report.figure('longest that another request waited (median of rounds)', median(waits), 'ms', 250)
}

interface OpenStream {
  readonly socket: Socket
  /** `performance.now()` at which the last event and the trailer had come. */
  readonly ended: Promise<number>
}

async function openStreams(
  stack: Stack,
  sid: string,
  count: number,
  paths: readonly string[],
): Promise<OpenStream[]> {
  const streams: OpenStream[] = []
  let next = 0
  const open = async () => {
    while (next < count) {
      const path = paths[next++ % paths.length] ?? ''
      streams.push(await openStream(stack.gateway.port, path, stack.mint({ sid })))
    }
  }
  await Promise.all(Array.from({ length: Math.min(50, count) }, open))
  return streams
}

async function openStream(port: number, path: string, token: string): Promise<OpenStream> {
  const socket = connect(port, '127.0.0.1')
  socket.setEncoding('latin1')
  const opening = Promise.withResolvers<void>()
  const ending = Promise.withResolvers<number>()
  ending.promise.catch(() => undefined)
  let text = ''
  socket.on('data', (chunk: string) => {
    text = (text + chunk).slice(-2_048)
    if (text.includes('data: open')) opening.resolve()
    if (REVOKED_END.test(text)) ending.resolve(performance.now())
  })
  const broken = () => {
    const error = new Error(`the stream ended with: ${text}`)
    opening.reject(error)
    ending.reject(error)
  }
  socket.on('close', broken)
  socket.on('error', broken)
  socket.write(`${head(`GET ${path}`, token)}\r\n`)
  await opening.promise
  return { socket, ended: ending.promise }
}

/** One request after the other; resolves to how long each took, in milliseconds. */
async function pollWhile(stack: Stack, signal: AbortSignal): Promise<number[]> {
  const times: number[] = []
  do {
    const startedAt = performance.now()
    const { status } = await stack.call('/other')
    if (status !== 200) throw new Error(`another request got ${status}`)
    times.push(performance.now() - startedAt)
  } while (!signal.aborted)
  return times
}
