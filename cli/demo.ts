// Guarantees a gateway to try in one command: everything on loopback, nothing left behind.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createGateway } from '../app.ts'
import { loadConfig } from '../config.ts'
import { createEcho } from '../dev/echo.ts'
import { createDevSts, DEV_ISSUER } from '../dev/sts.ts'
import type { Run } from './command.ts'

const HOST = '127.0.0.1'
const ZONE = 'zone-demo'
const RESOURCE = 'resource://demo'
const READY_TIMEOUT = 10_000
const READY_INTERVAL = 50
// A second signal within this time is the same Ctrl-C, passed on by a parent process.
const SAME_SIGNAL = 500

const BINDINGS = `version: 1
zones:
  ${ZONE}:
    resources:
      ${RESOURCE}:
        operation_enforcement: enforced
        operations:
          - { method: GET,  path: /hello,      scope: demo:read }
          - { method: GET,  path: /items/:id,  scope: demo:read }
          - { method: POST, path: /items,      scope: demo:write }
`

/** What the demo runs, and the variable that moves its port. */
const PORTS = {
  gateway: { variable: 'DEMO_GATEWAY_PORT', port: 8081 },
  sts: { variable: 'DEMO_STS_PORT', port: 8080 },
  upstream: { variable: 'DEMO_UPSTREAM_PORT', port: 8082 },
} as const

type Part = keyof typeof PORTS
type Close = () => unknown

/** Where everything is. */
interface Parts {
  readonly gateway: string
  readonly sts: string
  readonly upstream: string
  readonly store: 'redis' | 'memory'
}

/** `caracal-gateway demo`. */
export const demo: Run<{ readonly json?: boolean | undefined }> = async ({ json }, env) => {
  // All parts are closed; what a failed start has left behind is not worth waiting for.
  process.exit(await runDemo(env, json === true ? JSON.stringify : describe))
}

/** An error whose message is all that the user needs. */
class DemoError extends Error {}

/**
 * Runs gateway, development STS and echo upstream until SIGINT or SIGTERM.
 *
 * Reads `DEMO_GATEWAY_PORT`, `DEMO_STS_PORT`, `DEMO_UPSTREAM_PORT` (0: the system chooses),
 * `REDIS_URL` (unset: a store inside the process) and `LOG_LEVEL` (default `info`).
 *
 * @returns the exit status: 0 when it was stopped, 1 when it could not start.
 */
async function runDemo(env: NodeJS.ProcessEnv, text: (parts: Parts) => string): Promise<number> {
  const stopped = stopSignal()
  const closers: Close[] = []
  const starting = start(env, closers)
  try {
    const parts = await Promise.race([starting, stopped])
    if (parts !== undefined) process.stdout.write(`${text(parts).trimEnd()}\n`)
    await stopped
    return 0
  } catch (error) {
    process.stderr.write(`caracal-gateway demo: ${messageOf(error)}\n`)
    return 1
  } finally {
    // Stopped in the middle of the start: what it still opens has to be closed as well.
    await Promise.allSettled([starting])
    for (const close of closers.toReversed()) await close()
  }
}

