import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { startStack } from '../../test/gateway/harness.ts'

test('members are taken out of JSON answers, and what cannot be read does not pass', async t => {
  const plugin = join(import.meta.dirname, 'index.ts')
  const stack = await startStack(t, { env: { GATEWAY_PLUGINS: plugin, REDACT: 'iban' } })
  let answer: { headers: Record<string, string>; body: string }
  stack.upstream.handler = (_request, response) =>
    response.writeHead(200, answer.headers).end(answer.body)
  const json = { 'content-type': 'application/json; charset=utf-8' }

  const many = Array.from({ length: 2_000 }, (_, id) => ({ id, payer: { iban: 'canary' } }))
  for (const list of [many.slice(0, 1), many]) {
    answer = { headers: json, body: JSON.stringify(list) }
    const redacted = await stack.call()
    assert.equal(redacted.status, 200)
    const expected = list.map(({ id }) => ({ id, payer: { iban: '[redacted]' } }))
    assert.deepEqual(JSON.parse(redacted.text), expected)
  }
  assert.equal(stack.upstream.arrivals[0]?.headers['accept-encoding'], 'identity')

  for (const unreadable of [
    { headers: json, body: '{"iban":"canary"' },
    { headers: { ...json, 'content-encoding': 'gzip' }, body: 'canary' },
  ]) {
    answer = unreadable
    const refused = await stack.call()
    assert.equal(refused.status, 502)
    assert.equal(refused.headers['content-encoding'], undefined)
    assert.doesNotMatch(refused.text, /canary/)
    assert.equal(refused.json()['dispatched'], 'unknown')
  }

  // Its headers are out by the time: it breaks off.
  answer = { headers: json, body: `"canary${'y'.repeat(1_100_000)}"` }
  await assert.rejects(stack.call(), /other side closed|terminated/)

  answer = { headers: { 'content-type': 'text/plain' }, body: 'as it is' }
  assert.equal((await stack.call()).text, 'as it is')
  assert.equal((await stack.call('/', { token: null })).json()['error'], 'invalid_token')
})
