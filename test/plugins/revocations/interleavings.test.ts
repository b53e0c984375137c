// Whatever becomes of Redis, in whatever order: nothing that was known is forgotten, nothing that is there is missed.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { createMemoryStore } from '../../../dev/memory-store.ts'
import { compareStreamIds } from '../../../lib/stream-id.ts'
import { REVOCATION_STREAM } from '../../../plugins/revocations/index.ts'
import type { Store, StreamEntry } from '../../../plugins/store.ts'
import { until } from '../../until.ts'
import { session, signed, start } from './support.ts'

/** A Redis that replicates late: a fail-over takes its last entries away, and its clock may be behind afterwards. */
class Unreliable {
  entries: StreamEntry[] = []
  behind = 0
  away = false
  #added = 0
  #last = '0-0'
  #count = 0
  readonly #waiting = new Set<() => void>()

  add(): void {
    const [time = 0, sequence = 0] = this.#last.split('-').map(Number)
    const now = Date.now() - this.behind
    this.#last = now > time ? `${now}-0` : `${time}-${sequence + 1}`
    this.entries.push({ id: this.#last, fields: signed(session(`n-${this.#count}`)) })
    this.#count += 1
    this.#added += 1
    this.#wake()
  }

  failOver(lost: number, behind: number): void {
    this.away = true
    this.behind = behind
    this.entries.splice(Math.max(0, this.entries.length - lost))
    this.#added = Math.max(this.entries.length, this.#added - lost)
    this.#last = this.entries.at(-1)?.id ?? '0-0'
    this.#wake()
  }

  back(): void {
    this.away = false
  }

  trim(length: number): void {
    this.entries.splice(0, this.entries.length - length)
  }

  #wake(): void {
    for (const wake of this.#waiting) wake()
    this.#waiting.clear()
  }

  #answer(): void {
    if (this.away) throw new Error('away')
  }

  store(): Store {
    const other = createMemoryStore()
    const after = (id: string, count: number) =>
      this.entries.filter(entry => compareStreamIds(entry.id, id) > 0).slice(0, count)
    return {
      ...other,
      info: async () => {
        await new Promise(setImmediate)
        this.#answer()
        return {
          length: this.entries.length,
          firstId: this.entries[0]?.id,
          lastId: this.entries.at(-1)?.id,
          lastGeneratedId: this.#last,
          entriesAdded: this.#added,
        }
      },
      range: async (stream, from, count) => {
        await new Promise(setImmediate)
        this.#answer()
        if (stream !== REVOCATION_STREAM) return []
        if (from.startsWith('(')) return after(from.slice(1), count)
        return this.entries.slice(0, count)
      },
      tail: async (_stream, id, count) => {
        await new Promise(setImmediate)
        this.#answer()
        if (after(id, 1).length === 0) {
          await new Promise<void>(resolve => {
            this.#waiting.add(resolve)
            setTimeout(resolve, 5)
          })
        }
        this.#answer()
        return after(id, count)
      },
    }
  }
}

const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('add' as const), count: fc.nat(5) }) },
  fc.record({ do: fc.constant('trim' as const), length: fc.nat(20) }),
  { weight: 2, arbitrary: fc.record({ do: fc.constant('pass' as const), turns: fc.nat(8) }) },
  fc.record({
    do: fc.constant('fail' as const),
    lost: fc.nat(6),
    behind: fc.constantFrom(0, 5, 60_000),
    // As many as were lost, fewer, or more: before anybody looks, and while nobody can.
    added: fc.nat(8),
    turns: fc.nat(3),
  }),
  fc.record({ do: fc.constant('reload' as const) }),
)

test('the gateway forgets nothing it knew and misses nothing that is there', async t => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async steps => {
      const redis = new Unreliable()
      redis.add()
      const { app, revocations } = await start(t, { store: redis.store() })
      const known = new Set<string>()
      const look = () => {
        for (const { fields } of redis.entries) {
          const sid = fields['session_id'] ?? ''
          if (revocations.isRevoked({ sid })) known.add(sid)
        }
        for (const sid of known) assert.ok(revocations.isRevoked({ sid }), `${sid} was forgotten`)
      }
      const turns = async (count: number) => {
        for (let turn = 0; turn < count; turn += 1) {
          await new Promise(setImmediate)
          look()
        }
      }
      for (const one of steps) {
        if (one.do === 'add') for (let n = 0; n < one.count; n += 1) redis.add()
        else if (one.do === 'trim') {
          // What is trimmed before anybody could read it is nobody's to know.
          await until(() => all(redis, revocations))
          look()
          redis.trim(one.length)
        } else if (one.do === 'pass') await turns(one.turns)
        else if (one.do === 'reload') await revocations.reload().catch(() => undefined)
        else {
          look()
          redis.failOver(one.lost, one.behind)
          for (let n = 0; n < one.added; n += 1) redis.add()
          await turns(one.turns)
          // The connection is gone: whoever reads comes to know it.
          await new Promise(resolve => setTimeout(resolve, 10))
          redis.back()
        }
      }
      await until(() => all(redis, revocations))
      look()
      await app.close()
    }),
    { numRuns: 25 },
  )
})

function all(
  redis: Unreliable,
  revocations: { isRevoked(anchors: { sid: string }): boolean },
): boolean {
  return redis.entries.every(({ fields }) =>
    revocations.isRevoked({ sid: fields['session_id'] ?? '' }),
  )
}
