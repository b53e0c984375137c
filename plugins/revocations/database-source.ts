// Denies what PostgreSQL says is revoked, whoever published it or not (contract sections 6 and 14).
import { pace } from '../../lib/pace.ts'
import type { AnchorKind } from '../../lib/revocation-set.ts'
import type { Database } from '../database.ts'
import type { SnapshotSource } from './keeper.ts'
import type { KnownRevocations } from './known.ts'
import type { LiveStream } from './live-stream.ts'

interface Row {
  readonly id: string
  /** Unix milliseconds. */
  readonly at: number | null
}

interface Table {
  readonly kind: AnchorKind
  readonly name: string
  /** The columns that the condition needs, and their kinds. */
  readonly times: readonly string[]
  /** When it was revoked. */
  readonly at: string
  readonly condition: string
}

// Time is the database's own: nobody's clock has to agree with it. What is revoked and has no end stays revoked.
const TABLES: readonly Table[] = [
  {
    kind: 'session',
    name: 'authority_records',
    times: ['expires_at', 'revoked_at'],
    at: 'revoked_at',
    condition: `status = 'revoked' and (expires_at is null or expires_at > now() - interval '24 hours')`,
  },
  {
    kind: 'agent_session',
    name: 'sessions',
    times: ['updated_at'],
    at: 'updated_at',
    condition: `status = 'terminated' and updated_at > now() - interval '24 hours'`,
  },
  {
    kind: 'delegation_edge',
    name: 'delegation_edges',
    times: ['revoked_at'],
    at: 'revoked_at',
    condition: `status = 'revoked' and revoked_at > now() - interval '24 hours'`,
  },
]

/** Reads snapshots that replace what was known, save what came live since the read began. */
export class DatabaseSource implements SnapshotSource {
  readonly #database: Database
  readonly #known: KnownRevocations
  readonly #live: LiveStream
  /** The history of the stream is not what snapshots are read from. */
  readonly isIncomplete = false
  #stopped = false

  constructor(database: Database, known: KnownRevocations, live: LiveStream) {
    this.#database = database
    this.#known = known
    this.#live = live
  }

  async check(): Promise<void> {
    for (const { name, times } of TABLES) {
      await this.#database.requireTable(name, {
        id: 'any',
        status: 'text',
        ...Object.fromEntries(times.map(column => [column, 'timestamp' as const])),
      })
    }
  }

  async read(): Promise<void> {
    await this.#locate()
    await this.#known.replace(async () => {
      for (const table of TABLES) await this.#readTable(table)
    })
  }

  lost(): void {
    // The next snapshot holds what the stream has lost.
  }

  stop(): void {
    this.#stopped = true
  }

  // A stream that was made anew may number its entries from before the position of the live read, which would wait for
  // ever. A Redis that is away keeps nobody from what the database says; but the first position comes before a snapshot.
  async #locate(): Promise<void> {
    try {
      await this.#live.locate()
    } catch (error) {
      if (!this.#live.isLocated) throw error
    }
  }

  async #readTable({ kind, name, at, condition }: Table): Promise<void> {
    const sql = `select id::text as id, floor(extract(epoch from ${at}) * 1000)::float8 as at from ${name} where ${condition}`
    const slice = pace()
    await this.#database.pages<Row>(sql, [], async rows => {
      // A page has been parsed in this turn.
      await slice.rest()
      for (const row of rows) {
        const revokedAt = row.at ?? undefined
        this.#known.revoke({ kind, id: row.id, revokedAt }, Number.POSITIVE_INFINITY)
        if (slice.isOver()) await slice.rest()
      }
      if (this.#stopped) throw new Error('the gateway is closing')
    })
  }
}