/** Starts all parts, front last, and returns where they are. */
async function start(env: NodeJS.ProcessEnv, closers: Close[]): Promise<Parts> {
  const hmacKey = randomKey()
  const directory = mkdtempSync(join(tmpdir(), 'caracal-demo-'))
  closers.push(() => rmSync(directory, { recursive: true, force: true }))
  const bindingsFile = join(directory, 'bindings.yaml')
  writeFileSync(bindingsFile, BINDINGS)

  const echo = createEcho()
  await listen('upstream', env, async port => {
    echo.listen(port, HOST)
    await once(echo, 'listening')
  })
  closers.push(() => {
    echo.close()
    echo.closeAllConnections()
  })
  const upstream = urlOf(echo.address())

  const sts = createDevSts({
    zones: [ZONE],
    resources: { [RESOURCE]: { url: upstream, auth_mode: 'caracal_jwt' } },
    hmacKey,
  })
  await listen('sts', env, port => sts.listen(port, HOST))
  closers.push(() => sts.close())

  const { REDIS_URL, LOG_LEVEL } = env
  const app = await createGateway(
    loadConfig({
      CARACAL_MODE: 'dev',
      HOST,
      PORT: String(portOf('gateway', env)),
      LOG_LEVEL: LOG_LEVEL || 'info',
      STS_URL: sts.url,
      STS_ISSUER: DEV_ISSUER,
      BINDINGS_FILE: bindingsFile,
      GATEWAY_STS_HMAC_KEY: hmacKey,
      STREAMS_HMAC_KEY: randomKey(),
      AUDIT_HMAC_KEY: randomKey(),
      ...(REDIS_URL ? { REDIS_URL, REDIS_DIAL_TIMEOUT: '2s' } : {}),
    }),
  )
  closers.push(() => app.close())
  await listen('gateway', env, port => app.listen({ port, host: HOST }))
  const gateway = urlOf(app.server.address())
  await untilReady(gateway)
  return { gateway, sts: sts.url, upstream, store: REDIS_URL ? 'redis' : 'memory' }
}

function describe(at: Parts): string {
  const mint = `${at.sts}/mint?resource=${RESOURCE}&scope=demo:read`
  const headers = `-H "Authorization: Bearer $(curl -s '${mint}')" -H 'X-Caracal-Resource: ${RESOURCE}'`
  return `caracal-gateway demo, ready. For this machine alone: anyone who reaches the STS can mint.

  gateway          ${at.gateway}
  development STS  ${at.sts}
  echo upstream    ${at.upstream}
  store            ${at.store === 'memory' ? 'in this process' : 'the Redis of REDIS_URL'}

Mint a mandate and use it; the answer shows what reached the upstream:

curl -i ${headers} ${at.gateway}/hello

Refused before anything is spent, because no operation is declared for it (403):

curl -i -X DELETE ${headers} ${at.gateway}/items/1

Stop with Ctrl-C.
`
}

async function listen(
  part: Part,
  env: NodeJS.ProcessEnv,
  open: (port: number) => Promise<unknown>,
): Promise<void> {
  const port = portOf(part, env)
  try {
    await open(port)
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code !== 'EADDRINUSE' && code !== 'EACCES') throw error
    const { variable } = PORTS[part]
    const why = code === 'EADDRINUSE' ? 'is taken' : 'may not be used by this user'
    throw new DemoError(
      `port ${port} ${why}: stop what listens there, or set ${variable} to a free port (0: the system chooses)`,
    )
  }
}

function portOf(part: Part, env: NodeJS.ProcessEnv): number {
  const { variable, port: preset } = PORTS[part]
  const text = env[variable]
  if (!text) return preset
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN
  if (!(port <= 65_535)) throw new DemoError(`${variable} must be a port, 0 to 65535`)
  return port
}

async function untilReady(gateway: string): Promise<void> {
  const deadline = Date.now() + READY_TIMEOUT
  for (;;) {
    const answer = await fetch(`${gateway}/ready`)
    const body = await answer.text()
    if (answer.ok) return
    if (Date.now() > deadline) throw new DemoError(`the gateway does not get ready: ${body.trim()}`)
    await new Promise(resolve => {
      setTimeout(resolve, READY_INTERVAL)
    })
  }
}

/** Resolves at the first signal; a later one that is not its echo ends the process at once. */
function stopSignal(): Promise<undefined> {
  return new Promise(resolve => {
    let first: number | undefined
    const onSignal = () => {
      first ??= Date.now()
      if (Date.now() - first > SAME_SIGNAL) process.exit(1)
      resolve(undefined)
    }
    process.on('SIGINT', onSignal)
    process.on('SIGTERM', onSignal)
  })
}

function urlOf(address: AddressInfo | string | null): string {
  if (address === null || typeof address === 'string') throw new TypeError('no address to show')
  return `http://${address.address}:${address.port}`
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function randomKey(): string {
  return randomBytes(32).toString('hex')
}
