// The gateway as its users meet it: the built service as a child process, a real Redis, a strict STS, and an upstream
// that records what reached it.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Client } from 'undici'
import { createDevSts, type Claims, type DevSts, type Directive } from '../../dev/sts.ts'
import { assertEvidence, assertMembers } from '../evidence.ts'
import {
  type Cleanup,
  freePort,
  startRedis,
  type TestRedis,
  type TestRedisOptions,
  withFreshPort,
} from '../redis.ts'
import { until } from '../until.ts'

/** Keys that the gateway and its counterparts share in tests. */
export const KEYS = { sts: 'a1'.repeat(32), streams: 'b2'.repeat(32), audit: 'c3'.repeat(32) }

export const ZONE = 'zone-1'
export const RESOURCE = 'resource://billing-api'

/** `TEST_WORKERS`: the processes of every gateway of these tests, unless a test says how many; 1 unless told. */
export const WORKERS = Number(process.env['TEST_WORKERS'] || 1)

/**
 * One process, whatever `TEST_WORKERS` says: for tests of what each worker knows by itself, as replicas do (its circuit,
 * key sets, cached names, copy of the bindings, when it last saw Redis or the disk, counts of what it has read).
 */
export const ALONE = { WORKERS: '1' } as const

const SERVER = fileURLToPath(new URL('../../dist/server.js', import.meta.url))

/** A request as it reached the upstream. */
export interface Arrival {
  readonly method: string
  readonly url: string
  readonly headers: IncomingMessage['headers']
  readonly rawHeaders: readonly string[]
  /** Resolves when the body has arrived; rejects when it broke off. */
  readonly body: Promise<Buffer>
}

/** An upstream that records. */
export interface Upstream {
  readonly url: string
  readonly port: number
  readonly arrivals: Arrival[]
  readonly server: Server
  /** Answers; replace it to answer otherwise. Default: 200 `ok`. */
  handler: (request: IncomingMessage, response: ServerResponse, body: Promise<Buffer>) => void
}

/** Starts an upstream on loopback. */
export async function startUpstream(t: Cleanup): Promise<Upstream> {
  const arrivals: Arrival[] = []
  const server = createServer((request, response) => {
    const body = new Promise<Buffer>((resolve, reject) => {
      const chunks: Buffer[] = []
      request.on('data', chunk => chunks.push(chunk))
      request.on('end', () => resolve(Buffer.concat(chunks)))
      request.on('error', reject)
      request.on('close', () => reject(new Error('the body broke off')))
    })
    body.catch(() => undefined)
    const { method = '', url = '', headers, rawHeaders } = request
    arrivals.push({ method, url, headers, rawHeaders, body })
    upstream.handler(request, response, body)
  })
  server.on('checkContinue', (request, response) => server.emit('request', request, response))
  const port = await listen(server)
  t.after(async () => {
    server.closeAllConnections()
    server.close()
  })
  const upstream: Upstream = {
    url: `http://127.0.0.1:${port}`,
    port,
    arrivals,
    server,
    handler: (_request, response, body) => {
      body.then(
        () => response.end('ok'),
        () => response.destroy(),
      )
    },
  }
  return upstream
}

