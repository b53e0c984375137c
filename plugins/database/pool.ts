// Guarantees that a connection to PostgreSQL is there in bounded time or not at all, encrypted as `sslmode` asks, and that
// none outlives the gateway or brings it down.
import { Socket } from 'node:net'
import type { PoolClient } from 'pg'
import { databaseError, isAnswer } from '../../lib/database-error.ts'
import { type DatabaseAddress, tlsWays } from '../../lib/database-url.ts'

/** Options of the pool; times are milliseconds. */
export interface PoolOptions {
  /** The authorities, PEM, that `sslrootcert` names. */
  readonly ca: string | undefined
  readonly maxConnections: number
  /** Connections that stay open although nobody reads. */
  readonly minConnections: number
  /** The longest a connection may take to open, and the longest that one is waited for when all are in use. */
  readonly connectTimeout: number
  readonly maxLifetime: number
  readonly maxIdle: number
  /** The longest a statement may take. */
  readonly statementTimeout: number
}

/** Connections to one database. */
export interface DatabasePool {
  /**
   * A connection for one transaction.
   *
   * @throws DatabaseError
   */
  acquire(): Promise<PoolClient>
  /** @param sound false: it is thrown away */
  release(client: PoolClient, sound: boolean): void
  /** Connections in use, those included that are being opened. */
  readonly acquired: number
  close(): Promise<void>
}

// How much longer than the server the gateway waits for the end of a statement: for a server that hangs.
const ANSWER_MARGIN = 1_000

const KEEP_ALIVE_DELAY = 10_000

// Milliseconds for connections to say goodbye when the gateway stops.
const CLOSE_GRACE = 250

/** Opens no connection yet. */
export async function openPool(
  address: DatabaseAddress,
  options: PoolOptions,
): Promise<DatabasePool> {
  // Not at the top: without a database the driver would take its time from every start.
  const { Pool } = await import('pg')
  const ways = tlsWays(address, options.ca)
  const sockets = new Set<Socket>()
  const pool = new Pool({
    host: address.host,
    port: address.port,
    user: address.user,
    // The driver would look into the environment and into a file of the home directory.
    password: address.password ?? noPassword,
    database: address.database,
    application_name: address.applicationName,
    ...(address.options !== undefined && { options: address.options }),
    ssl: ways[0],
    // Said, so that a variable of the environment cannot say otherwise.
    sslnegotiation: 'postgres',
    max: options.maxConnections,
    min: options.minConnections,
    connectionTimeoutMillis: Math.min(
      options.connectTimeout,
      address.connectTimeout ?? options.connectTimeout,
    ),
    maxLifetimeSeconds: options.maxLifetime / 1_000,
    idleTimeoutMillis: options.maxIdle,
    query_timeout: options.statementTimeout + ANSWER_MARGIN,
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEP_ALIVE_DELAY,
    stream() {
      const socket = new Socket()
      sockets.add(socket)
      return socket.once('close', () => sockets.delete(socket))
    },
  })

  // The driver knows one way of connecting. libpq tries both for each connection; here the way that worked serves until
  // a connection fails, and then the first comes first again.
  let way = 0
  const take = (next: number) => {
    way = next
    pool.options.ssl = ways[next]
  }
  // A connection may break at any time: idle, or in use between two statements. An 'error' that nobody hears ends the
  // process, and the next read finds out by itself.
  pool.on('error', () => take(0))
  pool.on('connect', client => client.on('error', () => take(0)))

  return {
    async acquire() {
      const tried = way
      try {
        return await pool.connect().catch(error => {
          if (ways.length === 1 || !wantsOtherWay(error)) throw error
          // Away from the one that was tried: another read may have found out already.
          take(1 - tried)
          return pool.connect()
        })
      } catch (error) {
        take(0)
        throw databaseError(error, address.password)
      }
    },
    release(client, sound) {
      client.release(!sound)
    },
    get acquired() {
      return pool.totalCount - pool.idleCount
    },
    async close() {
      const closed = [...sockets].map(
        socket => new Promise(resolve => socket.once('close', resolve)),
      )
      void pool.end()
      const grace = setTimeout(() => {
        for (const socket of sockets) socket.destroy()
      }, CLOSE_GRACE)
      await Promise.all(closed)
      clearTimeout(grace)
    },
  }
}

function noPassword(): never {
  throw new Error('the server asks for a password, and DATABASE_URL has none')
}

/** Whether the server would have nothing of TLS, or nothing without it. */
function wantsOtherWay(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  const code = 'code' in error && typeof error.code === 'string' ? error.code : ''
  // PostgreSQL, whose access rules know neither this user with TLS nor without it, and PgBouncer.
  if (isAnswer(error)) return code === '28000' || code === '08P01'
  return /does not support SSL/.test(error.message) || /^(?:EPROTO|ERR_SSL_|ERR_TLS_)/.test(code)
}
