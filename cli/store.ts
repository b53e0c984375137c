// Connects a command to Redis as the gateway connects to it.

import type { FastifyBaseLogger } from 'fastify'
import { pino } from 'pino'
import { pem, type StreamConfig } from '../config.ts'
import type { Store } from '../plugins/store.ts'
import { connectRedisStore } from '../plugins/store/redis-store.ts'

/** A logger that says nothing: a command says in its own words what failed. */
export const silent = (): FastifyBaseLogger => pino({ level: 'silent' })

/**
 * Connects; the caller closes.
 *
 * @throws Error when Redis cannot be reached
 */
export function connect(config: StreamConfig, log: FastifyBaseLogger = silent()): Promise<Store> {
  const options = {
    url: config.redisUrl.reveal(),
    ca: pem(config.redisCaFile),
    dialTimeout: config.redisDialTimeout,
    readTimeout: config.redisReadTimeout,
  }
  return connectRedisStore(options, log)
}

/** The store for whoever only looks: what would leave a mark is refused. */
export function readOnly(store: Store): Store {
  return {
    ...store,
    claim: () => Promise.reject(new Error('nothing is spent here')),
    append: async (_stream, entries) => entries.map(() => new Error('nothing is written here')),
  }
}
