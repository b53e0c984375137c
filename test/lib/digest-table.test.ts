// A digest table remembers every name, its first content and its marks.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { DigestTable } from '../../lib/digest-table.ts'

const mark = fc.constantFrom<1 | 2 | 4>(1, 2, 4)
const text = fc.constantFrom('a', 'b', 'c', '', 'ä', '\u0000')

describe('a digest table', () => {
  it('says what a map would say', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(text, text, mark)), additions => {
        const table = new DigestTable()
        const map = new Map<string, { content: string; marks: number }>()
        for (const [name, content, bit] of additions) {
          const known = map.get(name) ?? { content, marks: 0 }
          assert.deepEqual(table.add(name, content, bit), {
            marks: known.marks,
            same: known.content === content,
          })
          map.set(name, { content: known.content, marks: known.marks | bit })
          assert.equal(table.marks(name), known.marks | bit)
        }
        assert.equal(table.size, map.size)
        for (const bit of [1, 2, 4]) {
          const marked = [...map.values()].filter(({ marks }) => (marks & bit) !== 0)
          assert.equal(
            table.count(marks => (marks & bit) !== 0),
            marked.length,
          )
        }
      }),
    )
  })

  it('keeps what it has while it grows', () => {
    const table = new DigestTable()
    const count = 50_000
    for (let n = 0; n < count; n++) {
      assert.deepEqual(table.add(`name-${n}`, `${n}`, 1), { marks: 0, same: true })
    }
    assert.equal(table.size, count)
    for (let n = 0; n < count; n++) {
      assert.deepEqual(table.add(`name-${n}`, n % 2 === 0 ? `${n}` : 'x', 4), {
        marks: 1,
        same: n % 2 === 0,
      })
      assert.equal(table.marks(`other-${n}`), 0)
    }
    assert.equal(table.size, count)
  })
})
