// Guarantees that whatever asks Redis has an answer or an error in bounded time, and that no command is
// ever sent twice.
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { Redis } from 'ioredis'

/** One entry of a stream; of a field that occurs twice the last counts. */
export interface StreamEntry {
  /** `<Unix milliseconds>-<sequence>`. */
  readonly id: string
  readonly fields: Readonly<Record<string, string>>
}

/** Enough to tell whether entries of a stream have gone missing (`XINFO STREAM`). */
export interface StreamInfo {
  /** Entries that are there. */
  readonly length: number
  /** The oldest and the newest entry that are there; undefined when the stream is empty. */
  readonly firstId: string | undefined
  readonly lastId: string | undefined
  /** The id that was given last, whether its entry is still there or not. */
  readonly lastGeneratedId: string
  /** Entries that were ever added, those included that are gone; undefined before Redis 7. */
  readonly entriesAdded: number | undefined
}

/** What the gateway keeps outside the process: spent token ids, revocations, evidence. */
export interface Store {
  /** Rejects when the store cannot answer in time. */
  ping(): Promise<void>
  /**
   * Writes the key unless it exists; true for the one caller who wrote it. Rejects, and is never sent
   * again, when the store cannot answer: whether the key was written is then unknown.
   *
   * @param milliseconds life of the key, an integer of 1 or more
   */
  claim(key: string, value: string, milliseconds: number): Promise<boolean>
  /** Adds the entries in order; one result for each, undefined when it was added. Never rejects. */
  append(
    stream: string,
    entries: readonly Readonly<Record<string, string>>[],
  ): Promise<(Error | undefined)[]>
  /** Entries from `start` on, oldest first; a start of `(<id>` leaves that entry out. */
  range(stream: string, start: string, count: number): Promise<StreamEntry[]>
  /** The id of the newest entry; undefined for an empty or missing stream. */
  lastId(stream: string): Promise<string | undefined>
  /** What the server knows of a stream; undefined for a missing one. */
  info(stream: string): Promise<StreamInfo | undefined>
  /** Entries after `after`, waiting up to `block` milliseconds for the first. One caller at a time. */
  tail(stream: string, after: string, count: number, block: number): Promise<StreamEntry[]>
  /** Ends every call that waits and lets go of the connections. */
  close(): void
}

/** Options of the Redis store. */
export interface RedisStoreOptions {
  /** `redis:` or `rediss:` URL with credentials and database number; never logged. */
  readonly url: string
  /** The authorities, PEM, that a `rediss:` server's certificate is verified with instead of the system's. */
  readonly ca?: string | undefined
  /** The longest a connection may take, and the longest the start waits for one, milliseconds. */
  readonly dialTimeout: number
  /** The longest a command may take, milliseconds. */
  readonly readTimeout: number
}

/** Options of the plugin: where Redis is, or a store that is used as it is (`dev` without Redis). */
export type StoreOptions = RedisStoreOptions | { readonly store: Store }

declare module 'fastify' {
  interface FastifyInstance {
    readonly store: Store
  }
}

async function storePlugin(app: FastifyInstance, options: StoreOptions): Promise<void> {
  const store = 'store' in options ? options.store : await connectRedisStore(options, app.log)
  app.decorate('store', store)
  app.addHook('onClose', async () => store.close())
}

export default fp(storePlugin, { name: 'store', fastify: '5.x' })

// The longest the tail connection is silent while a read blocks, on top of the read's own time.
const LONGEST_BLOCK = 2_000

/**
 * Connects to Redis, and keeps reconnecting from then on.
 *
 * @throws Error when Redis cannot be reached and logged in to within the dial timeout; neither it nor
 *   any log line holds the URL or the password
 */
