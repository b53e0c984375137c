// Guarantees that what the gateway keeps outside the process is asked through one small interface, whatever stands
// behind it.
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { StreamEntry, StreamInfo } from '../lib/redis-reply.ts'
import { connectRedisStore } from './store/redis-store.ts'

export type { StreamEntry, StreamInfo }

/** What the gateway keeps outside the process: spent token ids, revocations, evidence. */
export interface Store {
  /** Rejects when the store cannot take a write in time: one that answers, and takes none, serves nobody. */
  ping(): Promise<void>
  /**
   * Writes the key unless it exists; true for the one caller who wrote it. Rejects, and is never sent
   * again, when the store cannot answer: whether the key was written is then unknown.
   *
   * @param milliseconds life of the key, an integer of 1 or more
   */
  claim(key: string, value: string, milliseconds: number): Promise<boolean>
  /** The value that the key was claimed with; undefined while it is not. Changes nothing. */
  claimed(key: string): Promise<string | undefined>
  /** Adds the entries in order; one result for each, undefined when it was added. Never rejects. */
  append(
    stream: string,
    entries: readonly Readonly<Record<string, string>>[],
  ): Promise<(Error | undefined)[]>
  /** Entries from `start` on, oldest first; a start of `(<id>` leaves that entry out. */
  range(stream: string, start: string, count: number): Promise<StreamEntry[]>
  /** What the server knows of a stream; undefined for a missing one. */
  info(stream: string): Promise<StreamInfo | undefined>
  /** Entries after `after`, waiting up to `block` milliseconds for the first. One caller at a time. */
  tail(stream: string, after: string, count: number, block: number): Promise<StreamEntry[]>
  /** Ends every call that waits and lets go of the connections. */
  close(): void
}

/** Options of the Redis store. */
export interface RedisStoreOptions {
  /** A `REDIS_URL`, credentials and all; never logged. */
  readonly url: string
  /** The authorities, PEM, that a server's certificate is verified with instead of the system's. */
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
