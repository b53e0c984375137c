// Guarantees that one server, the master of sentinels and a cluster are reached under the same rules.
import type { FastifyBaseLogger } from 'fastify'
import { Cluster, type ClusterOptions, Redis, type RedisOptions } from 'ioredis'
import type { ClusterAddress, RedisAddress } from '../../lib/redis-url.ts'
import { masterConnector } from './master-connector.ts'
import {
  commandOptions,
  type ConnectionTimes,
  retryDelay,
  tailOptions,
  type TlsOptions,
} from './options.ts'
import { Sentinels } from './sentinels.ts'

/** Where Redis is and how long it may take. */
export interface ClientOptions extends ConnectionTimes {
  readonly address: RedisAddress
  /** The authorities, PEM, that a server's certificate is verified with instead of the system's. */
  readonly ca: string | undefined
}

/** The two clients: a read that blocks would hold up every command behind it. */
export interface Clients {
  readonly commands: Redis | Cluster
  /** For one blocking read at a time. */
  readonly tail: Redis | Cluster
  /** Ends every command that waits and lets go of the connections. */
  readonly close: () => void
}

/** Creates the clients of an address, not connected yet. */
export function createClients(options: ClientOptions, log: FastifyBaseLogger): Clients {
  const { address, ca, dialTimeout } = options
  const tls: TlsOptions | undefined = address.tls ? (ca === undefined ? {} : { ca }) : undefined
  const forCommands = commandOptions(address, tls, options)
  const forTail = { ...forCommands, ...tailOptions(options) }
  const pair = (place: Pick<RedisOptions, 'host' | 'port' | 'db' | 'Connector'>) => {
    const reached = { ...place, retryStrategy: retryDelay }
    let leaving = false
    const commands = new Redis({
      ...forCommands,
      ...reached,
      enableAutoPipelining: true,
      // After a fail-over behind one address the connection still leads to what is now a replica. It is left once: each
      // further refusal of a pipeline would add a timer and a listener to the same socket.
      reconnectOnError({ message }: Error) {
        if (leaving || !message.startsWith('READONLY')) return false
        leaving = true
        return true
      },
    })
    commands.on('close', () => {
      leaving = false
    })
    const tail = new Redis({ ...forTail, ...reached })
    return { commands, tail, close: () => disconnect(commands, tail) }
  }

  switch (address.kind) {
    case 'node': {
      const { host, port, db } = address
      return pair({ host, port, db })
    }
    case 'sentinel': {
      const sentinels = new Sentinels({ address, tls, dialTimeout, log })
      const clients = pair({ db: address.db, Connector: masterConnector(sentinels, tls) })
      sentinels.start()
      return {
        ...clients,
        close() {
          sentinels.stop()
          clients.close()
        },
      }
    }
    case 'cluster': {
      const commands = createCluster(address, forCommands)
      // Connected before the first command needs it: one that comes earlier would wait in the node's queue, and be sent
      // after it was given up.
      commands.on('+node', (node: Redis) => {
        node.connect().catch(() => undefined)
      })
      const tail = createCluster(address, forTail)
      return { commands, tail, close: () => disconnect(commands, tail) }
    }
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