async function connectRedisStore(
  options: RedisStoreOptions,
  log: FastifyBaseLogger,
): Promise<Store> {
  const { readTimeout } = options
  const address = parseRedisUrl(options.url, options.ca)
  const commands = new Redis({
    ...address,
    lazyConnect: true,
    connectTimeout: options.dialTimeout,
    connectionName: 'caracal-gateway',
    disableClientInfo: true,
    // Nothing here needs RESP3, and HELLO would carry the password where an old server or a proxy
    // repeats it in its error.
    protocol: 2,
    enableAutoPipelining: true,
    // While disconnected a command fails at once instead of waiting for better days...
    enableOfflineQueue: false,
    // ...one that was under way when the connection broke fails then (with null it would hang)...
    maxRetriesPerRequest: 0,
    // ...and is not sent again: a SET NX sent twice finds its own claim and looks like a replay.
    autoResendUnfulfilledCommands: false,
    // A server that hangs costs one timeout: the connection is given up, what waits for it fails with it,
    // and whatever comes later fails at once. A timeout for each command alone would let commands that
    // queue behind a hanging pipeline wait twice as long, and be executed after they were given up.
    socketTimeout: readTimeout,
    // For the command that waits while others are still answered.
    commandTimeout: readTimeout + 50,
    retryStrategy: retryDelay,
    // After a failover behind one address the old connection still leads to what is now a replica.
    reconnectOnError: error => error.message.startsWith('READONLY'),
  })
  // A blocking read would hold up every command behind it.
  const tail = commands.duplicate({
    connectionName: 'caracal-gateway-tail',
    enableAutoPipelining: false,
    socketTimeout: LONGEST_BLOCK + readTimeout,
    commandTimeout: undefined,
  })
  const describe = (error: unknown) => describeError(error, address.password)
  try {
    await Promise.all([
      connect(commands, options.dialTimeout, describe),
      connect(tail, options.dialTimeout, describe),
    ])
  } catch (error) {
    commands.disconnect()
    tail.disconnect()
    throw error
  }
  logConnection(commands, 'commands', log, describe)
  logConnection(tail, 'tail', log, describe)
  await warnOfEviction(commands, log, describe)

  return {
    async ping() {
      await commands.ping().catch(rethrowBare)
    },
    async claim(key, value, milliseconds) {
      const reply = commands.set(key, value, 'PX', milliseconds, 'NX')
      return (await reply.catch(rethrowBare)) === 'OK'
    },
    async append(stream, entries) {
      const pipeline = commands.pipeline()
      for (const fields of entries) pipeline.xadd(stream, '*', ...Object.entries(fields).flat())
      try {
        const results = await pipeline.exec()
        return entries.map((_, index) => {
          const result = results?.[index]
          return result
            ? result[0]
              ? bare(result[0])
              : undefined
            : new Error('no reply from Redis')
        })
      } catch (error) {
        return entries.map(() => bare(error))
      }
    },
    async range(stream, start, count) {
      const reply = commands.xrange(stream, start, '+', 'COUNT', count)
      return streamEntries(await reply.catch(rethrowBare))
    },
    async lastId(stream) {
      const reply = commands.xrevrange(stream, '+', '-', 'COUNT', 1)
      return streamEntries(await reply.catch(rethrowBare))[0]?.id
    },
    async info(stream) {
      try {
        return streamInfo(await commands.xinfo('STREAM', stream))
      } catch (error) {
        if (error instanceof Error && /no such key/i.test(error.message)) return undefined
        throw bare(error)
      }
    },
    async tail(stream, after, count, block) {
      const wait = Math.min(block, LONGEST_BLOCK)
      const read = tail.xread('COUNT', count, 'BLOCK', wait, 'STREAMS', stream, after)
      const reply: unknown = await read.catch(rethrowBare)
      const first: unknown = Array.isArray(reply) ? reply[0] : undefined
      return Array.isArray(first) ? streamEntries(first[1]) : []
    },
    close() {
      commands.disconnect()
      tail.disconnect()
    },
  }
}

type Describe = (error: unknown) => { code: string | undefined; message: string }

interface RedisAddress {
  readonly host: string
  readonly port: number
  readonly db: number
  readonly username?: string
  readonly password?: string
  readonly tls?: { readonly ca?: string }
}

// Parsed here, not by the client: there a query string could switch any option above.
function parseRedisUrl(text: string, ca: string | undefined): RedisAddress {
  try {
    const url = new URL(text)
    const db = url.pathname.length > 1 ? Number(url.pathname.slice(1)) : 0
    if (url.protocol !== 'redis:' && url.protocol !== 'rediss:') throw new TypeError('scheme')
    if (url.hostname === '' || !Number.isInteger(db) || db < 0) throw new TypeError('host or db')
    return {
      host: url.hostname.replace(/^\[|\]$/g, ''),
      port: Number(url.port || 6379),
      db,
      ...(url.username && { username: decodeURIComponent(url.username) }),
      ...(url.password && { password: decodeURIComponent(url.password) }),
      ...(url.protocol === 'rediss:' && { tls: ca === undefined ? {} : { ca } }),
    }
  } catch {
    // Without a cause: what URL throws holds its input, password and all.
    throw new TypeError(
      'REDIS_URL must be redis:// or rediss:// with a host and, if any, a /<number>',
    )
  }
}

