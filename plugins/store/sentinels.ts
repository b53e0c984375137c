// Guarantees that the master is the one that the sentinels elected last, as far as any of them knows.
import { setTimeout as pause } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import { Redis } from 'ioredis'
import { describeRedisError } from '../../lib/redis-error.ts'
import { replyFields } from '../../lib/redis-reply.ts'
import { type Endpoint, passwordsOf, type SentinelAddress } from '../../lib/redis-url.ts'
import { retryDelay, type TlsOptions } from './options.ts'

/** A master, and the election that made it one: of two, the one with the higher epoch is right. */
export interface Master extends Endpoint {
  readonly epoch: number
}

/** How often the sentinels are asked, and the longest that one may take to answer, milliseconds. */
const INTERVAL = 1_000
const ANSWER_TIMEOUT = 1_000

/** Options of {@link Sentinels}. */
export interface SentinelsOptions {
  readonly address: SentinelAddress
  readonly tls: TlsOptions | undefined
  /** The longest a connection may take, milliseconds. */
  readonly dialTimeout: number
  readonly log: FastifyBaseLogger
}

/**
 * The sentinels of one master, asked all at once.
 *
 * The client's own Sentinel support believes whichever answers first, and hears of a fail-over from the old master
 * itself: one that is cut off from the sentinels, but not from the gateway, would serve it for ever.
 */
export class Sentinels {
  readonly #clients: readonly { readonly name: string; readonly redis: Redis }[]
  readonly #options: SentinelsOptions
  readonly #secrets: readonly string[]
  readonly #listeners = new Set<(master: Master) => void>()
  readonly #stopped = new AbortController()
  // Why each sentinel that did not answer last did not.
  readonly #problems = new Map<string, string>()
  #heard = true

  constructor(options: SentinelsOptions) {
    this.#options = options
    this.#secrets = passwordsOf(options.address)
    this.#clients = options.address.sentinels.map(endpoint => {
      const name = `${endpoint.host}:${endpoint.port}`
      const redis = sentinelClient(endpoint, options)
      redis.on('error', (error: Error) => this.#blame(name, error))
      return { name, redis }
    })
  }

  /**
   * The master of the highest epoch, among the answers of more than half of the sentinels, or of all that answer in time.
   *
   * @throws Error when none does; its message says why
   */
  async locate(): Promise<Master> {
    const found: Master[] = []
    const enough = Promise.withResolvers<void>()
    const majority = Math.floor(this.#clients.length / 2) + 1
    const all = this.#clients.map(async ({ name, redis }) => {
      try {
        found.push(await ask(redis, this.#options.address.name))
        this.#problems.delete(name)
        if (found.length === majority) enough.resolve()
      } catch (error) {
        this.#blame(name, error)
      }
    })
    await Promise.race([enough.promise, Promise.all(all)])
    const [first, ...others] = found
    if (first === undefined) {
      const problems = [...this.#problems].map(([name, problem]) => `${name}: ${problem}`)
      throw new Error(`no sentinel names a master (${problems.join('; ')})`)
    }
    return others.reduce((best, next) => (next.epoch > best.epoch ? next : best), first)
  }

  /** Calls the listener with what {@link Sentinels.locate} finds, every second from {@link Sentinels.start} on. */
  onLocated(listener: (master: Master) => void): void {
    this.#listeners.add(listener)
  }

  start(): void {
    void this.#follow()
  }

  stop(): void {
    this.#stopped.abort()
    for (const { redis } of this.#clients) redis.disconnect()
  }

  #blame(sentinel: string, error: unknown): void {
    // It says that there is no connection; the error before it said why.
    if (error instanceof Error && error.name === 'MaxRetriesPerRequestError') return
    this.#problems.set(sentinel, describeRedisError(error, this.#secrets).message)
  }

  async #follow(): Promise<void> {
    const { signal } = this.#stopped
    const { log } = this.#options
    while (!signal.aborted) {
      try {
        const master = await this.locate()
        for (const listener of this.#listeners) listener(master)
        if (!this.#heard) log.info('sentinels name a master again')
        this.#heard = true
      } catch (error) {
        const { message } = describeRedisError(error, this.#secrets)
        if (this.#heard && !signal.aborted) {
          log.warn({ message }, 'no sentinel names a master: a fail-over would go unnoticed')
        }
        this.#heard = false
      }
      await pause(INTERVAL, undefined, { signal, ref: false }).catch(() => undefined)
    }
  }
}

async function ask(redis: Redis, name: string): Promise<Master> {
  // In this order: should an election end between the two, a new master with an old epoch is taken for what it is as soon
  // as it is asked for again, and an old master with a new epoch would be held on to.
  const [fields, address] = await Promise.all([
    redis.call('SENTINEL', 'MASTER', name).then(replyFields),
    redis.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', name),
  ])
  const [host, port]: readonly unknown[] = Array.isArray(address) ? address : []
  const master = {
    host: typeof host === 'string' ? host : '',
    port: Number(port),
    epoch: Number(fields.get('config-epoch')),
  }
  const isPort = Number.isInteger(master.port) && master.port > 0 && master.port < 65_536
  if (master.host === '' || !isPort || !Number.isInteger(master.epoch)) {
    throw new Error('unusable answer')
  }
  return master
}

function sentinelClient({ host, port }: Endpoint, options: SentinelsOptions): Redis {
  const { sentinelUsername, sentinelPassword } = options.address
  return new Redis({
    host,
    port,
    ...(sentinelUsername !== undefined && { username: sentinelUsername }),
    ...(sentinelPassword !== undefined && { password: sentinelPassword }),
    ...(options.tls && { tls: options.tls }),
    lazyConnect: true,
    connectTimeout: options.dialTimeout,
    connectionName: 'caracal-gateway-sentinel',
    disableClientInfo: true,
    protocol: 2,
    // A sentinel has no data to load, and its INFO no role to check.
    enableReadyCheck: false,
    commandTimeout: ANSWER_TIMEOUT,
    socketTimeout: ANSWER_TIMEOUT,
    maxRetriesPerRequest: 0,
    retryStrategy: retryDelay,
  })
}
