// Holds what a gateway shows of itself to contract section 11: every name with its meaning, and no more series than
// there are checks, whoever calls.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { FastifyInstance } from 'fastify'
import { DENIALS } from '../../denial.ts'
import { COUNTERS, GAUGES } from '../counters.ts'
import { createTestGateway, startWorld } from '../in-process.ts'
import { until } from '../until.ts'
import { RESOURCE } from './harness.ts'

const HISTOGRAMS = ['request_duration_seconds', 'stage_duration_seconds', 'revocation_cut_seconds']
const LABELLED = ['denials', 'would_deny', 'jwks_refetch']

const world = await startWorld({ after })

async function textOf(app: FastifyInstance): Promise<string> {
  return (await app.inject('/metrics')).body
}

async function figureOf(app: FastifyInstance, name: string): Promise<number> {
  const { body } = await app.inject('/metrics.json')
  return JSON.parse(body)[name]
}

/** The series of the gateway's own, by name and labels, without their values. */
function seriesIn(text: string): string[] {
  return text
    .split('\n')
    .filter(line => line.startsWith('caracal_'))
    .map(line => line.slice(0, line.lastIndexOf(' ')))
}

/** Of the durations: how many were measured. */
function measured(text: string, stage: string): number {
  const name = `caracal_gateway_stage_duration_seconds_count{stage="${stage}"} `
  return Number(text.split(name)[1]?.split('\n')[0] ?? 0)
}

function proxied(
  app: FastifyInstance,
  token: string,
  options: { url?: string; headers?: Record<string, string>; method?: 'GET' | 'PURGE' } = {},
) {
  const { url = '/v1', method = 'GET' } = options
  const headers = { authorization: `Bearer ${token}`, 'x-caracal-resource': RESOURCE }
  return app.inject({ url, method, headers: { ...headers, ...options.headers } })
}

test('the gateway says of every metric what it is, and of which kind', async t => {
  const text = await textOf(await createTestGateway(t, world))
  for (const [type, names] of [
    ['counter', [...COUNTERS, ...LABELLED].map(name => `${name}_total`)],
    ['gauge', GAUGES],
    ['histogram', HISTOGRAMS],
  ] as const) {
    for (const name of names) {
      assert.match(text, new RegExp(`^# HELP caracal_gateway_${name} \\S`, 'm'), name)
      assert.match(text, new RegExp(`^# TYPE caracal_gateway_${name} ${type}$`, 'm'), name)
    }
  }
  const families = text.match(/^# TYPE caracal_/gm) ?? []
  assert.equal(new Set(text.match(/^# TYPE \S+/gm)).size, (text.match(/^# TYPE/gm) ?? []).length)
  assert.ok(families.length >= COUNTERS.length + GAUGES.length + HISTOGRAMS.length)
})

test('the gateway shows no more series after hostile traffic than checks and stages', async t => {
  const app = await createTestGateway(t, world, { LOG_LEVEL: 'silent' })
  const before = seriesIn(await textOf(app))
  for (let i = 0; i < 40; i += 1) {
    const odd = `${i}-"\\\u00e9`
    await Promise.all([
      proxied(app, world.mint(), { url: `/${encodeURIComponent(odd)}?${i}` }),
      proxied(app, world.mint({ zone_id: `zone-${i}` })),
      proxied(app, world.mint({ client_id: `client-${i}`, use: `use-${i}` })),
      proxied(app, world.mint({ jti: `jti-${i}`, scope: `scope-${i}` })),
      proxied(app, world.mint(), { headers: { 'x-caracal-resource': `resource://${i}` } }),
      proxied(app, `bearer-${i}`),
      proxied(app, world.mint(), { url: `/%2e%2e/${i}` }),
      proxied(app, world.mint(), { headers: { 'x-request-id': `id-${i}` } }),
      proxied(app, world.mint(), { method: 'PURGE' }),
      app.inject({ url: '/health', method: 'PUT', headers: { 'x-odd': `${i}` } }),
    ])
  }
  const series = seriesIn(await textOf(app))
  const grown = series.filter(name => !before.includes(name))
  const known = new RegExp(
    `^caracal_gateway_(?:denials_total\\{check="(?:${Object.keys(DENIALS).join('|')})"\\}` +
      '|jwks_refetch_total\\{reason="[a-z_]+"\\}' +
      '|stage_duration_seconds_(?:bucket|sum|count)\\{(?:le="[^"]+",)?stage="(?:verify|replay|exchange|upstream)"\\})$',
  )
  for (const name of grown) assert.match(name, known)
  assert.ok(grown.length > 0)
  assert.ok(new Set(grown.filter(name => name.includes('jwks'))).size <= 6)
})

test('the gateway measures a stage that fails as one that does not', async t => {
  const app = await createTestGateway(t, world)
  const counts = async () => {
    const text = await textOf(app)
    return ['verify', 'replay', 'exchange', 'upstream'].map(stage => measured(text, stage))
  }
  const token = world.mint()
  await proxied(app, token)
  assert.deepEqual(await counts(), [1, 1, 1, 1])
  await proxied(app, `${world.mint().slice(0, -8)}AAAAAAAA`)
  assert.deepEqual(await counts(), [2, 1, 1, 1])
  await proxied(app, token)
  assert.deepEqual(await counts(), [3, 2, 1, 1])
  world.sts.respond = () => ({ status: 403, body: { error: 'access_denied' } })
  await proxied(app, world.mint())
  assert.deepEqual(await counts(), [4, 3, 2, 1])
  world.sts.respond = undefined
  world.upstream.handler = (_request, response) => void response.destroy()
  assert.equal((await proxied(app, world.mint())).statusCode, 502)
  assert.deepEqual(await counts(), [5, 4, 3, 2])
})

test('the gateway counts for itself alone, beside another one in the process', async t => {
  const [one, other] = [await createTestGateway(t, world), await createTestGateway(t, world)]
  await proxied(one, 'nobody')
  await until(async () => (await figureOf(one, 'requests_denied')) === 1)
  assert.equal(await figureOf(one, 'requests'), 1)
  assert.equal(await figureOf(other, 'requests'), 0)
  assert.equal(await figureOf(other, 'requests_denied'), 0)
  const counted = /^caracal_gateway_request_duration_seconds_count (\d+)$/m
  await until(async () => counted.exec(await textOf(one))?.[1] === '1')
  assert.equal(counted.exec(await textOf(other))?.[1], '0')
})
