// Holds the journal's lines to tell the same story however much of them is left: no event is invented or changed.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { type AuditEvent, type WrittenEvent, writeEvent } from '../../lib/audit-event.ts'
import {
  doneLine,
  intentLine,
  JournalReader,
  outcomeLine,
  readJournalLine,
} from '../../lib/journal.ts'
import { LineCutter } from '../../lib/lines.ts'
import { uuidv7 } from '../../lib/uuid.ts'

const event = (status: string, resource = 'r'): AuditEvent => ({
  zone_id: 'zone-1',
  event_type: 'gateway_resource_request',
  request_id: 'r-1',
  decision: 'allow',
  evaluation_status: status,
  metadata_json: { resource },
})
const written = (status: string, id = uuidv7(), resource = 'r'): WrittenEvent =>
  writeEvent(id, event(status, resource), Date.now())

function read(bytes: Buffer): { due: WrittenEvent[]; corrupt: number } {
  const cutter = new LineCutter()
  const lines = cutter.push(bytes)
  const last = cutter.end()
  const reader = new JournalReader()
  let corrupt = 0
  for (const { text } of last === undefined ? lines : [...lines, last]) {
    const line = text === undefined ? undefined : readJournalLine(text)
    if (line === undefined) corrupt += 1
    else reader.read(line)
  }
  return { due: reader.due, corrupt }
}

test('the gateway says that a request without an outcome was interrupted, and sends outcomes as written', () => {
  const [open, ended, sent, refused] = [uuidv7(), uuidv7(), uuidv7(), uuidv7()] as const
  const intents = [open, ended, sent, refused].map(id => written('interrupted', id))
  const outcome = written('executed', ended)
  const denial = written('revoked')
  const lines = [
    ...intents.map(intentLine),
    outcomeLine(written('executed', sent)),
    outcomeLine(outcome),
    outcomeLine(denial),
    doneLine([sent, refused]),
    // Copied forward.
    ...intents.slice(0, 2).map(intentLine),
  ]
  assert.deepEqual(read(Buffer.from(lines.join(''))), {
    due: [intents[0], outcome, denial],
    corrupt: 0,
  })
})

interface Step {
  readonly line: string
  readonly event: WrittenEvent | undefined
  readonly done: readonly string[]
}

/** A journal as a gateway writes it: intents before outcomes, outcomes before they are done. */
const journals = fc
  .array(
    fc.record({
      ends: fc.constantFrom('open', 'ended', 'done'),
      resource: fc.string({ unit: 'binary', maxLength: 8 }),
      hasIntent: fc.boolean(),
    }),
    { maxLength: 8 },
  )
  .map(requests => {
    const steps: Step[] = []
    for (const { ends, resource, hasIntent } of requests) {
      const id = uuidv7()
      const intent = written('interrupted', id, resource)
      const outcome = written('executed', id, resource)
      if (hasIntent) steps.push({ line: intentLine(intent), event: intent, done: [] })
      if (ends !== 'open') steps.push({ line: outcomeLine(outcome), event: outcome, done: [] })
      if (ends === 'done') steps.push({ line: doneLine([id]), event: undefined, done: [id] })
    }
    return steps
  })

function expected(steps: readonly Step[]): WrittenEvent[] {
  const due = new Map<string, WrittenEvent>()
  for (const { event, done } of steps) {
    if (event !== undefined) due.set(event.id, event)
    for (const id of done) due.delete(id)
  }
  return [...due.values()]
}

test('the gateway recovers every whole line of a journal that breaks off anywhere, and invents none', () => {
  fc.assert(
    fc.property(journals, fc.nat(), (steps, place) => {
      const bytes = Buffer.from(steps.map(({ line }) => line).join(''))
      const length = place % (bytes.length + 1)
      let end = 0
      let whole = 0
      for (const { line } of steps) {
        const next = end + Buffer.byteLength(line)
        // A line that lacks its newline alone is whole.
        if (next - 1 > length) break
        end = next
        whole += 1
      }
      const { due, corrupt } = read(bytes.subarray(0, length))
      assert.deepEqual(due, expected(steps.slice(0, whole)))
      assert.equal(corrupt, length > end ? 1 : 0)
    }),
    { numRuns: 500 },
  )
})

test('the gateway passes over lines that were garbled, and reads the rest', () => {
  fc.assert(
    fc.property(journals, fc.array(fc.uint8Array({ maxLength: 40 })), (steps, junk) => {
      const lines = steps.map(({ line }) => Buffer.from(line))
      const garbage = junk.map(bytes => Buffer.from([...bytes.filter(byte => byte !== 0x0a), 0x0a]))
      const mixed = lines.flatMap((line, index) => [...garbage.slice(index, index + 1), line])
      assert.deepEqual(read(Buffer.concat(mixed)).due, expected(steps))
    }),
  )
})

test('the gateway takes no line for what it nearly is', () => {
  const one = written('executed')
  const { id, data } = one
  for (const line of [
    '',
    'I',
    'I ',
    `I ${id}`,
    `I ${id} `,
    `I ${id} {}`,
    `I ${id} []`,
    `X ${id} ${data}`,
    `i ${id} ${data}`,
    `O ${uuidv7()} ${data}`,
    `O not-an-id ${data}`,
    `O  ${id} ${data}`,
    'D',
    'D ',
    `D ${id} `,
    `D ${id} ${id.slice(1)}`,
    `D ${id}\u0000`,
  ]) {
    assert.equal(readJournalLine(line), undefined, line)
  }
  assert.deepEqual(readJournalLine(`O ${id} ${data}`), { kind: 'outcome', event: one })
})
