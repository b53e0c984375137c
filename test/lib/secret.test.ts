// Guarantees that a secret is printed by no usual way.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { format, inspect } from 'node:util'
import { pino } from 'pino'
import { Secret } from '../../lib/secret.ts'

const CANARY = 'canary-4f1c9d'
const secret = new Secret(CANARY)
// As code sees it that knows no types.
const untyped: any = secret

describe('the secret', () => {
  it('reveals its text when asked', () => {
    assert.equal(secret.reveal(), CANARY)
  })

  const ways: Record<string, () => string> = {
    'String()': () => String(secret),
    'a template literal': () => `${untyped}`,
    concatenation: () => '' + untyped,
    'JSON.stringify': () => JSON.stringify(secret),
    'util.inspect': () => inspect(secret),
    'util.inspect with hidden members': () => inspect(secret, { showHidden: true }),
    'util.inspect of an object around it': () => inspect({ deep: [secret] }),
    'util.format': () => format('%s %o %j', secret, secret, secret),
    'an error message': () => new Error(`refused ${untyped}`).stack ?? '',
  }
  for (const [way, print] of Object.entries(ways)) {
    it(`prints [redacted] by ${way}`, () => {
      const printed = print()
      assert.ok(printed.includes('[redacted]'), printed)
      assert.ok(!printed.includes(CANARY), printed)
    })
  }

  it('prints [redacted] in a log line', () => {
    const lines: string[] = []
    const log = pino({}, { write: line => void lines.push(line) })
    log.info({ secret, config: { redisUrl: secret } }, 'started')
    assert.equal(lines.length, 1)
    assert.ok(lines[0]?.includes('[redacted]'))
    assert.ok(!lines[0]?.includes(CANARY))
  })

  it('shows its text in no enumeration or clone', () => {
    assert.deepEqual(Object.getOwnPropertyNames(secret), [])
    assert.deepEqual(Object.getOwnPropertySymbols(secret), [])
    assert.deepEqual(Object.assign({}, secret), {})
    assert.ok(!inspect(structuredClone(secret)).includes(CANARY))
  })
})
