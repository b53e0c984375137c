// Each gateway traces by its own configuration, whatever else lives in the process; and samples as it is told.
import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { context, propagation, trace } from '@opentelemetry/api'
import type { FastifyInstance } from 'fastify'
import { type Collector, startCollector } from '../../collector.ts'
import { RESOURCE } from '../../gateway/harness.ts'
import { createTestGateway, startWorld, type World } from '../../in-process.ts'

const TRACE = 'ab'.repeat(16)
const CALLER = 'cd'.repeat(8)

async function call(app: FastifyInstance, world: World, flags?: string): Promise<void> {
  const headers: Record<string, string> = {
    authorization: `Bearer ${world.mint()}`,
    'x-caracal-resource': RESOURCE,
  }
  if (flags !== undefined) headers['traceparent'] = `00-${TRACE}-${CALLER}-${flags}`
  const answer = await app.inject({ url: '/v1', headers })
  assert.equal(answer.statusCode, 200, answer.body)
}

/** How many of 20 requests are traced under a sampler, with these flags of the caller. */
async function share(
  t: TestContext,
  world: World,
  env: Readonly<Record<string, string>>,
  flags?: string,
): Promise<number> {
  const collector = await startCollector(t)
  const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url }
  const app = await createTestGateway(t, world, { ...env, ...endpoint })
  for (let i = 0; i < 20; i += 1) await call(app, world, flags)
  await app.close()
  const last = world.upstream.arrivals.at(-1)?.headers['traceparent']
  const traced = collector.spans.filter(({ kind }) => kind === 'server').length
  if (traced === 0 || traced === 20) assert.equal(String(last).slice(-2), traced > 0 ? '01' : '00')
  return traced
}

test('the gateway traces which requests OTEL_TRACES_SAMPLER names', async t => {
  const world = await startWorld(t)
  const all = { OTEL_TRACES_SAMPLER: 'always_on' }
  assert.equal(await share(t, world, all, '00'), 20)
  const none = { OTEL_TRACES_SAMPLER: 'always_off' }
  assert.equal(await share(t, world, none, '01'), 0)
  const callers = { OTEL_TRACES_SAMPLER: 'parentbased_always_off' }
  assert.equal(await share(t, world, callers), 0)
  assert.equal(await share(t, world, callers, '01'), 20)
  const some = { OTEL_TRACES_SAMPLER: 'parentbased_traceidratio', OTEL_TRACES_SAMPLER_ARG: '0.5' }
  assert.equal(await share(t, world, some, '00'), 0)
  const half = await share(t, world, some)
  assert.ok(half > 0 && half < 20, `${half} of 20`)
  const never = { OTEL_TRACES_SAMPLER: 'traceidratio', OTEL_TRACES_SAMPLER_ARG: '0' }
  assert.equal(await share(t, world, never, '01'), 0)
})

test('the gateway shares nothing of its traces with another one, nor with the process', async t => {
  for (const [name, value] of Object.entries({
    OTEL_EXPORTER_OTLP_HEADERS: 'x-of=process',
    OTEL_RESOURCE_ATTRIBUTES: 'of=process',
    OTEL_TRACES_SAMPLER: 'always_off',
    OTEL_SDK_DISABLED: 'true',
    OTEL_FASTIFY_IGNORE_PATHS: '/**',
  })) {
    process.env[name] = value
    t.after(() => delete process.env[name])
  }
  const world = await startWorld(t)
  const collectors: Collector[] = []
  const apps: FastifyInstance[] = []
  for (const name of ['one', 'two']) {
    const collector = await startCollector(t)
    collectors.push(collector)
    apps.push(
      await createTestGateway(t, world, {
        OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
        OTEL_SERVICE_NAME: name,
        OTEL_EXPORTER_OTLP_HEADERS: `x-of=${name}`,
      }),
    )
  }
  for (const app of apps) await call(app, world)
  await call(apps[1] ?? assert.fail(), world)
  for (const app of apps) await app.close()
  for (const [index, name] of ['one', 'two'].entries()) {
    const { spans, exports } = collectors[index] ?? assert.fail()
    assert.equal(spans.filter(({ kind }) => kind === 'server').length, index + 1)
    assert.deepEqual([...new Set(spans.map(({ resource }) => resource['service.name']))], [name])
    assert.deepEqual([...new Set(exports.map(headers => headers['x-of']))], [name])
    assert.ok(spans.every(({ resource }) => !('of' in resource)))
  }
  // Nothing of OpenTelemetry's global state is set.
  const span = trace.getTracer('test').startSpan('none')
  assert.equal(span.isRecording(), false)
  assert.deepEqual(propagation.fields(), [])
  context.with(trace.setSpan(context.active(), span), () =>
    assert.equal(trace.getActiveSpan(), undefined),
  )
})
