// Holds the reader of evidence to find every line, whatever pieces a file comes in, in bounded memory.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { type Line, LineCutter } from '../../lib/lines.ts'

function cut(chunks: readonly Buffer[], limit?: number): Line[] {
  const cutter = new LineCutter(limit)
  const lines = chunks.flatMap(chunk => cutter.push(chunk))
  const last = cutter.end()
  return last === undefined ? lines : [...lines, last]
}

/** The buffer in pieces, cut at these places. */
function pieces(bytes: Buffer, places: readonly number[]): Buffer[] {
  const ends = [...places.map(place => place % (bytes.length + 1)), bytes.length]
  ends.sort((a, b) => a - b)
  return ends.map((end, index) => bytes.subarray(ends[index - 1] ?? 0, end))
}

test('the gateway finds the same lines in whatever pieces a file comes', () => {
  const text = fc.array(fc.string({ unit: 'binary' }).map(line => line.replaceAll('\n', '')))
  fc.assert(
    fc.property(text, fc.boolean(), fc.array(fc.nat()), (lines, torn, places) => {
      const bytes = Buffer.from(lines.join('\n') + (torn ? '' : '\n'))
      const found = cut(pieces(bytes, places)).map(({ text }) => text)
      const expected = bytes.toString().split('\n')
      if (expected.at(-1) === '') expected.pop()
      assert.deepEqual(found, expected)
    }),
  )
})

test('the gateway takes no text from bytes that are none', () => {
  const [bad, good] = cut([Buffer.from([0x7b, 0xff, 0x7d, 0x0a]), Buffer.from('é\n')])
  assert.deepEqual([bad?.text, bad?.bytes], [undefined, Buffer.from([0x7b, 0xff, 0x7d])])
  assert.equal(good?.text, 'é')
})

test('the gateway takes a line of the greatest length, and passes over longer ones in bounded memory', () => {
  const limit = 10
  const at = (length: number) => Buffer.from(`${'x'.repeat(length)}\nafter\n`)
  assert.deepEqual(
    cut([at(limit)], limit).map(({ text }) => text),
    ['x'.repeat(limit), 'after'],
  )
  for (const length of [11, 12, 25, 100]) {
    for (const size of [1, 3, 7, 1_000]) {
      const bytes = at(length)
      const places = Array.from({ length: Math.floor(bytes.length / size) }, (_, n) => n * size)
      const lines = cut(pieces(bytes, places), limit)
      assert.equal(lines.at(-1)?.text, 'after')
      const parts = lines.slice(0, -1)
      assert.deepEqual([...new Set(parts.map(({ text }) => text))], [undefined])
      assert.equal(Buffer.concat(parts.map(({ bytes }) => bytes)).toString(), 'x'.repeat(length))
    }
  }
})
