// A real Redis for tests: a child process on loopback, gone with the test that started it.
import { type ChildProcess, spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'

/** A running server and the ways to trouble it. */
export interface TestRedis {
  readonly url: string
  readonly port: number
  /** Process id of the server that runs now. */
  readonly pid: number
  /** Sends a command on the test's own connection; waits for a connection if there is none. */
  command(name: string, ...args: (string | number)[]): Promise<unknown>
  /** Adds an entry to a stream; resolves to its id. */
  add(stream: string, fields: Readonly<Record<string, string>>, id?: string): Promise<string>
  /** All entries of a stream, oldest first. */
  entries(stream: string): Promise<{ id: string; fields: Record<string, string> }[]>
  /** Ends the server at once; what it held is lost unless it is durable. */
  stop(): Promise<void>
  /** Starts a server on the same port, empty unless it is durable; ends the one that still runs. */
  restart(): Promise<void>
  /** The server answers nothing, but keeps its connections, until {@link TestRedis.resume}. */
  pause(): void
  resume(): void
}

/** What {@link startRedis} needs of a test's context, or of `node:test` itself for a whole file. */
export interface Cleanup {
  after(fn: () => Promise<void>): void
}

/** Options of {@link startRedis}. */
export interface TestRedisOptions {
  /** Further arguments of `redis-server`. */
  readonly args?: readonly string[]
  /** The password that the server asks for. */
  readonly password?: string
  /** Every command is on the disk before it is answered, and read again by {@link TestRedis.restart}. */
  readonly durable?: boolean
}

/**
 * Starts `redis-server` on a free port, and ends it when the test is over.
 *
 * @throws Error when the server does not come up; is it installed?
 */
export async function startRedis(t: Cleanup, options: TestRedisOptions = {}): Promise<TestRedis> {
  const dir = await mkdtemp(join(tmpdir(), 'gateway-redis-'))
  const auth = options.password ? ['--requirepass', options.password] : []
  const disk = options.durable ? ['--appendonly', 'yes', '--appendfsync', 'always'] : []
  const extra = [...auth, ...disk, ...(options.args ?? [])]
  let port = 0
  let server = await withFreshPort(async () => {
    port = await freePort()
    return serve(port, dir, extra)
  })
  const client = new Redis({
    host: '127.0.0.1',
    port,
    ...(options.password && { password: options.password }),
    protocol: 2,
    maxRetriesPerRequest: null,
    retryStrategy: () => 20,
    lazyConnect: true,
  })
  client.on('error', () => undefined)
  t.after(async () => {
    client.disconnect()
    await endServer(server)
    await rm(dir, { recursive: true, force: true })
  })

  const command = (name: string, ...args: (string | number)[]) => client.call(name, ...args)
  return {
    url: `redis://${options.password ? `:${options.password}@` : ''}127.0.0.1:${port}`,
    port,
    get pid() {
      return server.pid ?? 0
    },
    command,
    async add(stream, fields, id = '*') {
      return String(await command('XADD', stream, id, ...Object.entries(fields).flat()))
    },
    async entries(stream) {
      return (await client.xrange(stream, '-', '+')).map(([id, flat]) => {
        const fields: Record<string, string> = {}
        for (let at = 0; at < flat.length; at += 2) fields[flat[at] ?? ''] = flat[at + 1] ?? ''
        return { id, fields }
      })
    },
    async stop() {
      await endServer(server)
    },
    async restart() {
      await endServer(server)
      server = await serve(port, dir, extra)
    },
    pause() {
      server.kill('SIGSTOP')
    },
    resume() {
      server.kill('SIGCONT')
    },
  }
}

/** Starts what listens on a {@link freePort} again when somebody else took the port in the meantime. */
export async function withFreshPort<T>(start: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await start()
    } catch (error) {
      if (attempt === 5 || !/EADDRINUSE|already in use/i.test(String(error))) throw error
    }
  }
}

/**
 * A port of 127.0.0.1 that nobody listens on, below those that the system gives to outgoing connections: one of these
 * could take it before it is listened on.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(10_000, 32_000)
    const probe = createServer().listen(port, '127.0.0.1')
    const free = await once(probe, 'listening').then(
      () => true,
      () => false,
    )
    probe.close()
    if (free) {
      await once(probe, 'close')
      return port
    }
  }
}

function serve(port: number, dir: string, extra: readonly string[]): Promise<ChildProcess> {
  const args = ['--port', `${port}`, '--bind', '127.0.0.1', '--dir', dir]
  args.push('--save', '', '--appendonly', 'no', ...extra)
  return runServer(args, 'Ready to accept connections')
}

/**
 * Runs `redis-server`; resolves once it has printed the text.
 *
 * @throws Error with its output when it ends before
 */
export async function runServer(args: readonly string[], text: string): Promise<ChildProcess> {
  const server = spawn(process.env['REDIS_SERVER'] || 'redis-server', args, {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  // A test run that breaks off leaves no server behind.
  const onExit = () => server.kill('SIGKILL')
  process.once('exit', onExit)
  server.once('exit', () => process.off('exit', onExit))
  let output = ''
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.once('close', () => reject(new Error(`redis-server ended: ${output}`)))
    server.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      output += chunk
      if (output.includes(text)) resolve()
    })
  })
  return server
}

/** Ends a server at once, also one that was stopped. */
export async function endServer(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return
  const ended = once(server, 'exit')
  // SIGKILL ends a stopped process too.
  server.kill('SIGKILL')
  await ended
}
