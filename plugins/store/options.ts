// Guarantees the same of every connection to Redis, whatever stands behind the URL: no command is sent twice, none is
// kept back for later, and each has an answer or an error in bounded time.
import type { RedisOptions } from 'ioredis'
import type { RedisAddress } from '../../lib/redis-url.ts'

/** The longest the tail connection is silent while a read blocks, on top of the read's own time, milliseconds. */
export const LONGEST_BLOCK = 2_000

/** How a server's certificate is verified. */
export interface TlsOptions {
  /** PEM, instead of the system's authorities. */
  readonly ca?: string
}

/** What {@link commandOptions} needs to know. */
export interface ConnectionTimes {
  /** The longest a connection may take, milliseconds. */
  readonly dialTimeout: number
  /** The longest a command may take, milliseconds. */
  readonly readTimeout: number
}

/** Options of a connection that answers many at once. */
export function commandOptions(
  { username, password }: RedisAddress,
  tls: TlsOptions | undefined,
  { dialTimeout, readTimeout }: ConnectionTimes,
) {
  return {
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
    ...(tls && { tls }),
    lazyConnect: true,
    connectTimeout: dialTimeout,
    connectionName: 'caracal-gateway',
    disableClientInfo: true,
    // Nothing here needs RESP3, and HELLO would carry the password where an old server or a proxy repeats it in its
    // error.
    protocol: 2,
    // While disconnected a command fails at once instead of waiting for better days...
    enableOfflineQueue: false,
    // ...one that was under way when the connection broke fails then (with null it would hang)...
    maxRetriesPerRequest: 0,
    // ...and is not sent again: a SET NX sent twice finds its own claim and looks like a replay.
    autoResendUnfulfilledCommands: false,
    // A server that hangs costs one timeout: the connection is given up, what waits for it fails with it, and whatever
    // comes later fails at once. A timeout for each command alone would let commands that queue behind a hanging
    // pipeline wait twice as long, and be executed after they were given up.
    socketTimeout: readTimeout,
    // For the command that waits while others are still answered.
    commandTimeout: readTimeout + 50,
  } satisfies RedisOptions
}

/** What differs on the connection of the blocking read, which would hold up every command behind it. */
export function tailOptions({ readTimeout }: ConnectionTimes) {
  return {
    connectionName: 'caracal-gateway-tail',
    socketTimeout: LONGEST_BLOCK + readTimeout,
    commandTimeout: undefined,
  } satisfies RedisOptions
}

/** Milliseconds before the n-th attempt to reconnect: 50 doubling to 1,000, less up to half at random. */
export function retryDelay(attempt: number): number {
  const delay = Math.min(1_000, 50 * 2 ** Math.min(attempt - 1, 10))
  return Math.round(delay * (0.5 + Math.random() / 2))
}
