// Guarantees that whatever asks Redis has an answer or an error in bounded time, and that no command is ever sent twice.
import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import { Cluster, type Redis } from 'ioredis'
import { bareRedisError, describeRedisError } from '../../lib/redis-error.ts'
import { streamEntries, streamInfo } from '../../lib/redis-reply.ts'
import { parseRedisUrl, passwordsOf, REDIS_URL_FORMS } from '../../lib/redis-url.ts'
import type { RedisStoreOptions, Store } from '../store.ts'
import { openConnections } from './connections.ts'
import { LONGEST_BLOCK } from './options.ts'

/**
 * A store on one Redis, the master that sentinels elect, or a cluster.
 *
 * @throws TypeError when the URL is none
 * @throws Error when Redis cannot be reached and logged in to within the dial timeout
 */
export async function connectRedisStore(
  options: RedisStoreOptions,
  log: FastifyBaseLogger,
): Promise<Store> {
  const address = parseRedisUrl(options.url)
  if (address === undefined) throw new TypeError(`REDIS_URL must be ${REDIS_URL_FORMS}`)
  const { dialTimeout, readTimeout, ca } = options
  const { commands, tail, close } = await openConnections(
    { address, ca, dialTimeout, readTimeout },
    log,
  )
  await warnOfEviction(commands, passwordsOf(address), log)

  return {
    async ping() {
      try {
        if (commands instanceof Cluster) await checkCluster(commands)
        // Sets nothing, as there is no such key, and is refused where writes are. A key like those that the gateway
        // writes anyway: it may be allowed no others.
        await commands.set(`seen:jti:probe-${randomUUID()}`, '', 'PX', 1, 'XX')
      } catch (error) {
        rethrow(error)
      }
    },
    async claim(key, value, milliseconds) {
      const reply = commands.set(key, value, 'PX', milliseconds, 'NX')
      return (await reply.catch(rethrow)) === 'OK'
    },
    async claimed(key) {
      return (await commands.get(key).catch(rethrow)) ?? undefined
    },
    async append(stream, entries) {
      const pipeline = commands.pipeline()
      for (const fields of entries) pipeline.xadd(stream, '*', ...Object.entries(fields).flat())
      try {
        const results = await pipeline.exec()
        return entries.map((_, index) => {
          const result = results?.[index]
          if (!result) return new Error('no reply from Redis')
          return result[0] ? bareRedisError(result[0]) : undefined
        })
      } catch (error) {
        return entries.map(() => bareRedisError(error))
      }
    },
    async range(stream, start, count) {
      const reply = commands.xrange(stream, start, '+', 'COUNT', count)
      return streamEntries(await reply.catch(rethrow))
    },
    async info(stream) {
      try {
        return streamInfo(await commands.xinfo('STREAM', stream))
      } catch (error) {
        if (error instanceof Error && /no such key/i.test(error.message)) return undefined
        throw bareRedisError(error)
      }
    },
    async tail(stream, after, count, block) {
      const wait = Math.min(block, LONGEST_BLOCK)
      const read = tail.xread('COUNT', count, 'BLOCK', wait, 'STREAMS', stream, after)
      const reply: unknown = await read.catch(rethrow)
      const first: unknown = Array.isArray(reply) ? reply[0] : undefined
      return Array.isArray(first) ? streamEntries(first[1]) : []
    },
    close,
  }
}

// The node of one key may take it while the cluster as a whole takes no command.
async function checkCluster(cluster: Cluster): Promise<void> {
  const info = await cluster.cluster('INFO')
  if (!/^cluster_state:ok/m.test(info)) throw new Error('the Redis cluster is down')
}

function rethrow(error: unknown): never {
  throw bareRedisError(error)
}

/** A Redis that evicts keys forgets spent token ids, which then count as new. */
async function warnOfEviction(
  client: Redis | Cluster,
  secrets: readonly string[],
  log: FastifyBaseLogger,
) {
  const masters = client instanceof Cluster ? client.nodes('master') : [client]
  try {
    const policies = new Set(await Promise.all(masters.map(evictionPolicy)))
    for (const policy of policies) {
      if (policy === undefined || policy === 'noeviction') continue
      log.warn(
        { policy },
        'maxmemory-policy of Redis is not noeviction: a spent token could be used again',
      )
    }
  } catch (error) {
    log.warn(
      describeRedisError(error, secrets),
      'cannot read the maxmemory-policy of Redis: it must be noeviction',
    )
  }
}

async function evictionPolicy(redis: Redis): Promise<string | undefined> {
  try {
    const reply: unknown = await redis.config('GET', 'maxmemory-policy')
    if (Array.isArray(reply) && typeof reply[1] === 'string') return reply[1]
  } catch {
    // Managed services refuse CONFIG; INFO says the same.
  }
  return /^maxmemory_policy:(\S+)/m.exec(await redis.info('memory'))?.[1]
}
