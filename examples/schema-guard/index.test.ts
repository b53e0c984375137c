import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { RESOURCE, startStack, ZONE } from '../../test/gateway/harness.ts'

const SCHEMAS = {
  'POST /v1/invoices/:id': {
    type: 'object',
    properties: { amount: { type: 'integer', minimum: 1 } },
    required: ['amount'],
    additionalProperties: false,
  },
}
const OPERATIONS = ['POST /v1/invoices/:id', 'PUT /v1/notes'].map(text => {
  const [method, path] = text.split(' ')
  return { method, path }
})

test('a body that does not fit its operation is refused, and every other arrives', async t => {
  const directory = await mkdtemp(join(tmpdir(), 'schema-guard-'))
  t.after(() => rm(directory, { recursive: true }))
  const [schemas, bindings] = [join(directory, 'schemas.json'), join(directory, 'bindings.json')]
  await writeFile(schemas, JSON.stringify(SCHEMAS))
  const resources = { [RESOURCE]: { operations: OPERATIONS } }
  await writeFile(bindings, JSON.stringify({ version: 1, zones: { [ZONE]: { resources } } }))
  const stack = await startStack(t, {
    env: {
      GATEWAY_PLUGINS: join(import.meta.dirname, 'index.ts'),
      BODY_SCHEMAS: schemas,
      BINDINGS_FILE: bindings,
    },
  })
  const post = (body: string) => stack.call('/v1/invoices/7', { method: 'POST', body })

  for (const body of ['{"amount":0}', '{"amount":"canary"}', '{}', 'canary', '']) {
    const answer = await post(body)
    assert.equal(answer.status, 422, answer.text)
    assert.doesNotMatch(answer.text, /canary/)
  }
  assert.equal((await post(`"${'x'.repeat(65_536)}"`)).status, 413)
  assert.equal(stack.upstream.arrivals.length, 0)

  assert.equal((await post(' { "amount" : 5 } ')).status, 200)
  assert.equal(String(await stack.upstream.arrivals[0]?.body), ' { "amount" : 5 } ')
  const other = await stack.call('/v1/notes', { method: 'PUT', body: 'no JSON' })
  assert.equal(other.status, 200)
  assert.equal(String(await stack.upstream.arrivals[1]?.body), 'no JSON')
})
