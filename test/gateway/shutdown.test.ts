// A gateway that is told to stop finishes what it can, and leaves evidence of all that it let through.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { head, startStack, Wire } from './harness.ts'

test('the gateway ends an open stream in time, leaves its evidence, and exits with 0', async t => {
  const stack = await startStack(t, { env: { SHUTDOWN_TIMEOUT: '2s' } })
  stack.upstream.handler = (_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: one\n\n')
  }
  const wire = new Wire(stack.gateway.port)
  wire.send(`${head('GET /events', stack.mint(), 'X-Request-Id: stream-1')}\r\n`)
  await wire.receives(/data: one/)
  const startedAt = performance.now()
  assert.equal(await stack.gateway.stop(), 0)
  assert.ok(performance.now() - startedAt < 4_000)
  await wire.ended()
  const [event, ...more] = await stack.eventsOf('stream-1')
  assert.equal(event?.evaluation_status, 'upstream_error')
  assert.equal(event.metadata_json['error_kind'], 'response_copy_failed')
  assert.deepEqual(more, [])
})

test('the gateway answers what is under way before it stops', async t => {
  const stack = await startStack(t)
  const { promise: arrived, resolve: arrive } = Promise.withResolvers<() => void>()
  stack.upstream.handler = (_request, response) => arrive(() => response.end('late'))
  const wire = new Wire(stack.gateway.port)
  wire.send(`${head('GET /late', stack.mint(), 'X-Request-Id: late-1')}\r\n`)
  const answer = await arrived
  const stopped = stack.gateway.stop()
  answer()
  await wire.receives(/late/)
  assert.equal(await stopped, 0)
  const [event] = await stack.eventsOf('late-1')
  assert.equal(event?.evaluation_status, 'executed')
})
