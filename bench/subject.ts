// The processes under test: the built gateway, whole or with parts of it replaced, and what it is compared with.
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { request } from 'undici'
import { type Cleanup, freePort, withFreshPort } from '../test/redis.ts'
import { until } from '../test/until.ts'
import { startServer, stop } from './processes.ts'

/** A process under test. */
export interface Subject {
  readonly port: number
  readonly pid: number
  /** What it writes to its standard error so far. */
  readonly errors: () => string
  stop(): Promise<void>
}

/** How a gateway is run. */
export interface GatewayOptions {
  /** Modules that are replaced, as `substitute.ts` wants them. */
  readonly replaced?: Readonly<Record<string, string>> | undefined
  /** Flags of Node.js. */
  readonly flags?: readonly string[] | undefined
}

const SERVER = fileURLToPath(new URL('../dist/server.js', import.meta.url))
const SUBSTITUTE = new URL('substitute.ts', import.meta.url).href
/** Milliseconds; reading a million revocations takes a while. */
const READY_TIMEOUT = 60_000

/** Starts `node dist/server.js` with an `AUDIT_REPLAY_DIR` of its own; resolves when it is ready. */
export function startGateway(
  ends: Cleanup,
  env: Readonly<Record<string, string>>,
  options: GatewayOptions = {},
): Promise<Subject> {
  return withFreshPort(() => launch(ends, env, options))
}

async function launch(
  ends: Cleanup,
  env: Readonly<Record<string, string>>,
  { replaced, flags = [] }: GatewayOptions,
): Promise<Subject> {
  const port = await freePort()
  const directory = await mkdtemp(join(tmpdir(), 'gateway-bench-evidence-'))
  const imports = replaced === undefined ? [] : ['--import', SUBSTITUTE]
  const child = spawn(process.execPath, [...flags, ...imports, SERVER], {
    env: {
      PATH: process.env['PATH'] ?? '',
      PORT: String(port),
      HOST: '127.0.0.1',
      AUDIT_REPLAY_DIR: directory,
      ...(replaced !== undefined && { BENCH_REPLACED: JSON.stringify(replaced) }),
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  ends.after(async () => {
    await stop(child)
    await rm(directory, { recursive: true, force: true })
  })
  let errors = ''
  // Its log has a reader that keeps up, as in production.
  child.stdout.resume()
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-10_000)
  })
  const ready = `http://127.0.0.1:${port}/ready`
  await until(async () => {
    if (child.exitCode !== null) throw new Error(`the gateway ended: ${errors}`)
    const status = await request(ready).then(
      async answer => {
        await answer.body.dump()
        return answer.statusCode
      },
      () => 0,
    )
    return status === 200
  }, READY_TIMEOUT)
  return { port, pid: child.pid ?? 0, errors: () => errors, stop: () => stop(child) }
}

/** Starts bare reply-from before an upstream; without one, a bare Fastify reply. */
export async function startBare(ends: Cleanup, upstream?: string): Promise<Subject> {
  const env = upstream === undefined ? {} : { UPSTREAM: upstream }
  const { child, said } = await startServer(ends, 'bare.ts', env, /^(\d+)$/)
  return { port: Number(said), pid: child.pid ?? 0, errors: () => '', stop: () => stop(child) }
}
