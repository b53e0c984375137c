import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { startStack } from '../../test/gateway/harness.ts'

const ORIGIN = 'https://app.example.com'

test('a browser of a chosen origin may call, and read what it is told', async t => {
  const plugin = join(import.meta.dirname, 'index.ts')
  const stack = await startStack(t, { env: { GATEWAY_PLUGINS: plugin, CORS_ORIGINS: ORIGIN } })
  const preflight = (origin: string) =>
    stack.call('/v1/invoices', {
      method: 'OPTIONS',
      token: null,
      resource: null,
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization, x-caracal-resource',
      },
    })
  const allowed = await preflight(ORIGIN)
  assert.equal(allowed.status, 204)
  assert.equal(allowed.headers['access-control-allow-origin'], ORIGIN)
  assert.match(String(allowed.headers['access-control-allow-headers']), /X-Caracal-Resource/)
  assert.equal(
    (await preflight('https://evil.example')).headers['access-control-allow-origin'],
    undefined,
  )
  assert.equal(stack.upstream.arrivals.length, 0)

  const headers = { origin: ORIGIN }
  const answer = await stack.call('/v1/invoices', { headers })
  assert.deepEqual([answer.status, answer.headers['access-control-allow-origin']], [200, ORIGIN])
  const refused = await stack.call('/v1/invoices', { token: null, headers })
  assert.deepEqual([refused.status, refused.headers['access-control-allow-origin']], [401, ORIGIN])
  const foreign = await stack.call('/', { headers: { origin: 'https://evil.example' } })
  assert.equal(foreign.headers['access-control-allow-origin'], undefined)
})
