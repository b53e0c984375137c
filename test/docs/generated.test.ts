// Guarantees that the generated documentation is that of the schema.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, it } from 'node:test'
import { parseEnv } from 'node:util'
import { loadConfig, schema, SECTIONS, SECRETS } from '../../config.ts'
import { renderConfigurationDoc, renderDenialsDoc, renderEnvExample } from '../../scripts/docs.ts'

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8')
const HINT = 'run `npm run docs`'

describe('the documentation', () => {
  it('has the .env.example that the schema gives', () => {
    assert.equal(read('.env.example'), renderEnvExample(), HINT)
  })

  it('has the docs/configuration.md that the schema gives', () => {
    assert.equal(read('docs/configuration.md'), renderConfigurationDoc(), HINT)
  })

  it('has the docs/denials.md that the checks give', () => {
    assert.equal(read('docs/denials.md'), renderDenialsDoc(), HINT)
  })

  it('has every variable of the schema in one section', () => {
    const listed = SECTIONS.flatMap(({ variables }) => Object.keys(variables))
    assert.deepEqual(listed, Object.keys(schema.properties))
    const doc = renderConfigurationDoc()
    for (const name of listed) {
      assert.equal(doc.split(`\n| \`${name}\` |`).length, 2, name)
    }
    for (const name of SECRETS) assert.ok(doc.includes(`\`${name}\``), name)
  })

  it('has an .env.example that starts a dev gateway once STS_URL is filled in', () => {
    const example = parseEnv(renderEnvExample())
    assert.deepEqual(example, { STS_URL: '' })
    const uncommented = parseEnv(renderEnvExample().replaceAll(/^# ([A-Z_]+=)/gm, '$1'))
    assert.equal(Object.keys(uncommented).length > 30, true)
    const config = loadConfig({
      ...uncommented,
      CARACAL_MODE: 'dev',
      STS_URL: 'http://127.0.0.1:8080',
    })
    assert.deepEqual(config, loadConfig({ CARACAL_MODE: 'dev', STS_URL: 'http://127.0.0.1:8080' }))
  })

  it('describes each variable in whole sentences', () => {
    for (const { variables } of SECTIONS) {
      for (const [name, { description }] of Object.entries(variables)) {
        assert.match(description, /^(?:[A-Z]|`).*\.$/, name)
      }
    }
  })
})
