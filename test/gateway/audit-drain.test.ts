// Holds the gateway to send what lies on disk although it is killed in the middle of it, and another takes over (contract
// section 8).
import assert from 'node:assert/strict'
import { readdir, rename, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { writeEvent } from '../../lib/audit-event.ts'
import { uuidv7 } from '../../lib/uuid.ts'
import { lastFirst } from '../cleanup.ts'
import { assertEvidence } from '../evidence.ts'
import { until } from '../until.ts'
import { KEYS, startGateway, startStack } from './harness.ts'
import { assertNothingLeft, assertTidy } from './load.ts'
import { kill, temporaryDirectory } from './support.ts'

const COUNT = 10_000
const LONG = 30_000

/** An event of another service: it need not tell what the gateway's do. */
function line(n: number): string {
  const event = {
    zone_id: 'zone-1',
    event_type: 'policy_decision',
    request_id: `r-${n}`,
    decision: 'allow',
    evaluation_status: 'executed',
    metadata_json: {},
  } as const
  return writeEvent(uuidv7(), event, Date.now()).data
}

test(
  'the gateway sends a long file whole, although of two the one that sends it is killed',
  lastFirst(async t => {
    const directory = await temporaryDirectory(t)
    const stack = await startStack(t)
    const { redis } = stack
    const env = { ...stack.env, AUDIT_REPLAY_DIR: directory }
    const gateways = await Promise.all([startGateway(t, env), startGateway(t, env)])
    const lines = Array.from({ length: COUNT }, (_, n) => line(n))
    const file = join(directory, 'pending-1-1')
    await writeFile(file, `${lines.join('\n')}\n`)
    await utimes(file, new Date(), new Date(Date.now() - 60_000))
    await rename(file, `${file}.ndjson`)
    const length = async () => Number(await redis.command('XLEN', 'caracal.audit.events'))
    await until(async () => (await length()) > 0, LONG)
    redis.pause()
    const names = await readdir(directory, { recursive: true })
    const taken = names.find(name => name.endsWith('.ndjson')) ?? ''
    const sender = gateways.find(({ servers }) =>
      servers().some(pid => taken.startsWith(`gateway-${pid}-`)),
    )
    assert.ok(sender, `${taken}: nobody is sending it`)
    await kill(sender)
    redis.resume()
    assert.ok((await length()) < COUNT)
    await until(async () => (await length()) >= COUNT, LONG)
    await assertTidy(directory, 1)
    const entries = await redis.entries('caracal.audit.events')
    const events = assertEvidence(entries, KEYS.audit)
    t.diagnostic(`${entries.length} entries, ${events.size} events`)
    assert.equal(events.size, COUNT)
    const written = new Set(lines)
    for (const { fields } of entries) assert.ok(written.has(fields['data'] ?? ''))
    await assertNothingLeft(
      directory,
      gateways.filter(gateway => gateway !== sender),
    )
  }),
)
