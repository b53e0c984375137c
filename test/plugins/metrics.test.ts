// Holds the metrics to contract section 11: names that alert rules know, one registry a gateway, no label of a caller's.

import assert from 'node:assert/strict'
import { describe, it, type TestContext } from 'node:test'
import Fastify from 'fastify'
import { DENIALS, isCheck } from '../../denial.ts'
import metrics, { type Meters } from '../../plugins/metrics.ts'
import { COUNTERS } from '../counters.ts'

async function meters(t: TestContext): Promise<Meters> {
  const app = Fastify()
  t.after(() => app.close())
  await app.register(metrics)
  await app.ready()
  return app.meters
}

/** The samples of one series, in Prometheus text. */
async function samples(of: Meters, name: string): Promise<string[]> {
  const text = await of.registry.metrics()
  return text.split('\n').filter(line => line.startsWith(name))
}

describe('metrics', () => {
  it('shows every counter from the start, at zero, in both forms', async t => {
    const of = await meters(t)
    const text = await of.registry.metrics()
    const flat = await of.flat()
    for (const name of COUNTERS) {
      assert.match(text, new RegExp(`^caracal_gateway_${name}_total 0$`, 'm'))
      assert.equal(flat[name], 0, name)
    }
  })

  it('counts by one, or by as many as it is told', async t => {
    const of = await meters(t)
    for (const name of COUNTERS) of.count(name)
    of.count('audit_dropped', 4)
    const flat = await of.flat()
    for (const name of COUNTERS) assert.equal(flat[name], name === 'audit_dropped' ? 5 : 1, name)
  })

  it('counts each denial by its check, and at the counter that alert rules know', async t => {
    for (const check of Object.keys(DENIALS).filter(isCheck)) {
      const of = await meters(t)
      const before = await of.flat()
      of.denied(check)
      const row = DENIALS[check]
      const counter = 'counter' in row ? row.counter : undefined
      const changed = Object.entries(await of.flat())
        .filter(([name, value]) => value !== before[name])
        .map(([name, value]) => [name, value])
      assert.deepEqual(changed, counter === undefined ? [] : [[counter, 1]], check)
      const counted = await samples(of, 'caracal_gateway_denials_total{')
      assert.deepEqual(
        counted.filter(line => !line.endsWith(' 0')),
        [`caracal_gateway_denials_total{check="${check}"} 1`],
      )
    }
  })

  it('shows every check’s denials from the start', async t => {
    const counted = await samples(await meters(t), 'caracal_gateway_denials_total{')
    assert.equal(counted.length, Object.keys(DENIALS).length)
  })

  it('counts a team’s own check by its name alone', async t => {
    const of = await meters(t)
    of.denied('team_quota')
    const counted = await samples(of, 'caracal_gateway_denials_total{check="team_quota"}')
    assert.deepEqual(counted, ['caracal_gateway_denials_total{check="team_quota"} 1'])
  })

  it('counts what an observed resource would refuse, and fetches of keys', async t => {
    const of = await meters(t)
    of.wouldDeny('missing_scope')
    of.keysFetched('rotation')
    assert.deepEqual(await samples(of, 'caracal_gateway_would_deny_total{'), [
      'caracal_gateway_would_deny_total{check="missing_scope"} 1',
    ])
    assert.deepEqual(await samples(of, 'caracal_gateway_jwks_refetch_total{'), [
      'caracal_gateway_jwks_refetch_total{reason="rotation"} 1',
    ])
  })

  it('measures stages and requests in seconds', async t => {
    const of = await meters(t)
    of.stage('verify', 0.0002)
    of.stage('upstream', 2)
    of.request(0.02)
    const text = await of.registry.metrics()
    for (const line of [
      'caracal_gateway_stage_duration_seconds_bucket{le="0.00025",stage="verify"} 1',
      'caracal_gateway_stage_duration_seconds_count{stage="upstream"} 1',
      'caracal_gateway_request_duration_seconds_bucket{le="0.01"} 0',
      'caracal_gateway_request_duration_seconds_bucket{le="0.025"} 1',
      'caracal_gateway_request_duration_seconds_sum 0.02',
    ]) {
      assert.ok(text.includes(`${line}\n`), line)
    }
  })

  it('reads a gauge when somebody asks', async t => {
    const of = await meters(t)
    let depth = 3
    of.gauge('audit_queue_depth', 'Depth', () => depth, 'sum')
    of.gauge('audit_queue_capacity', 'Capacity', () => 10, 'sum')
    assert.deepEqual(await samples(of, 'caracal_gateway_audit_queue_depth'), [
      'caracal_gateway_audit_queue_depth 3',
    ])
    depth = 4
    const flat = await of.flat()
    assert.equal(flat['audit_queue_depth'], 4)
    assert.equal(flat['audit_queue_cap'], 10)
    assert.equal(flat['audit_queue_capacity'], undefined)
  })

  it('leaves a name whole that every service of Caracal has', async t => {
    const of = await meters(t)
    of.gauge('caracal_db_pool_max_conns', 'Connections', () => 7, 'sum')
    assert.deepEqual(await samples(of, 'caracal_db_'), ['caracal_db_pool_max_conns 7'])
    assert.equal((await of.flat())['caracal_db_pool_max_conns'], 7)
  })

  it('shows in the flat form numbers without labels, and nothing else', async t => {
    const of = await meters(t)
    of.denied('revoked')
    of.stage('verify', 1)
    for (const [name, value] of Object.entries(await of.flat())) {
      assert.match(name, /^[a-z0-9_]+$/)
      assert.doesNotMatch(name, /^caracal_gateway_|_total$|_seconds_bucket$/)
      assert.equal(typeof value, 'number', name)
    }
  })

  it('keeps the figures of two gateways in one process apart', async t => {
    const [one, other] = [await meters(t), await meters(t)]
    one.count('requests')
    one.denied('revoked')
    assert.equal((await one.flat())['requests'], 1)
    assert.equal((await other.flat())['requests'], 0)
    assert.equal((await other.flat())['denials_revoked'], 0)
  })
})
