/**
 * Holds the bindings of the `resources` table: one whole, valid set at any time, read anew every 30 s. What the copy
 * would refuse is read anew before it is refused, because the STS reads the table for every exchange and would allow
 * it. A table that turns invalid, or cannot be read, leaves the last good set serving (contract section 10).
 */
import { hash } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { resourceProblem } from '../lib/binding-rules.ts'
import { BindingTable, type ResourceRow, TableReading } from '../lib/bindings-table.ts'
import { MissQueue } from '../lib/miss-queue.ts'
import { pace } from '../lib/pace.ts'
import { listed } from '../lib/problem-report.ts'
import type { Database } from './database.ts'

/** Options of the plugin; times in milliseconds. */
export interface BindingsTableOptions {
  /** Time between two reads of the whole table. Default 30000. */
  readonly refreshInterval?: number
  /** Time between two rereads of the same resource, or of the zones. Default 1000. */
  readonly rereadInterval?: number
  /** The longest that a refusal waits for a reread. Default 1000. */
  readonly patience?: number
}

/** A `resources` table that cannot serve, with what is wrong with it. */
export class BindingsTableError extends Error {
  /** One line each. */
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    super(`the resources table is not valid:\n${problems.map(line => `- ${line}`).join('\n')}`)
    this.name = 'BindingsTableError'
    this.problems = problems
  }
}

const COLUMNS = {
  zone_id: 'any',
  identifier: 'text',
  upstream_url: 'text',
  operations: 'jsonb',
  operation_enforcement: 'text',
  archived_at: 'timestamp',
} as const

// `operations` comes as text: what has not changed need not be parsed.
const ROWS = `
  SELECT zone_id::text AS zone_id, identifier, operations::text AS operations, operation_enforcement
  FROM resources
  WHERE upstream_url <> '' AND archived_at IS NULL`
const ZONES = `
  SELECT DISTINCT zone_id::text AS zone_id
  FROM resources
  WHERE upstream_url <> '' AND archived_at IS NULL`
const ROWS_OF = `${ROWS}
  AND (zone_id::text, identifier) IN (SELECT * FROM unnest($1::text[], $2::text[]))`

type Pair = readonly [zone: string, resource: string]

async function bindingsTable(app: FastifyInstance, options: BindingsTableOptions): Promise<void> {
  const { refreshInterval = 30_000, rereadInterval = 1_000, patience = 1_000 } = options
  for (const [name, time] of Object.entries({ refreshInterval, rereadInterval, patience })) {
    if (!(time > 0)) throw new TypeError(`${name} must be a positive number of milliseconds`)
  }
  if (app.database === undefined) throw new Error('bindings from a table need DATABASE_URL')
  const { log } = app
  const database: Database = app.database

  let table = new BindingTable()
  /** What is wrong at present, and logged. */
  let trouble: string | undefined
  /** What was learned since the refresh began that is under way; undefined: none is. */
  let learned: ((table: BindingTable) => void)[] | undefined
  let closed = false

  async function readTable(): Promise<TableReading> {
    const reading = new TableReading(table)
    await database.pages<ResourceRow>(ROWS, [], async rows => {
      if (closed) throw new Error('the gateway closes')
      await take(rows, reading)
      if (reading.hopeless) throw new BindingsTableError(listed(reading.problems))
    })
    if (reading.problems.length > 0) throw new BindingsTableError(listed(reading.problems))
    return reading
  }

  /** Makes a change of the copy, and of the set that is being built from rows that may be older. */
  function learn(change: (table: BindingTable) => void): void {
    change(table)
    learned?.push(change)
  }

  function failed(error: unknown): void {
    if (closed) return
    const problems = error instanceof BindingsTableError ? error.problems : undefined
    const now = problems === undefined ? 'unreadable' : problems.toSorted().join('\n')
    if (now === trouble) return
    trouble = now
    if (problems === undefined) {
      log.error({ err: error }, 'resources table cannot be read, the last good set serves')
    } else {
      log.error({ problems }, 'resources table is not valid, the last good set serves')
    }
  }

  async function refresh(): Promise<void> {
    const changes: typeof learned = []
    learned = changes
    try {
      const reading = await readTable()
      for (const change of changes) change(reading.table)
      table = reading.table
      if (reading.changed || trouble !== undefined) {
        log.info({ bindings: table.size }, 'bindings loaded')
      }
      trouble = undefined
    } catch (error) {
      failed(error)
    } finally {
      learned = undefined
    }
  }

  async function rereadPairs(pairs: readonly Pair[]): Promise<void> {
    const reading = new TableReading(table)
    const columns = [pairs.map(([zone]) => zone), pairs.map(([, resource]) => resource)]
    await take(await database.rows<ResourceRow>(ROWS_OF, columns), reading)
    for (const [zone, resource] of pairs) {
      if (reading.isFaulty(zone, resource)) continue
      const binding = reading.table.find(zone, resource)
      if (binding === table.find(zone, resource)) continue
      learn(known => (binding === undefined ? known.delete(zone, resource) : known.set(binding)))
      log.info({ zone, resource, bindings: table.size }, 'binding reread')
    }
    if (reading.problems.length > 0 && trouble === undefined) {
      failed(new BindingsTableError(listed(reading.problems)))
    }
  }

  async function rereadZones(): Promise<void> {
    await database.pages<Pick<ResourceRow, 'zone_id'>>(ZONES, [], rows => {
      for (const { zone_id: zone } of rows) {
        if (typeof zone !== 'string' || table.hasZone(zone)) continue
        learn(known => known.addZone(zone))
      }
    })
  }

  const missed = <Key>(read: (keys: readonly Key[]) => Promise<void>) =>
    new MissQueue<Key>({
      interval: rereadInterval,
      patience,
      async read(keys) {
        try {
          await read(keys)
        } catch (error) {
          // One line an outage: a refresh may have told already.
          if (trouble === undefined) failed(error)
          throw error
        }
      },
    })
  const missedPairs = missed(rereadPairs)
  const missedZones = missed(rereadZones)

  await database.requireTable('resources', COLUMNS)
  table = (await readTable()).table
  log.info({ bindings: table.size }, 'bindings loaded')

  app.bindings.use({
    hasZone: zone => table.hasZone(zone),
    find: (zone, resource) => table.find(zone, resource),
    reread(zone, resource) {
      // Whoever asks for zones need not be known to anybody: one reading serves them all.
      if (resource === undefined) return missedZones.ask('zones', zone)
      if (resourceProblem(resource) !== undefined) return undefined
      return missedPairs.ask(hash('sha256', JSON.stringify([zone, resource]), 'base64'), [
        zone,
        resource,
      ])
    },
    // There is a set from the start on, and none is ever taken away.
    healthy: () => true,
    get stale() {
      return trouble !== undefined
    },
    get size() {
      return table.size
    },
  })

  const timer = setInterval(() => {
    if (learned === undefined) void refresh()
  }, refreshInterval).unref()
  app.addHook('onClose', async () => {
    closed = true
    clearInterval(timer)
  })
}

/** Has rows read, in slices. */
async function take(rows: readonly ResourceRow[], reading: TableReading): Promise<void> {
  const slice = pace()
  for (const row of rows) {
    reading.add(row)
    if (slice.isOver()) await slice.rest()
  }
}

export default fp(bindingsTable, {
  name: 'bindings-table',
  fastify: '5.x',
  dependencies: ['bindings', 'database'],
})
