import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { startGateway, startStack, call } from '../../test/gateway/harness.ts'

test('calls are refused outside of business hours, and all evidence tells these', async t => {
  const plugin = join(import.meta.dirname, 'index.ts')
  const stack = await startStack(t, { env: { GATEWAY_PLUGINS: plugin, BUSINESS_HOURS: '0-24' } })
  const open = await stack.call()
  assert.equal(open.status, 200)
  const [allowed] = await stack.eventsOf(open.requestId)
  assert.deepEqual(allowed?.metadata_json['annotations'], { business_hours: '0-24' })

  const closed = await startGateway(t, { ...stack.env, BUSINESS_HOURS: '0-0' })
  const token = stack.mint()
  const answer = await call(closed.url, '/', { token })
  assert.equal(answer.status, 403)
  assert.equal(answer.json()['error_description'], 'open from 0:00 to 0:00 UTC')
  const [denied] = await stack.eventsOf(answer.requestId)
  assert.equal(denied?.evaluation_status, 'business_hours')
  assert.deepEqual(denied?.metadata_json['annotations'], { business_hours: '0-0' })
  // The mandate was not spent on it.
  assert.equal((await call(stack.gateway.url, '/', { token })).status, 200)
})
