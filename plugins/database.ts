// Guarantees that what is read from PostgreSQL is read in bounded time, in a transaction that can change nothing and
// leaves nothing behind on a connection that a pooler may give to somebody else.
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { DatabaseError, databaseError } from '../lib/database-error.ts'
import { parseDatabaseUrl } from '../lib/database-url.ts'
import {
  COLUMNS_OF_TABLE,
  type ColumnKind,
  type FoundColumn,
  tableProblems,
} from '../lib/table-shape.ts'
import { openPool, type PoolOptions } from './database/pool.ts'

/** Takes a page of rows. */
export type OnPage<Row> = (rows: readonly Row[]) => void | Promise<void>

/** Reads Caracal's tables, those of all zones (contract section 14). */
export interface Database {
  /**
   * Reads in one transaction, in pages of up to 1,000 rows: `onPage` is awaited before the next page is fetched, and is not called for
   * a page without rows. What it throws ends the read and is thrown on.
   *
   * @throws DatabaseError
   */
  pages<Row>(sql: string, parameters: readonly unknown[], onPage: OnPage<Row>): Promise<void>
  /**
   * Reads few rows in one transaction.
   *
   * @throws DatabaseError
   */
  rows<Row>(sql: string, parameters: readonly unknown[]): Promise<Row[]>
  /**
   * Makes sure that the role can read these columns of a table on its `search_path`.
   *
   * @throws DatabaseError that names everything that is missing: the table, columns, types, the privilege
   */
  requireTable(table: string, columns: Readonly<Record<string, ColumnKind>>): Promise<void>
  /** Connections that there may be. */
  readonly maxConnections: number
  /** Connections that a read uses now, those included that are being opened. */
  readonly acquiredConnections: number
}

/** Options of the plugin. */
export interface DatabaseOptions extends PoolOptions {
  /** `DATABASE_URL`, never logged; undefined: there is no database, and the driver is not even loaded. */
  readonly url: string | undefined
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Undefined without `DATABASE_URL`. */
    readonly database: Database | undefined
  }
}

// Rows of a page: handling them must not hold up the event loop.
const PAGE = 1_000

async function databasePlugin(app: FastifyInstance, options: DatabaseOptions): Promise<void> {
  const { url } = options
  app.decorate('database', url === undefined ? undefined : await openDatabase(app, url, options))
}

export default fp(databasePlugin, { name: 'database', fastify: '5.x' })

async function openDatabase(
  app: FastifyInstance,
  url: string,
  options: DatabaseOptions,
): Promise<Database> {
  const address = parseDatabaseUrl(url)
  if ('problem' in address) throw new TypeError(`DATABASE_URL ${address.problem}`)
  const { password } = address
  const pool = await openPool(address, options)
  app.addHook('onClose', () => pool.close())
  // One message, one round trip; and local to the transaction, all of it: a pooler in transaction mode gives the
  // connection to somebody else afterwards.
  const begin = `begin isolation level repeatable read, read only;
    set local statement_timeout = ${options.statementTimeout};
    select set_config('caracal.zone_id', '*', true)`

  async function transaction<T>(work: (ask: Ask) => Promise<T>): Promise<T> {
    const client = await pool.acquire()
    const ask: Ask = async (sql, parameters) => {
      try {
        return (await client.query(sql, parameters && [...parameters])).rows
      } catch (error) {
        throw databaseError(error, password)
      }
    }
    let sound = false
    try {
      await ask(begin)
      const result = await work(ask)
      await ask('commit')
      sound = true
      return result
    } catch (error) {
      sound = await isRolledBack(ask, error)
      throw error
    } finally {
      pool.release(client, sound)
    }
  }

  const database: Database = {
    pages: <Row>(sql: string, parameters: readonly unknown[], onPage: OnPage<Row>) =>
      transaction(async ask => {
        await ask(`declare page no scroll cursor without hold for ${sql}`, parameters)
        for (;;) {
          const rows = await ask<Row>(`fetch ${PAGE} from page`)
          if (rows.length > 0) await onPage(rows)
          if (rows.length < PAGE) return
        }
      }),
    rows: (sql, parameters) => transaction(ask => ask(sql, parameters)),
    async requireTable(table, columns) {
      const found = await database.rows<FoundColumn>(COLUMNS_OF_TABLE, [table])
      const problems = tableProblems(table, columns, found)
      if (problems.length > 0) {
        throw new DatabaseError(
          `the database (DATABASE_URL) does not fit: ${problems.join('; ')}`,
          undefined,
          true,
        )
      }
    },
    maxConnections: options.maxConnections,
    get acquiredConnections() {
      return pool.acquired
    },
  }
  return database
}

/** Runs a statement in the transaction; rejects with a {@link DatabaseError}. */
type Ask = <Row>(sql: string, parameters?: readonly unknown[]) => Promise<Row[]>

/** Ends the transaction that failed; false when its connection cannot be used again. */
async function isRolledBack(ask: Ask, error: unknown): Promise<boolean> {
  // A server that did not answer the statement would not answer this one either.
  if (error instanceof DatabaseError && !error.answered) return false
  return ask('rollback').then(
    () => true,
    () => false,
  )
}
