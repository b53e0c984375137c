/**
 * What plugins that others use beside the gateway are told of the configuration.
 */
import { type Config, pem } from './config.ts'
import { createMemoryStore } from './dev/memory-store.ts'
import type { DatabaseOptions } from './plugins/database.ts'
import type { StoreOptions } from './plugins/store.ts'

/** Where the store is; in the process without a `REDIS_URL`. */
export function storeOptions(config: Config): StoreOptions {
  if (config.redisUrl === undefined) return { store: createMemoryStore() }
  return {
    url: config.redisUrl.reveal(),
    ca: pem(config.redisCaFile),
    dialTimeout: config.redisDialTimeout,
    readTimeout: config.redisReadTimeout,
  }
}

/** What connections to the STS are made with, PEM. */
export function stsConnection(config: Config) {
  return {
    ca: pem(config.stsCaFile),
    cert: pem(config.stsCertFile),
    key: pem(config.stsKeyFile),
  }
}

/** Milliseconds. A snapshot of the revocations has 40 s to be read in: it is fresh for 70 s, and read every 30 s. */
const STATEMENT_TIMEOUT = 10_000

/** How PostgreSQL is read; without a `DATABASE_URL` it is not. */
export function databaseOptions(config: Config): DatabaseOptions {
  return {
    url: config.databaseUrl?.reveal(),
    ca: pem(config.databaseCaFile),
    maxConnections: config.dbMaxConns,
    minConnections: config.dbMinConns,
    connectTimeout: config.dbConnectTimeout,
    maxLifetime: config.dbMaxConnLifetime,
    maxIdle: config.dbMaxConnIdle,
    statementTimeout: STATEMENT_TIMEOUT,
  }
}
