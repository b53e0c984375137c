import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { startStack } from '../../test/gateway/harness.ts'

test('a client is refused its third call of a minute, another is not', async t => {
  const plugin = join(import.meta.dirname, 'index.ts')
  const stack = await startStack(t, { env: { GATEWAY_PLUGINS: plugin, RATE_LIMIT: '2' } })
  const first = await stack.call()
  assert.deepEqual([first.status, first.headers['x-ratelimit-remaining']], [200, '1'])
  assert.equal((await stack.call()).status, 200)
  const token = stack.mint()
  const third = await stack.call('/', { token })
  assert.equal(third.status, 429)
  assert.equal(third.json()['error'], 'rate_limited')
  assert.match(String(third.headers['retry-after']), /^\d+$/)
  const [event] = await stack.eventsOf(third.requestId)
  assert.equal(event?.evaluation_status, 'client_rate')
  const other = await stack.call('/', { token: stack.mint({ client_id: 'other' }) })
  assert.equal(other.status, 200)
  // Who is nobody is refused as such, however often, and uses up nobody's share.
  for (let n = 0; n < 3; n++) assert.equal((await stack.call('/', { token: null })).status, 401)
  assert.equal(stack.upstream.arrivals.length, 3)
})