/** Milliseconds before the n-th attempt to reconnect: 50 doubling to 1,000, less up to half at random. */
function retryDelay(attempt: number): number {
  const delay = Math.min(1_000, 50 * 2 ** Math.min(attempt - 1, 10))
  return Math.round(delay * (0.5 + Math.random() / 2))
}

function connect(client: Redis, timeout: number, describe: Describe): Promise<void> {
  return new Promise((resolve, reject) => {
    let last: { code: string | undefined; message: string } | undefined
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
    // Never taken off: an 'error' that nobody hears is printed by the client.
    client.on('error', error => {
      last = describe(error)
      // No later attempt can do better with the same credentials.
      if (/^(WRONGPASS|NOAUTH|NOPERM|ERR invalid password)/.test(last.message)) settle(true)
    })
    // It tries again by itself until the timer ends it.
    client.connect().catch(() => undefined)
  })
}

function logConnection(
  client: Redis,
  connection: string,
  log: FastifyBaseLogger,
  describe: Describe,
) {
  let up = true
  client.on('error', error => {
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
}

// Code and message, without what a server repeats of a command.
function describeError(error: unknown, password: string | undefined) {
  if (!(error instanceof Error)) return { code: undefined, message: 'unknown error' }
  const code = 'code' in error && typeof error.code === 'string' ? error.code : undefined
  let message = error.message.replace(/,? with args beginning with:.*$/s, '')
  if (password) message = message.replaceAll(password, '[redacted]')
  return { code, message: message || code || error.name }
}

// The client hangs the command on its errors, and a logger prints it: evidence and token ids.
function bare(error: unknown): Error {
  if (!(error instanceof Error)) return new Error('unknown error of the Redis client')
  Reflect.deleteProperty(error, 'command')
  return error
}

function rethrowBare(error: unknown): never {
  throw bare(error)
}

/** A Redis that evicts keys forgets spent token ids, which then count as new. */
async function warnOfEviction(client: Redis, log: FastifyBaseLogger, describe: Describe) {
  let policy: string | undefined
  try {
    const reply: unknown = await client.config('GET', 'maxmemory-policy')
    if (Array.isArray(reply) && typeof reply[1] === 'string') policy = reply[1]
  } catch {
    // Managed services refuse CONFIG; INFO says the same.
  }
  try {
    policy ??= /^maxmemory_policy:(\S+)/m.exec(await client.info('memory'))?.[1]
  } catch (error) {
    log.warn(describe(error), 'cannot read the maxmemory-policy of Redis: it must be noeviction')
    return
  }
  if (policy === undefined || policy === 'noeviction') return
  log.warn(
    { policy },
    'maxmemory-policy of Redis is not noeviction: a spent token could be used again',
  )
}

function streamInfo(reply: unknown): StreamInfo {
  const flat: readonly unknown[] = Array.isArray(reply) ? reply : []
  const fields = new Map<unknown, unknown>()
  for (let at = 0; at + 1 < flat.length; at += 2) fields.set(flat[at], flat[at + 1])
  const entryId = (name: string) => {
    const entry = fields.get(name)
    return Array.isArray(entry) && typeof entry[0] === 'string' ? entry[0] : undefined
  }
  const added = fields.get('entries-added')
  const lastGeneratedId = fields.get('last-generated-id')
  return {
    length: Number(fields.get('length') ?? 0),
    firstId: entryId('first-entry'),
    lastId: entryId('last-entry'),
    lastGeneratedId: typeof lastGeneratedId === 'string' ? lastGeneratedId : '0-0',
    entriesAdded: added === undefined ? undefined : Number(added),
  }
}

function streamEntries(reply: unknown): StreamEntry[] {
  if (!Array.isArray(reply)) return []
  const entries: StreamEntry[] = []
  for (const item of reply as readonly unknown[]) {
    if (!Array.isArray(item)) continue
    const [id, flat] = item as readonly unknown[]
    // A deleted entry may be listed without fields.
    if (typeof id !== 'string') continue
    const values: readonly unknown[] = Array.isArray(flat) ? flat : []
    const pairs: [string, string][] = []
    for (let at = 0; at + 1 < values.length; at += 2) {
      pairs.push([String(values[at]), String(values[at + 1])])
    }
    // fromEntries defines members: a field called __proto__ stays a field.
    entries.push({ id, fields: Object.fromEntries(pairs) })
  }
  return entries
}
