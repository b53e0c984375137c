// Looks at everything that a gateway of this configuration needs, and leaves nothing behind.

import { randomBytes } from 'node:crypto'
import { access, constants, open, stat, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import Fastify, { type FastifyInstance } from 'fastify'
import { Pool } from 'undici'
import { type Config, ConfigError, configWarnings, loadConfig, pem } from '../config.ts'
import { createMemoryStore } from '../dev/memory-store.ts'
import { BoundedRequest } from '../lib/bounded-request.ts'
import { connector } from '../lib/connector.ts'
import { usableKeys } from '../lib/jwk.ts'
import { readCertificates } from '../lib/key-pair.ts'
import { databaseOptions, stsConnection } from '../options.ts'
import bindings from '../plugins/bindings.ts'
import bindingsFile from '../plugins/bindings-file.ts'
import bindingsTable from '../plugins/bindings-table.ts'
import database from '../plugins/database.ts'
import revocations from '../plugins/revocations/index.ts'
import storePlugin, { type Store } from '../plugins/store.ts'
import type { Run } from './command.ts'
import { columns, printable, printJson, printLine, toned } from './output.ts'
import { connect, readOnly } from './store.ts'

interface Options {
  readonly zone?: string | undefined
  readonly json?: boolean | undefined
}

/** What was found of one thing. */
export interface Looked {
  readonly name: string
  readonly result: 'ok' | 'warn' | 'fail' | 'skipped'
  readonly detail: string
}

const TONES = { ok: 'good', warn: 'doubtful', fail: 'bad', skipped: 'quiet' } as const
/** Certificates that end within so many days are worth a word. */
const SOON = 14
const DAY = 24 * 60 * 60 * 1_000
/** The STS takes signatures that are 60 s old or young at most. */
const SKEW = 30_000
const LIMIT = 256 * 1024

/** `caracal-gateway check`. */
export const check: Run<Options> = async ({ zone, json }, env) => {
  const looked = await lookAt(env, zone)
  const ok = looked.every(({ result }) => result !== 'fail')
  if (json) printJson({ ok, checks: looked })
  else {
    const rows = columns(
      looked.map(({ name, result, detail }) => [result, name, printable(detail)]),
    )
    for (const [at, row] of rows.entries()) {
      const result = looked[at]?.result ?? 'ok'
      printLine(row.replace(result, toned(TONES[result], result)))
    }
  }
  return ok ? 0 : 1
}

async function lookAt(env: NodeJS.ProcessEnv, zone: string | undefined): Promise<Looked[]> {
  let config: Config
  try {
    config = loadConfig(env)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return error.problems.map(detail => ({ name: 'configuration', result: 'fail', detail }))
  }
  const warnings = configWarnings(config)
  return [
    ...(warnings.length === 0
      ? [{ name: 'configuration', result: 'ok' as const, detail: `mode ${config.mode}` }]
      : warnings.map(detail => ({ name: 'configuration', result: 'warn' as const, detail }))),
    ...certificates(config),
    ...(await held(config)),
    ...(await sts(config, zone)),
    await replayDirectory(config),
  ]
}

function certificates(config: Config): Looked[] {
  const files = {
    TLS_CERT_FILE: config.tlsCertFile,
    STS_CERT_FILE: config.stsCertFile,
    STS_CA_FILE: config.stsCaFile,
    UPSTREAM_CA_FILE: config.upstreamCaFile,
    REDIS_CA_FILE: config.redisCaFile,
  }
  return Object.entries(files).flatMap(([name, file]): Looked[] => {
    if (file === undefined) return []
    const all = readCertificates(pem(file) ?? '') ?? []
    const ends = Math.min(...all.map(({ validTo }) => Date.parse(validTo)))
    const begins = Math.max(...all.map(({ validFrom }) => Date.parse(validFrom)))
    const detail = `valid until ${new Date(ends).toISOString()}`
    if (ends <= Date.now()) return [{ name, result: 'fail', detail: `expired: ${detail}` }]
    if (begins > Date.now()) return [{ name, result: 'fail', detail: 'is not valid yet' }]
    return [{ name, result: ends - Date.now() < SOON * DAY ? 'warn' : 'ok', detail }]
  })
}

/** What a gateway holds while it runs: store, database, bindings, revocations, by its own plugins. */
async function held(config: Config): Promise<Looked[]> {
  const app = Fastify()
  const looked: Looked[] = []
  const look = async (name: string, work: () => Promise<string>): Promise<boolean> => {
    const result = await attempt(name, work)
    looked.push(result)
    return result.result === 'ok'
  }
  try {
    let store: Store | undefined
    if (config.redisUrl === undefined) {
      store = createMemoryStore()
      looked.push({
        name: 'redis',
        result: 'skipped',
        detail: 'no REDIS_URL: the store is in the process',
      })
    } else {
      const options = { ...config, redisUrl: config.redisUrl }
      await look('redis', async () => {
        store = await connect(options)
        await store.ping()
        return 'answers, and takes writes'
      })
    }
    await app.register(database, databaseOptions(config))
    await app.register(bindings)
    await lookAtBindings(app, config, look)
    if (store === undefined) {
      looked.push({ name: 'revocations', result: 'skipped', detail: 'Redis cannot be reached' })
      return looked
    }
    await app.register(storePlugin, { store: readOnly(store) })
    await look('revocations', async () => {
      await app.register(revocations, {
        hmacKey: config.streamsHmacKey?.reveal(),
        previousHmacKey: config.streamsHmacKeyPrevious?.reveal(),
      })
      const where = config.databaseUrl === undefined ? 'the stream' : 'the database'
      const gap = app.revocations.historyIncomplete
        ? '; the last 24 hours may have been trimmed'
        : ''
      return `${app.revocations.size} read from ${where}${gap}`
    })
    return looked
  } finally {
    await app.close()
  }
}

async function lookAtBindings(
  app: FastifyInstance,
  config: Config,
  look: (name: string, work: () => Promise<string>) => Promise<boolean>,
): Promise<void> {
  const { bindingsFile: file, databaseUrl } = config
  if (databaseUrl !== undefined) {
    await look('postgresql', async () => {
      await app.database?.rows('select 1', [])
      return 'answers'
    })
  }
  await look('bindings', async () => {
    if (file !== undefined) await app.register(bindingsFile, { file })
    else if (databaseUrl !== undefined) await app.register(bindingsTable)
    else return 'none are configured: the STS alone decides'
    return `${app.bindings.size} resources from ${file === undefined ? 'the table' : file}`
  })
}

async function sts(config: Config, zone: string | undefined): Promise<Looked[]> {
  const { origin, pathname } = new URL(config.stsUrl)
  const prefix = pathname.replace(/\/$/, '')
  const timeout = config.stsTimeout
  const pool = new Pool(origin, {
    connect: connector({ timeout, rejectUnauthorized: true, ...stsConnection(config) }),
  })
  const get = (path: string) =>
    new BoundedRequest(pool, { path: `${prefix}${path}`, method: 'GET' }, { timeout, limit: LIMIT })
      .answer
  try {
    const looked = [
      await attempt('sts', async () => {
        const { status, headers } = await get('/health')
        if (status < 200 || status > 299) throw new Error(`/health answers ${status}`)
        const skew = Math.abs(Date.parse(String(headers['date'])) - Date.now())
        if (skew > SKEW) {
          throw new Error(
            `its clock is ${Math.round(skew / 1_000)} s away: it takes signatures within 60 s`,
          )
        }
        return '/health answers'
      }),
    ]
    if (zone === undefined) {
      return [...looked, { name: 'keys', result: 'skipped', detail: 'name a zone with --zone' }]
    }
    const keys = await attempt('keys', async () => {
      const { status, text = '' } = await get(
        `/.well-known/jwks.json?zone_id=${encodeURIComponent(zone)}`,
      )
      if (status !== 200) throw new Error(`the keys of zone ${zone}: the STS answers ${status}`)
      const count = usableKeys(JSON.parse(text))?.size ?? 0
      if (count === 0) throw new Error(`zone ${zone} has no ES256 key`)
      return `zone ${zone} has ${count}`
    })
    return [...looked, keys]
  } finally {
    await pool.destroy()
  }
}

async function replayDirectory({ auditReplayDir: directory }: Config): Promise<Looked> {
  const name = 'audit directory'
  if (directory === undefined) {
    return { name, result: 'skipped', detail: 'no AUDIT_REPLAY_DIR: evidence waits in memory' }
  }
  return attempt(name, async () => {
    const found = await stat(directory).catch(() => undefined)
    if (found === undefined) {
      let parent = dirname(directory)
      while ((await stat(parent).catch(() => undefined)) === undefined) parent = dirname(parent)
      await access(parent, constants.W_OK | constants.X_OK)
      return `${directory} is not there, and can be made`
    }
    if (!found.isDirectory()) throw new Error(`${directory} is no directory`)
    await access(directory, constants.R_OK)
    // No name that a gateway would take for evidence, should the process end here.
    const path = join(directory, `${randomBytes(8).toString('hex')}.tmp`)
    const file = await open(path, 'wx', 0o600)
    try {
      await file.writeFile(' ')
      await file.sync()
    } finally {
      await file.close()
      await unlink(path)
    }
    return `${directory} can be written`
  })
}

async function attempt(name: string, work: () => Promise<string>): Promise<Looked> {
  try {
    return { name, result: 'ok', detail: await work() }
  } catch (error) {
    return { name, result: 'fail', detail: error instanceof Error ? error.message : String(error) }
  }
}