/** Listens on a free port of 127.0.0.1. */
export async function listen(server: Server | import('node:net').Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

/** One line of the gateway's log. */
export type LogLine = Readonly<Record<string, unknown>>

/** A running gateway. */
export interface Gateway {
  readonly url: string
  readonly port: number
  /** Its process; the supervisor when it has several. */
  readonly child: ChildProcess
  /** Signals all of its processes. */
  readonly signal: (name: NodeJS.Signals) => void
  /** Process ids of those of its processes that serve: its workers, as it has told of them, or the one. */
  readonly servers: () => number[]
  /** Its `AUDIT_REPLAY_DIR`: one of its own, unless the environment names one. */
  readonly replayDirectory: string
  /** What it logged so far. */
  readonly logs: LogLine[]
  /** All that it wrote, for canaries. */
  readonly output: () => string
  stop(): Promise<number | null>
}

/** Starts `node dist/server.js`; resolves when it is ready. */
export function startGateway(t: Cleanup, env: Readonly<Record<string, string>>): Promise<Gateway> {
  return withFreshPort(() => launchGateway(t, env))
}

async function launchGateway(t: Cleanup, env: Readonly<Record<string, string>>): Promise<Gateway> {
  const port = await freePort()
  const replayDirectory =
    env['AUDIT_REPLAY_DIR'] ?? (await mkdtemp(join(tmpdir(), 'gateway-evidence-')))
  const several = Number(env['WORKERS'] ?? WORKERS) > 1
  const child = spawn(process.execPath, [SERVER], {
    env: {
      PATH: process.env['PATH'] ?? '',
      PORT: String(port),
      HOST: '127.0.0.1',
      AUDIT_REPLAY_DIR: replayDirectory,
      WORKERS: String(WORKERS),
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    // A group of its own when there are several, to be signalled as one.
    detached: several,
  })
  const signal = (name: NodeJS.Signals) => {
    if (!several || child.pid === undefined) child.kill(name)
    else if (child.exitCode === null && child.signalCode === null) process.kill(-child.pid, name)
  }
  const onExit = () => signal('SIGKILL')
  process.once('exit', onExit)
  child.once('exit', () => process.off('exit', onExit))
  t.after(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      const gone = once(child, 'exit')
      signal('SIGKILL')
      await gone
    }
    if (env['AUDIT_REPLAY_DIR'] === undefined) {
      await rm(replayDirectory, { recursive: true, force: true })
    }
  })
  const logs: LogLine[] = []
  let output = ''
  // Once its output has been read to the end.
  let ended = false
  child.once('close', () => {
    ended = true
  })
  if (child.stdout === null || child.stderr === null) throw new Error('no output')
  createInterface({ input: child.stdout }).on('line', line => {
    output += `${line}\n`
    logs.push(line.startsWith('{') ? JSON.parse(line) : { msg: line })
  })
  child.stderr.setEncoding('utf8').on('data', text => {
    output += text
  })
  const url = `http${env['TLS_CERT_FILE'] === undefined ? '' : 's'}://127.0.0.1:${port}`
  await until(async () => {
    if (ended) throw new Error(`the gateway ended: ${output}`)
    const listening = logs.some(line => String(line['msg']).startsWith('Server listening'))
    // Of several, one that is ready answers for all before the last one listens. Not every log tells.
    const tells = ['info', 'debug', 'trace'].includes(env['LOG_LEVEL'] ?? 'info')
    if (env['TLS_CERT_FILE'] !== undefined || (several && tells && !listening)) return listening
    const answer = await call(url, '/ready', { resource: null }).catch(() => undefined)
    return answer?.status === 200
  }, 20_000)
  return {
    url,
    port,
    child,
    signal,
    servers() {
      if (!several) return child.pid === undefined ? [] : [child.pid]
      const started = logs.flatMap(({ workers: all, worker: one, msg }) => {
        if (Array.isArray(all)) return all.map(Number)
        return msg === 'a worker was replaced' ? [Number(one)] : []
      })
      const ended = logs.filter(({ msg }) => msg === 'a worker ended and is started again')
      return started.filter(pid => !ended.some(({ worker }) => worker === pid))
    },
    replayDirectory,
    logs,
    output: () => output,
    async stop() {
      if (child.exitCode !== null) return child.exitCode
      const ended = once(child, 'exit')
      child.kill('SIGTERM')
      const [code] = await ended
      return code
    },
  }
}

/** A whole stack: what most tests need. */
export interface Stack {
  readonly redis: TestRedis
  readonly sts: DevSts
  readonly upstream: Upstream
  readonly gateway: Gateway
  /** The environment that the gateway was started with, for a second one. */
  readonly env: Readonly<Record<string, string>>
  /** A mandate for {@link RESOURCE}, with these claims laid over it. */
  mint(claims?: Claims): string
  /** Sets {@link RESOURCE}'s directive: the upstream with these members laid over it. */
  direct(directive: Directive): void
  /** Calls the gateway with a fresh mandate, unless told otherwise. */
  call(path?: string, options?: CallOptions): Promise<Answer>
  /** All audit events so far, oldest first. */
  events(): Promise<AuditEvent[]>
  /** The audit events of one request, once there are any. */
  eventsOf(requestId: string): Promise<AuditEvent[]>
  /** A counter or gauge of `/metrics.json`. */
  metric(name: string): Promise<number>
}

/** How {@link Stack.call} calls. */
export interface CallOptions {
  readonly method?: string
  /** `null` sends none. Default: a fresh one. */
  readonly token?: string | null
  /** `null` sends no resource header. */
  readonly resource?: string | null
  readonly headers?: Readonly<Record<string, string | string[]>>
  readonly body?: string | Buffer
}

/** An answer, read whole. */
export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly text: string
  /** The body as JSON; fails when it is none. */
  readonly json: () => Record<string, unknown>
  readonly requestId: string
}

/** An audit event as it stands in the stream. */
export interface AuditEvent {
  readonly id: string
  readonly zone_id: string
  readonly event_type: string
  readonly request_id: string
  readonly decision: string
  readonly evaluation_status: string
  readonly metadata_json: Readonly<Record<string, unknown>>
  readonly [member: string]: unknown
}

/** Options of {@link startStack}. */
export interface StackOptions {
  /** Laid over the default environment. */
  readonly env?: Readonly<Record<string, string>>
  /** Zones the STS knows beside {@link ZONE}. */
  readonly zones?: readonly string[]
  readonly sts?: Partial<Parameters<typeof createDevSts>[0]>
  readonly redis?: TestRedisOptions
}

