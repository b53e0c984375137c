import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { test } from 'node:test'
import { listen, RESOURCE, startStack, ZONE } from '../../test/gateway/harness.ts'
import { until } from '../../test/until.ts'

test('bindings come from an endpoint, and the last good ones serve on', async t => {
  let text = bindings('/v1/invoices')
  let status = 200
  const server = createServer((_request, response) => response.writeHead(status).end(text))
  const port = await listen(server)
  t.after(async () => void server.close())
  const stack = await startStack(t, {
    env: {
      GATEWAY_PLUGINS: join(import.meta.dirname, 'index.ts'),
      BINDINGS_URL: `http://127.0.0.1:${port}`,
      BINDINGS_INTERVAL: '50',
    },
  })
  assert.equal((await stack.call('/v1/invoices')).status, 200)
  assert.equal((await stack.call('/v2/invoices')).status, 403)
  assert.equal(await stack.metric('bindings_loaded'), 1)

  text = bindings('/v2/invoices')
  await until(async () => (await stack.call('/v2/invoices')).status === 200)
  assert.equal((await stack.call('/v1/invoices')).status, 403)

  status = 500
  await until(() => stack.gateway.logs.some(({ msg }) => String(msg).includes('last good set')))
  assert.equal((await stack.call('/v2/invoices')).status, 200)
})

function bindings(path: string): string {
  const operations = [{ method: 'GET', path }]
  const resources = { [RESOURCE]: { operations } }
  return JSON.stringify({ version: 1, zones: { [ZONE]: { resources } } })
}
