// Alert rules and dashboard ask for what the gateway measures, in PromQL that parses, and each alert can be looked up.
// What needs promtool is in rendered.check.ts.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { before, describe, it } from 'node:test'
import { parse } from 'yaml'
import { isCheck } from '../../denial.ts'
import { createTestGateway, startWorld } from '../in-process.ts'
import { suiteCleanup } from '../gateway/support.ts'
import { dashboardQueries } from './dashboard.ts'
import { familyOf, metricsOf } from './promql.ts'

const read = (file: string) => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')

interface Rule {
  readonly alert: string
  readonly expr: string
  readonly labels: Readonly<Record<string, string>>
  readonly annotations: Readonly<Record<string, string>>
}

const groups: readonly { name: string; rules: readonly Rule[] }[] = parse(
  read('deploy/prometheus/rules.yml'),
).groups
const rules = groups.flatMap(group => group.rules)
const dashboard = JSON.parse(read('deploy/grafana/caracal-gateway.json'))

/** Gauges of a gateway that has a database (`plugins/gauges.ts`), or a certificate (`plugins/certificate.ts`). */
const WITH_MORE = [
  'caracal_db_pool_max_conns',
  'caracal_db_pool_acquired_conns',
  'caracal_db_pool_in_use_ratio',
  'caracal_gateway_tls_certificate_expiry_timestamp_seconds',
  'caracal_gateway_tls_certificate_stale',
]

/** Names that the gateway's registry knows, without what histograms append. */
const known = new Set(WITH_MORE)

before(async () => {
  const t = suiteCleanup()
  const app = await createTestGateway(t, await startWorld(t))
  for (const { name } of await app.meters.registry.getMetricsAsJSON()) known.add(name)
})

function assertKnown(expression: string): void {
  const names = metricsOf(expression)
  assert.ok(names.size > 0, expression)
  for (const name of names) {
    assert.ok(known.has(name) || known.has(familyOf(name)), `no metric ${name}: ${expression}`)
  }
  for (const [, check = ''] of expression.matchAll(/check="([^"]*)"/g)) {
    assert.ok(isCheck(check), `no check ${check}: ${expression}`)
  }
}

describe('the alert rules', () => {
  for (const { alert, expr, labels, annotations } of rules) {
    it(`has a ${alert} that can fire, wakes up whom it should, and is explained`, () => {
      assertKnown(expr)
      assert.match(alert, /^Gateway[A-Z]/)
      assert.match(labels['severity'] ?? '', /^(?:critical|warning)$/)
      assert.ok(annotations['summary'] && annotations['description'])
      const section = `docs/operations.md#${alert.toLowerCase()}`
      assert.equal(annotations['runbook_url'], section)
    })
  }

  it('page for evidence that is lost and for revocations that are late', () => {
    for (const [metric, above] of [
      ['caracal_gateway_audit_dropped_total', '> 0'],
      ['caracal_gateway_revocation_propagation_seconds', '> 30'],
    ]) {
      const rule = rules.find(({ expr }) => expr === `${metric} ${above}`)
      assert.equal(rule?.labels['severity'], 'critical', metric)
    }
  })

  it('have a section of docs/operations.md each, which says all that it should', () => {
    const [, alerts = ''] = read('docs/operations.md').split(/^## Alerts$/m)
    const [own = ''] = alerts.split(/^## /m)
    const sections = own.split(/^### /m).slice(1)
    const titles = sections.map(section => section.slice(0, section.indexOf('\n')))
    assert.deepEqual(
      titles,
      rules.map(({ alert }) => alert),
    )
    for (const section of sections) {
      for (const part of ['Meaning', 'Impact', 'Look at', 'Do']) {
        assert.ok(section.includes(`\n- **${part}**: `), `${part} of ${section}`)
      }
    }
  })

  it('have a unit test each', () => {
    const tested: readonly { name: string }[] = parse(read('deploy/prometheus/tests.yml')).tests
    const names = tested.map(({ name }) => name)
    for (const { alert } of rules) assert.ok(names.includes(alert), alert)
  })
})

describe('the dashboard', () => {
  const queries = dashboardQueries(dashboard)

  it('asks only for what the gateway measures', () => {
    assert.ok(queries.length > 40)
    for (const query of queries) assertKnown(query)
  })

  it('shows what the alerts watch', () => {
    const shown = new Set(queries.flatMap(query => [...metricsOf(query)]).map(familyOf))
    for (const { alert, expr } of rules) {
      for (const name of metricsOf(expr)) {
        // It shows denials by check, and requests by what became of them.
        if (/^caracal_gateway_(?:denials_|requests_total$)/.test(name)) continue
        assert.ok(shown.has(familyOf(name)), `${alert}: ${name}`)
      }
    }
  })

  it('shows each panel in a place and under a number of its own, with a description', () => {
    const places = new Map<string, string>()
    const numbers = new Set<number>()
    for (const { id, type, title, description, gridPos } of dashboard.panels) {
      assert.ok(!numbers.has(id), title)
      numbers.add(id)
      if (type !== 'row') assert.match(description, /\.$/, title)
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          assert.equal(places.get(`${x} ${y}`), undefined, title)
          assert.ok(x < 24, title)
          places.set(`${x} ${y}`, title)
        }
      }
    }
  })

  it('leaves the data source to whoever imports it', () => {
    const text = JSON.stringify(dashboard)
    const uids = [...text.matchAll(/"type":"prometheus","uid":"([^"]*)"/g)].map(([, uid]) => uid)
    assert.deepEqual([...new Set(uids)], ['${datasource}'])
  })
})