/** Starts Redis, STS, upstream and gateway; everything ends with the test. */
export async function startStack(test: Cleanup, options: StackOptions = {}): Promise<Stack> {
  const ends: (() => Promise<void>)[] = []
  const t: Cleanup = { after: end => void ends.push(end) }
  test.after(async () => {
    try {
      const entries = await evidenceIn(redis)
      for (const event of assertEvidence(entries, env.AUDIT_HMAC_KEY || undefined).values()) {
        assertMembers(event)
      }
    } finally {
      for (const end of ends) await end()
    }
  })
  const [redis, upstream] = await Promise.all([startRedis(t, options.redis), startUpstream(t)])
  const directive = { url: upstream.url, auth_mode: 'none' }
  const sts = createDevSts({
    zones: [ZONE, ...(options.zones ?? [])],
    resources: { [RESOURCE]: directive },
    hmacKey: KEYS.sts,
    record: true,
    ...options.sts,
  })
  await sts.listen(0)
  t.after(() => sts.close())
  const env = {
    CARACAL_MODE: 'stable',
    STS_URL: sts.url,
    REDIS_URL: redis.url,
    GATEWAY_STS_HMAC_KEY: KEYS.sts,
    STREAMS_HMAC_KEY: KEYS.streams,
    AUDIT_HMAC_KEY: KEYS.audit,
    METRICS_BEARER: 'metrics-bearer',
    ...options.env,
  }
  const gateway = await startGateway(t, env)
  const mint = (claims: Claims = {}) => sts.mint({ zone_id: ZONE, target: [RESOURCE], ...claims })
  const events = async () =>
    (await redis.entries('caracal.audit.events')).map(({ fields }) =>
      JSON.parse(fields['data'] ?? ''),
    )

  return {
    redis,
    sts,
    upstream,
    gateway,
    env,
    mint,
    direct: members => sts.setResource(RESOURCE, { ...directive, ...members }),
    call: (path, callOptions) => call(gateway.url, path, { token: mint(), ...callOptions }),
    events,
    async eventsOf(requestId) {
      let found: AuditEvent[] = []
      await until(async () => {
        found = (await events()).filter(event => event.request_id === requestId)
        return found.length > 0
      })
      return found
    },
    async metric(name) {
      const answer = await call(gateway.url, '/metrics.json', {
        token: 'metrics-bearer',
        resource: null,
      })
      return Number(answer.json()[name])
    },
  }
}

/** What a Redis holds of evidence at the end; nothing when the test left it unable to answer. */
async function evidenceIn(redis: TestRedis): Promise<Awaited<ReturnType<TestRedis['entries']>>> {
  const { promise: late, resolve } = Promise.withResolvers<[]>()
  const timer = setTimeout(resolve, 1_000, [])
  const entries = await Promise.race([redis.entries('caracal.audit.events'), late])
  clearTimeout(timer)
  return entries
}

/** Sends one request; the body is read whole. Redirects are not followed. */
export async function call(
  gatewayUrl: string,
  path = '/v1/invoices',
  options: CallOptions = {},
): Promise<Answer> {
  const { method = 'GET', token = null, resource = RESOURCE, body } = options
  // A client of its own sends the path as it is given: `URL` would resolve its dot segments.
  const client = new Client(gatewayUrl, { connect: { rejectUnauthorized: false } })
  const response = await client.request({
    path,
    method,
    headers: {
      ...(token !== null && { authorization: `Bearer ${token}` }),
      ...(resource !== null && { 'x-caracal-resource': resource }),
      ...options.headers,
    },
    ...(body !== undefined && { body }),
    headersTimeout: 30_000,
  })
  const text = await response.body.text()
  await client.close()
  return {
    status: response.statusCode,
    headers: response.headers,
    text,
    json: () => JSON.parse(text),
    requestId: String(response.headers['x-request-id']),
  }
}

/** A raw connection: for requests that no HTTP client would send. */
export class Wire {
  readonly socket: Socket
  received = Buffer.alloc(0)
  closed = false

  /** @param socket a connection that stands; default: a new one to the port */
  constructor(port: number, socket: Socket = connect(port, '127.0.0.1')) {
    this.socket = socket
    this.socket.on('data', chunk => {
      this.received = Buffer.concat([this.received, chunk])
    })
    this.socket.on('error', () => undefined)
    this.socket.on('close', () => {
      this.closed = true
    })
  }

  /** What came so far, as latin1 text. */
  get text(): string {
    return this.received.toString('latin1')
  }

  send(data: string | Buffer): void {
    this.socket.write(typeof data === 'string' ? Buffer.from(data, 'latin1') : data)
  }

  /** Resolves when the gateway has closed the connection. */
  async ended(milliseconds = 10_000): Promise<string> {
    await until(() => this.closed, milliseconds)
    return this.text
  }

  /** Resolves when what came matches. */
  async receives(pattern: RegExp, milliseconds = 10_000): Promise<string> {
    await until(() => pattern.test(this.text) || this.closed, milliseconds)
    if (!pattern.test(this.text)) throw new Error(`the connection closed after: ${this.text}`)
    return this.text
  }

  close(): void {
    this.socket.destroy()
  }
}

/** The head of a request that would pass, for {@link Wire}: without the final empty line. */
export function head(line: string, token: string, ...headers: string[]): string {
  return [
    `${line} HTTP/1.1`,
    'Host: gateway.test',
    `Authorization: Bearer ${token}`,
    `X-Caracal-Resource: ${RESOURCE}`,
    ...headers,
    '',
  ].join('\r\n')
}
