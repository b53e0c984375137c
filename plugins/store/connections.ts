// Guarantees two connections to Redis that find their way back by themselves: one for commands, and one for the read that
// blocks.
import { once } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { Cluster, type Redis } from 'ioredis'
import { describeRedisError, type RedisProblem } from '../../lib/redis-error.ts'
import { passwordsOf } from '../../lib/redis-url.ts'
import { type Clients, type ClientOptions, createClients } from './clients.ts'

/**
 * Connects, and keeps reconnecting from then on.
 *
 * @throws Error when Redis cannot be reached and logged in to within the dial timeout; neither it nor any log line
 *   holds a password
 */
export async function openConnections(
  options: ClientOptions,
  log: FastifyBaseLogger,
): Promise<Clients> {
  const { address, dialTimeout } = options
  const secrets = passwordsOf(address)
  const describe = (error: unknown) => describeRedisError(rootCause(error), secrets)
  const { commands, tail, close } = createClients(options, log)
  try {
    await Promise.all([
      connect(commands, dialTimeout, describe),
      connect(tail, dialTimeout, describe),
    ])
  } catch (error) {
    close()
    throw error
  }
  logConnection(commands, 'commands', log, describe)
  logConnection(tail, 'tail', log, describe)
  return { commands, tail, close }
}

/** A cluster that could not be asked says less than the node that was asked last. */
function rootCause(error: unknown): unknown {
  const cause = error instanceof Error && 'lastNodeError' in error ? error.lastNodeError : undefined
  return cause ?? error
}

type Describe = (error: unknown) => RedisProblem

async function connect(
  client: Redis | Cluster,
  timeout: number,
  describe: Describe,
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    let last: RedisProblem | undefined
    const settle = (failed: boolean) => {
      clearTimeout(timer)
      client.off('ready', onReady)
      if (!failed) return resolve()
      const reason = last ? `${last.code ?? 'error'}: ${last.message}` : 'no answer'
      reject(new Error(`Redis (REDIS_URL) cannot be reached within ${timeout} ms: ${reason}`))
    }
    const timer = setTimeout(settle, timeout, true)
    const onReady = () => settle(false)
    client.once('ready', onReady)
    const onError = (error: unknown) => {
      const problem = describe(error)
      // What closed it was said before.
      if (last === undefined || problem.message !== 'Connection is closed.') last = problem
      // No later attempt can do better with the same credentials.
      if (/^(WRONGPASS|NOAUTH|NOPERM|ERR invalid password)/.test(problem.message)) settle(true)
    }
    // Never taken off: an 'error' that nobody hears is printed by the client.
    client.on('error', onError)
    client.on('node error', onError)
    // It tries again by itself until the timer ends it.
    client.connect().catch(() => undefined)
  })
  if (client instanceof Cluster) await nodesSettled(client, timeout)
}

/** Resolves when every node is connected, or gone, or the time is over. */
async function nodesSettled(cluster: Cluster, timeout: number): Promise<void> {
  const signal = AbortSignal.timeout(timeout)
  const settled = cluster.nodes('master').map(async node => {
    if (node.status !== 'connecting' && node.status !== 'connect') return
    await Promise.race([once(node, 'ready', { signal }), once(node, 'end', { signal })])
  })
  await Promise.allSettled(settled)
}

function logConnection(
  client: Redis | Cluster,
  connection: string,
  log: FastifyBaseLogger,
  describe: Describe,
) {
  let up = true
  client.on('error', (error: unknown) => {
    const line = { connection, ...describe(error) }
    // One line an outage; every further attempt would add its own.
    if (up) log.error(line, 'redis connection failed')
    else log.debug(line, 'redis connection failed again')
    up = false
  })
  client.on('close', () => {
    if (up) log.warn({ connection }, 'redis connection closed')
    up = false
  })
  client.on('ready', () => {
    if (!up) log.info({ connection }, 'redis connection restored')
    up = true
  })
  if (client instanceof Cluster) logNodes(client, connection, log, describe)
}

function logNodes(
  cluster: Cluster,
  connection: string,
  log: FastifyBaseLogger,
  describe: Describe,
) {
  const failing = new Set<string>()
  cluster.on('node error', (error: unknown, node: string) => {
    const line = { connection, node, ...describe(error) }
    if (failing.has(node)) log.debug(line, 'redis cluster node failed again')
    else log.error(line, 'redis cluster node failed')
    failing.add(node)
  })
  cluster.on('+node', (redis: Redis) => {
    redis.once('ready', () => {
      const node = `${redis.options.host}:${redis.options.port}`
      if (failing.delete(node)) log.info({ connection, node }, 'redis cluster node restored')
    })
  })
}
