// Guarantees two connections to Redis that find their way back by themselves: one for commands, and one for the read that
// blocks.
import { once } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { Cluster, type ClusterOptions, Redis } from 'ioredis'
import { describeRedisError, type RedisProblem } from '../../lib/redis-error.ts'
import type { ClusterAddress, NodeAddress, RedisAddress } from '../../lib/redis-url.ts'
import {
  commandOptions,
  type ConnectionTimes,
  retryDelay,
  tailOptions,
  type TlsOptions,
} from './options.ts'
import { masterConnector } from './master-connector.ts'
import { Sentinels } from './sentinels.ts'

/** Where Redis is and how long it may take. */
export interface ConnectionOptions extends ConnectionTimes {
  readonly address: RedisAddress
  /** The authorities, PEM, that a server's certificate is verified with instead of the system's. */
  readonly ca: string | undefined
}

/** Open connections. */
export interface Connections {
  readonly commands: Redis | Cluster
  /** For one blocking read at a time. */
  readonly tail: Redis | Cluster
  /** Ends every command that waits and lets go of the connections. */
  readonly close: () => void
}

/**
 * Connects, and keeps reconnecting from then on.
 *
 * @throws Error when Redis cannot be reached and logged in to within the dial timeout; neither it nor any log line
 *   holds a password
 */
export async function openConnections(
  options: ConnectionOptions,
  log: FastifyBaseLogger,
): Promise<Connections> {
  const { address, dialTimeout } = options
  const secrets = passwords(address)
  const describe = (error: unknown) => describeRedisError(rootCause(error), secrets)
  const { commands, tail, close } = createClients(options, secrets, log)
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

/** The passwords of an address, for those who must not print them. */
export function passwords(address: RedisAddress): readonly string[] {
  const { password } = address
  const sentinelPassword = address.kind === 'sentinel' ? address.sentinelPassword : undefined
  return [password, sentinelPassword].filter(secret => secret !== undefined)
}

function createClients(
  options: ConnectionOptions,
  secrets: readonly string[],
  log: FastifyBaseLogger,
): Connections {
  const { address, ca } = options
  const tls: TlsOptions | undefined = address.tls ? (ca === undefined ? {} : { ca }) : undefined
  const forCommands = commandOptions(address, tls, options)
  const forTail = { ...forCommands, ...tailOptions(options) }
  if (address.kind === 'cluster') {
    const commands = createCluster(address, forCommands)
    // Connected before the first command needs it: one that comes earlier would wait in the node's queue, and be sent
    // after it was given up.
    commands.on('+node', (node: Redis) => {
      node.connect().catch(() => undefined)
    })
    const tail = createCluster(address, forTail)
    return { commands, tail, close: () => disconnect(commands, tail) }
  }
  if (address.kind === 'node') {
    const place = ({ host, port, db }: NodeAddress) => ({
      host,
      port,
      db,
      retryStrategy: retryDelay,
    })
    const commands = new Redis({ ...forCommands, ...place(address), enableAutoPipelining: true })
    const tail = new Redis({ ...forTail, ...place(address) })
    return { commands, tail, close: () => disconnect(commands, tail) }
  }
  const sentinels = new Sentinels({ address, tls, dialTimeout: options.dialTimeout, secrets, log })
  const place = {
    db: address.db,
    retryStrategy: retryDelay,
    Connector: masterConnector(sentinels, tls),
  }
  const commands = new Redis({ ...forCommands, ...place, enableAutoPipelining: true })
  const tail = new Redis({ ...forTail, ...place })
  sentinels.start()
  return {
    commands,
    tail,
    close() {
      sentinels.stop()
      disconnect(commands, tail)
    },
  }
}

function disconnect(...clients: readonly (Redis | Cluster)[]): void {
  for (const client of clients) client.disconnect()
}

function createCluster(
  address: ClusterAddress,
  redisOptions: Omit<NonNullable<ClusterOptions['redisOptions']>, 'replyMapping'>,
): Cluster {
  return new Cluster([...address.nodes], {
    redisOptions,
    lazyConnect: true,
    enableOfflineQueue: false,
    // It would ask a node before it is connected, and start all over.
    enableReadyCheck: false,
    // No auto-pipelining: one slot that moved would fail a whole pipeline of claims, and again, because the client
    // learns of the move only from pipelines in which every command failed.
    enableAutoPipelining: false,
    // A MOVED or an ASK says that the command was not executed; it is sent on to where it belongs.
    maxRedirections: 5,
    // A broken connection says nothing: the command may have been executed, and must not be sent again.
    retryDelayOnFailover: 0,
    // Fails at once, as everything does while Redis is away.
    retryDelayOnClusterDown: 0,
    slotsRefreshInterval: 5_000,
    clusterRetryStrategy: retryDelay,
    // Names stay names, so that certificates can be verified against them.
    dnsLookup: (host, callback) => callback(null, host),
  })
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
