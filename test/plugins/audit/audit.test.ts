// Evidence on a real Redis: its shape, its order, and what becomes of it when Redis is away.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import Fastify from 'fastify'
import { createMemoryStore } from '../../../dev/memory-store.ts'
import audit, { AUDIT_STREAM, type AuditEvent } from '../../../plugins/audit/index.ts'
import store from '../../../plugins/store.ts'
import { assertEvidence } from '../../evidence.ts'
import { startRedis } from '../../redis.ts'
import { startTcpProxy } from '../../tcp-proxy.ts'
import { until } from '../../until.ts'
import { event, KEY, number, redisStore, start, stubbornStore } from './support.ts'

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

test('the gateway writes evidence that fits the schema, signed over its bytes', async t => {
  const redis = await startRedis(t)
  const { app, audit } = await start(t, redisStore(redis.port))
  const word = fc.string({ minLength: 1, unit: 'binary' })
  const events = fc.sample(
    fc.record<AuditEvent>({
      zone_id: word,
      event_type: word,
      request_id: word,
      decision: fc.constantFrom('allow', 'deny'),
      evaluation_status: word,
      metadata_json: fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 2 })) as fc.Arbitrary<
        Readonly<Record<string, unknown>>
      >,
    }),
    200,
  )
  const before = Date.now()
  for (const one of events) audit.record(one)
  await app.close()
  const entries = await redis.entries(AUDIT_STREAM)
  assert.equal(entries.length, events.length)
  assert.equal(assertEvidence(entries, KEY).size, events.length)
  for (const [index, { fields }] of entries.entries()) {
    const stored = JSON.parse(fields['data'] ?? '')
    assert.match(stored.id, UUID_V7)
    assert.match(stored.occurred_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
    assert.ok(Date.parse(stored.occurred_at) >= before)
    assert.deepEqual([stored.determining_policies_json, stored.diagnostics_json], [[], []])
    const sent = JSON.parse(JSON.stringify(events[index]))
    for (const [name, value] of Object.entries(sent)) assert.deepEqual(stored[name], value)
  }
})

test('the gateway without a key writes evidence without a signature', async t => {
  const memory = createMemoryStore()
  const { audit } = await start(t, { store: memory }, { hmacKey: undefined })
  audit.record(event())
  await until(async () => (await memory.range(AUDIT_STREAM, '-', 10)).length === 1)
  const [entry] = await memory.range(AUDIT_STREAM, '-', 10)
  assert.deepEqual(Object.keys(entry?.fields ?? {}), ['id', 'data'])
})

test('the gateway delivers in order what was recorded while Redis was down', async t => {
  const redis = await startRedis(t)
  const { audit, seen, lines } = await start(t, redisStore(redis.port))
  await redis.stop()
  for (let n = 0; n < 1_200; n += 1) audit.record(event(n))
  await until(() => seen.sinkErrors >= 2)
  assert.equal(audit.depth, 1_200)
  assert.equal(audit.accepting(), true)
  await redis.restart()
  await until(() => audit.depth === 0)
  const entries = await redis.entries(AUDIT_STREAM)
  assert.deepEqual(
    entries.map(({ fields }) => number(fields['data'])),
    Array.from({ length: 1_200 }, (_, n) => n),
  )
  assert.equal(seen.dropped, 0)
  assert.equal(lines.filter(line => line.includes('audit events wait')).length, 1)
})

test('the gateway resends the same bytes when the answer is lost, and loses nothing', async t => {
  const redis = await startRedis(t)
  const proxy = await startTcpProxy(t, redis.port)
  const { audit } = await start(t, redisStore(proxy.port))
  for (let n = 0; n < 100; n += 1) audit.record(event(n))
  await until(() => audit.depth === 0)
  const swallowed = proxy.swallowAnswers()
  for (let n = 100; n < 200; n += 1) audit.record(event(n))
  await swallowed
  proxy.cut()
  proxy.restore()
  for (let n = 200; n < 300; n += 1) audit.record(event(n))
  await until(() => audit.depth === 0)
  const entries = await redis.entries(AUDIT_STREAM)
  const byId = new Map<string | undefined, string | undefined>()
  for (const { fields } of entries) {
    const { id, data } = fields
    assert.equal(byId.get(id) ?? data, data)
    byId.set(id, data)
  }
  assert.ok(entries.length > 300, 'the lost answer must have led to a resend')
  assert.deepEqual(
    [...byId.values()].map(number),
    Array.from({ length: 300 }, (_, n) => n),
  )
})

test('the gateway stops accepting at capacity, keeps what is in flight, and says what is lost', async t => {
  const sink = stubbornStore()
  const { audit, seen, lines } = await start(t, { store: sink }, { capacity: 10 })
  assert.equal(audit.capacity, 10)
  for (let n = 0; n < 9; n += 1) audit.record(event(n))
  assert.equal(audit.accepting(), true)
  audit.record(event(9))
  assert.equal(audit.accepting(), false)
  for (let n = 10; n < 5_010; n += 1) audit.record(event(n))
  assert.equal(audit.depth, 5_010)
  assert.deepEqual([seen.dropped, audit.lost], [0, false])
  audit.record(event(5_010))
  audit.record(event(5_011))
  assert.deepEqual([seen.dropped, audit.lost, audit.depth], [2, true, 5_010])
  assert.equal(lines.filter(line => line.includes('audit evidence lost')).length, 1)
  sink.taking = Infinity
  await until(() => audit.depth === 0)
  assert.deepEqual(
    sink.taken.map(({ data }) => number(data)),
    Array.from({ length: 5_010 }, (_, n) => n),
  )
  assert.deepEqual([audit.accepting(), audit.lost], [true, true])
})

test('the gateway counts an event that cannot be serialised as lost and does not throw', async t => {
  const { audit, seen } = await start(t, { store: createMemoryStore() })
  const circular: Record<string, unknown> = {}
  circular['self'] = circular
  audit.record({ ...event(), metadata_json: circular })
  audit.record({ ...event(), metadata_json: { big: 1n } })
  assert.deepEqual([seen.dropped, audit.lost, audit.depth], [2, true, 0])
})

test('the gateway delivers what waits before it ends', async t => {
  const redis = await startRedis(t)
  const { app, audit, seen } = await start(t, redisStore(redis.port))
  for (let n = 0; n < 1_100; n += 1) audit.record(event(n))
  await app.close()
  assert.equal((await redis.entries(AUDIT_STREAM)).length, 1_100)
  assert.equal(audit.accepting(), false)
  audit.record(event())
  assert.equal(seen.dropped, 1)
})

test('the gateway ends in time without Redis and says how much it could not deliver', async t => {
  const redis = await startRedis(t)
  const { app, audit, seen, lines } = await start(t, redisStore(redis.port))
  redis.pause()
  for (let n = 0; n < 7; n += 1) audit.record(event(n))
  const begin = performance.now()
  await app.close()
  assert.ok(performance.now() - begin < 600)
  assert.deepEqual([seen.dropped, audit.lost], [7, true])
  assert.ok(lines.some(line => /"count":7.*audit evidence lost/.test(line)))
})

test('the gateway refuses a queue without room', async t => {
  for (const capacity of [0, -1, 1.5]) {
    const app = Fastify()
    t.after(() => app.close())
    app.register(store, { store: createMemoryStore() })
    app.register(audit, { capacity })
    await assert.rejects(async () => app.ready(), /capacity/)
  }
})
