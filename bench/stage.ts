// What the contenders of a benchmark talk to: a real Redis, and an STS and an upstream that cost next to nothing beside
// what is measured. Each is a process of its own.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DEV_ISSUER } from '../dev/sts.ts'
import { KEYS } from '../test/gateway/harness.ts'
import { type Cleanup, startRedis, type TestRedis } from '../test/redis.ts'
import type { Mandates } from './flood.ts'
import { startServer } from './processes.ts'
import { createSigningKey, SCOPE, type SigningKey, ZONE } from './signer.ts'

/** The resource of all requests. */
export const RESOURCE = 'resource://bench'
/** What opens `/metrics` of a gateway under test. */
export const METRICS_BEARER = 'bench-metrics'

/** What benchmarks call. */
const OPERATIONS = [
  ['GET', '/v1/:id'],
  ['POST', '/v1/:id'],
  ['GET', '/idle'],
  ['GET', '/bytes/:count'],
] as const

/** The counterparts of all contenders. */
export interface Stage {
  readonly redis: TestRedis
  readonly upstream: string
  readonly key: SigningKey
  /** A folder for the benchmark's own files; it goes with the benchmark. */
  readonly folder: string
  /** Environment of a gateway, as strict as in production, whose bindings declare the operations of the benchmarks. */
  readonly env: Readonly<Record<string, string>>
  /** Mandates for {@link RESOURCE}, so many of them. */
  mandates(count: number, options?: { readonly reused: boolean }): Mandates
}

/** Starts them; they end with the benchmark. */
export async function startStage(ends: Cleanup): Promise<Stage> {
  const folder = await mkdtemp(join(tmpdir(), 'gateway-bench-'))
  ends.after(() => rm(folder, { recursive: true, force: true }))
  const redis = await startRedis(ends)
  const { said: port } = await startServer(ends, 'streams-upstream.ts', {}, /^(\d+)$/)
  const upstream = `http://127.0.0.1:${port}`
  const key = createSigningKey()
  const routed = { BENCH_RESOURCE: RESOURCE, BENCH_UPSTREAM: upstream }
  const { said: stsPort } = await startServer(
    ends,
    'sts.ts',
    { ...routed, BENCH_KEY: JSON.stringify(key) },
    /^(\d+)$/,
  )
  const env = {
    ...routed,
    CARACAL_MODE: 'stable',
    STS_URL: `http://127.0.0.1:${stsPort}`,
    STS_ISSUER: DEV_ISSUER,
    REDIS_URL: redis.url,
    GATEWAY_STS_HMAC_KEY: KEYS.sts,
    STREAMS_HMAC_KEY: KEYS.streams,
    AUDIT_HMAC_KEY: KEYS.audit,
    METRICS_BEARER,
    BINDINGS_FILE: await writeBindings(folder, 1),
    STREAM_IDLE_TIMEOUT: '1h',
  }
  return {
    redis,
    upstream,
    key,
    folder,
    env,
    mandates: (count, options) => ({ resource: RESOURCE, key, count, ...options }),
  }
}

/** Writes a bindings file of so many resources, {@link RESOURCE} among them. @returns its path */
export async function writeBindings(folder: string, count: number): Promise<string> {
  const operations = OPERATIONS.map(([method, path]) => ({ method, path, scope: SCOPE }))
  const others = Array.from({ length: count - 1 }, (_, n) => `resource://other-${n}`)
  const names = [...others, RESOURCE]
  const resources = Object.fromEntries(names.map(name => [name, { operations }]))
  const file = join(folder, `bindings-${count}.json`)
  await writeFile(file, JSON.stringify({ version: 1, zones: { [ZONE]: { resources } } }))
  return file
}
