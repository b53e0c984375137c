// Without a collector nothing of OpenTelemetry is loaded. In a file of its own: what is loaded stays loaded.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { startCollector } from '../../collector.ts'
import { RESOURCE } from '../../gateway/harness.ts'
import { createTestGateway, startWorld } from '../../in-process.ts'

/** But for the API, which the Prometheus client loads. */
const loaded = () =>
  Object.keys(createRequire(import.meta.url).cache).filter(path =>
    /@opentelemetry\/(?!api\/)|@fastify\/otel/.test(path),
  )

test('the gateway loads OpenTelemetry when there is a collector, and not before', async t => {
  const world = await startWorld(t)
  const plain = await createTestGateway(t, world, {
    OTEL_SERVICE_NAME: 'name',
    OTEL_TRACES_SAMPLER: 'always_on',
  })
  const headers = { authorization: `Bearer ${world.mint()}`, 'x-caracal-resource': RESOURCE }
  const answer = await plain.inject({ url: '/v1', headers })
  assert.equal(answer.statusCode, 200)
  assert.equal(plain.tracing, undefined)
  assert.deepEqual(loaded(), [])
  const collector = await startCollector(t)
  await createTestGateway(t, world, { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url })
  assert.notDeepEqual(loaded(), [])
})
