import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startStack } from './harness.ts'

test('one mandate in, one governed request out, and its evidence', async t => {
  const stack = await startStack(t, { env: { LOG_LEVEL: 'debug' } })
  const answer = await stack.call('/v1/invoices?limit=2')
  assert.equal(answer.status, 200, answer.text)
  assert.equal(answer.text, 'ok')
  assert.deepEqual(
    stack.upstream.arrivals.map(({ method, url }) => [method, url]),
    [['GET', '/v1/invoices?limit=2']],
  )
  const [event] = await stack.eventsOf(answer.requestId)
  assert.equal(event?.evaluation_status, 'executed')
  assert.equal(await stack.metric('requests_allowed'), 1)
  const [line, ...more] = stack.gateway.logs.filter(({ msg }) => msg === 'request')
  assert.deepEqual([line?.['reqId'], line?.['status']], [answer.requestId, 200])
  assert.deepEqual(more, [])
  assert.equal(await stack.gateway.stop(), 0)
})
