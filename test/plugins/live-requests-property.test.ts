// Whenever a revocation comes, nobody takes for whole a body that it cut, and the evidence says the same.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { get, type IncomingMessage, type ServerResponse } from 'node:http'
import { test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import * as fc from 'fast-check'
import { AUDIT_STREAM } from '../../plugins/audit/index.ts'
import { REVOCATION_STREAM } from '../../plugins/revocations/index.ts'
import { type AuditEvent, RESOURCE } from '../gateway/harness.ts'
import { createTestGateway, startWorld } from '../in-process.ts'
import { until } from '../until.ts'

const KINDS = {
  chunks: () => ({}),
  length: (body: string) => ({ 'content-length': String(body.length) }),
  events: () => ({ 'content-type': 'text/event-stream' }),
} as const

const calls = fc.record({
  kind: fc.constantFrom('chunks', 'length', 'events'),
  pieces: fc.array(
    fc.constantFrom('data: 1\n\n', 'data: ', '2', '\n', '\r', ': x', 'y'.repeat(40_000)),
    { maxLength: 8 },
  ),
  /** Before which piece; beyond the last: before the end, or never. */
  revokedBefore: fc.nat(10),
  /** Turns of the event loop between two pieces. */
  turns: fc.array(fc.nat(3), { minLength: 10, maxLength: 10 }),
})

type Call = typeof calls extends fc.Arbitrary<infer T> ? T : never

test('the gateway never lets a body that a revocation cut look whole', async t => {
  const world = await startWorld(t)
  const app = await createTestGateway(t, world)
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const seen = { whole: 0, cut: 0, broken: 0 }

  async function events(requestId: string): Promise<AuditEvent[]> {
    const found: AuditEvent[] = []
    let after = '0-0'
    for (;;) {
      const page = await app.store.range(AUDIT_STREAM, `(${after}`, 1_000)
      found.push(...page.map(({ fields }) => JSON.parse(fields['data'] ?? '')))
      const last = page.at(-1)
      if (last === undefined) return found.filter(event => event.request_id === requestId)
      after = last.id
    }
  }

  async function judge(call: Call) {
    const { kind, pieces, revokedBefore, turns } = call
    const [id, sid, body] = [randomUUID(), randomUUID(), pieces.join('')]
    async function send(response: ServerResponse): Promise<void> {
      response.writeHead(200, KINDS[kind](body))
      response.flushHeaders()
      for (const [index, piece] of [...pieces, undefined].entries()) {
        if (index === revokedBefore)
          await app.store.append(REVOCATION_STREAM, [{ session_id: sid }])
        for (let left = turns[index] ?? 0; left > 0; left -= 1) await turn()
        if (piece === undefined) response.end()
        else response.write(piece)
      }
    }
    world.upstream.handler = (_request, response) => void send(response)
    const headers = {
      authorization: `Bearer ${world.mint({ sid })}`,
      'x-caracal-resource': RESOURCE,
      'x-request-id': id,
    }
    const answered = Promise.withResolvers<IncomingMessage>()
    get(url, { headers, agent: false }, answered.resolve).on('error', answered.reject)
    const answer = await answered.promise
    let text = ''
    answer.setEncoding('utf8').on('data', piece => (text += piece))
    answer.on('error', () => undefined)
    // Not `once`, which would reject.
    await new Promise<void>(resolve => answer.on('close', resolve))
    let left: AuditEvent[] = []
    await until(async () => (left = await events(id)).length > 0)
    const [event, ...others] = left
    assert.equal(others.length, 0)
    const isInterrupted = event?.metadata_json['revocation_interrupted']
    if (answer.statusCode !== 200) {
      assert.deepEqual([answer.statusCode, isInterrupted], [401, true])
    } else if (answer.trailers['x-caracal-revoked'] === 'true') {
      seen.cut += 1
      assert.equal(isInterrupted, true)
      const [, before = text, end] = /^(.*?)(event: caracal-revoked\n.*)$/s.exec(text) ?? []
      assert.equal(end !== undefined, kind === 'events')
      if (end === undefined) assert.ok(body.startsWith(before))
      else {
        assert.match(end, /^event: caracal-revoked\ndata: \{.*\}\n\n$/)
        assert.match(before, /^$|[\n\r]$/, 'on a line of its own')
        assert.ok(body.startsWith(before) || body.startsWith(before.replace(/\n$/, '')))
      }
    } else if (answer.complete) {
      seen.whole += 1
      assert.equal(text, body)
      if (kind !== 'length') assert.equal(event?.evaluation_status, 'executed')
    } else {
      seen.broken += 1
      assert.deepEqual([kind, isInterrupted], ['length', true])
    }
  }

  await fc.assert(fc.asyncProperty(calls, judge), { numRuns: 150 })
  for (const [end, times] of Object.entries(seen)) assert.ok(times > 0, end)
  assert.equal(app.liveRequests.anchors, 0)
})
