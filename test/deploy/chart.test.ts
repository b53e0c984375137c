// The Helm chart takes what the gateway takes and nothing else, and says what the rest of the tree says. What needs Helm
// is in rendered.check.ts.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { describe, it } from 'node:test'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { parse } from 'yaml'
import { schema, SECRETS } from '../../config.ts'
import { addressClass } from '../../lib/address.ts'
import { chartFiles, valueRows } from '../../scripts/chart.ts'

const CHART = new URL('../../deploy/helm/caracal-gateway/', import.meta.url)
const read = (file: string) => readFileSync(new URL(file, CHART), 'utf8')

/** A map of YAML laid over another, as Helm does it. */
function laidOver(base: unknown, top: unknown): unknown {
  if (!isMap(base) || !isMap(top)) return top
  const names = new Set([...Object.keys(base), ...Object.keys(top)])
  return Object.fromEntries(
    [...names].map(name => [name, name in top ? laidOver(base[name], top[name]) : base[name]]),
  )
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

const defaults: unknown = parse(read('values.yaml'))
const validate = new Ajv2020({ allErrors: true, strictRequired: false }).compile(
  JSON.parse(read('values.schema.json')),
)
const complaints = (values: unknown) => {
  validate(laidOver(defaults, values))
  return (validate.errors ?? []).map(({ instancePath, keyword }) => `${instancePath} ${keyword}`)
}

describe('the Helm chart', () => {
  for (const { file, text } of chartFiles()) {
    const name = file.pathname.slice(CHART.pathname.length)
    it(`has the ${name} that its sources give`, () => {
      assert.equal(read(name), text, 'run `npm run docs`')
    })
  }

  it('has the version of the gateway', () => {
    const { version } = JSON.parse(
      readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
    )
    assert.equal(parse(read('Chart.yaml')).appVersion, version)
  })

  it('describes every value in whole sentences or the words for one', () => {
    const rows = valueRows(read('values.yaml'))
    assert.ok(rows.length > 60)
    for (const { path, description } of rows) assert.match(description, /^[A-Z`].*\.$/, path)
  })

  it('names as secrets only what the gateway reads from files, and all that it cannot start without', () => {
    assert.ok(isMap(defaults) && isMap(defaults['secrets']))
    const names = Object.keys(defaults['secrets'])
    for (const name of names) assert.ok(SECRETS.includes(name), name)
    const { properties } = schema
    for (const [name, variable] of Object.entries(properties)) {
      if ('requiredIn' in variable && SECRETS.includes(name)) assert.ok(names.includes(name), name)
    }
  })

  for (const file of readdirSync(new URL('ci', CHART))) {
    it(`takes ci/${file}`, () => {
      assert.deepEqual(complaints(parse(read(`ci/${file}`))), [])
    })
  }

  for (const [what, values, expected] of [
    ['a misspelt variable', { config: { STS_ULR: 'x' } }, '/config additionalProperties'],
    ['a secret in the open', { config: { REDIS_URL: 'x' } }, '/config additionalProperties'],
    ['what it sets itself', { config: { PORT: '80' } }, '/config additionalProperties'],
    // Helm would hand on 1.048576e+07.
    [
      'a number as variable',
      { config: { MAX_REQUEST_BYTES: 10485760 } },
      '/config/MAX_REQUEST_BYTES type',
    ],
    ['a misspelt value', { autoscalling: {} }, ' additionalProperties'],
    ['a storage that it does not know', { audit: { storage: 'disk' } }, '/audit/storage enum'],
  ] as const) {
    it(`refuses ${what}`, () => {
      assert.deepEqual(complaints(values), [expected])
    })
  }

  it('lets no pod reach an address that the gateway would not dial either', () => {
    const policy = read('templates/networkpolicy.yaml')
    const excepted = [...policy.matchAll(/^ {6}- ([0-9a-f:.]+)\/\d+$/gm)].map(
      ([, address]) => address ?? '',
    )
    assert.equal(excepted.length, 11)
    for (const address of excepted) assert.equal(addressClass(address), 'forbidden', address)
  })
})
