// verify-evidence finds what does not hold of the evidence, and nothing where all holds.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createHmac, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { Verdict } from '../../cli/verify-evidence.ts'
import { type AuditEvent, writeEvent } from '../../lib/audit-event.ts'
import { doneLine, intentLine, outcomeLine } from '../../lib/journal.ts'
import { uuidv7 } from '../../lib/uuid.ts'
import { lastFirst, type Scope } from '../cleanup.ts'
import { KEYS, type Stack, startGateway, startStack } from '../gateway/harness.ts'
import { temporaryDirectory } from '../gateway/support.ts'
import { startRedis, type TestRedis } from '../redis.ts'
import { until } from '../until.ts'

const CLI = fileURLToPath(new URL('../../cli/index.ts', import.meta.url))
const STREAM = 'caracal.audit.events'

interface Run {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

function run(args: readonly string[], env: NodeJS.ProcessEnv): Promise<Run> {
  const { PATH, HOME } = process.env
  return new Promise(resolve => {
    const child = execFile(
      process.execPath,
      [CLI, 'verify-evidence', ...args],
      { env: { PATH, HOME, ...env } },
      (_error, stdout, stderr) => resolve({ status: child.exitCode ?? -1, stdout, stderr }),
    )
  })
}

/** The verdict, whose status must be that of the process. */
async function verify(env: NodeJS.ProcessEnv, ...args: string[]): Promise<Verdict> {
  const { status, stdout, stderr } = await run(['--json', ...args], env)
  assert.equal(stderr, '')
  const verdict: Verdict = JSON.parse(stdout)
  assert.equal(status, verdict.holds ? 0 : 1)
  return verdict
}

const environment = (redis: TestRedis, directory: string) => ({
  REDIS_URL: redis.url,
  AUDIT_HMAC_KEY: KEYS.audit,
  AUDIT_REPLAY_DIR: directory,
})

const environmentOf = ({ redis, gateway }: Stack) => environment(redis, gateway.replayDirectory)

function event(changes: Partial<AuditEvent> = {}) {
  const written = {
    zone_id: 'zone-1',
    event_type: 'gateway_resource_request',
    request_id: randomUUID(),
    decision: 'allow' as const,
    evaluation_status: 'executed',
    metadata_json: { subject_fingerprint: '0123456789abcdef' },
    ...changes,
  }
  return writeEvent(uuidv7(), written, Date.now())
}

const signed = ({ id, data }: { id: string; data: string }, key: string = KEYS.audit) => ({
  id,
  data,
  sig: createHmac('sha256', Buffer.from(key, 'hex')).update(data).digest('hex'),
})

/** A stream with one event that holds, a directory, and the command's environment. */
async function startLedger(t: Scope) {
  const [redis, directory] = await Promise.all([startRedis(t), temporaryDirectory(t)])
  const sound = event()
  await redis.add(STREAM, signed(sound))
  return { redis, directory, sound, env: environment(redis, directory) }
}

/** The journal of a gateway that has ended. */
async function leaveJournal(directory: string, ...lines: string[]): Promise<string> {
  const home = join(directory, `gateway-1-${'0'.repeat(16)}`)
  await mkdir(home)
  await writeFile(join(home, 'released'), '')
  await writeFile(join(home, '1.journal'), lines.join(''))
  return home
}

/** What lies in the directory and in Redis, to see whether it stays. */
async function everything(redis: TestRedis, directory: string): Promise<unknown> {
  const names = await readdir(directory, { recursive: true, withFileTypes: true })
  const files = names
    .filter(entry => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name))
  return {
    files: await Promise.all(
      files.toSorted().map(async file => [file, await readFile(file, 'utf8')]),
    ),
    entries: await redis.entries(STREAM),
    keys: await redis.command('DBSIZE'),
  }
}

describe('the evidence of a gateway holds', () => {
  test(
    'after requests of all kinds, while it runs and when it has stopped',
    lastFirst(async t => {
      const stack = await startStack(t)
      const token = stack.mint()
      await stack.call('/v1/invoices', { token })
      await stack.call('/v1/invoices', { token })
      await stack.call('/v1/invoices', { token: stack.mint({ target: ['resource://other'] }) })
      stack.upstream.handler = (_request, response) => void response.destroy()
      await stack.call()
      await until(async () => (await stack.events()).length === 4, 30_000)
      const env = environmentOf(stack)
      const verdict = await verify(env)
      assert.deepEqual(verdict.findings, [])
      const { alive, ...counts } = verdict.counts
      assert.equal(alive, 1)
      const none = { resends: 0, unsigned: 0, waiting: 0, open: 0, ended: 0, files: 0 }
      assert.deepEqual(counts, { entries: 4, events: 4, ...none })
      assert.equal(await stack.gateway.stop(), 0)
      assert.equal((await verify(env)).counts.alive, 0)
    }),
  )

  test(
    'while requests are under way, which are reported as open',
    lastFirst(async t => {
      const stack = await startStack(t)
      stack.upstream.handler = (_request, response) => void response.write('first')
      const requestId = randomUUID()
      const stream = stack.call('/v1/events', { headers: { 'x-request-id': requestId } })
      await until(() => stack.upstream.arrivals.length === 1)
      const env = environmentOf(stack)
      const verdict = await verify(env)
      assert.equal(verdict.holds, true)
      assert.equal(verdict.counts.open, 1)
      assert.deepEqual(
        verdict.open.map(intent => intent.requestId),
        [requestId],
      )
      const { stdout, status } = await run([], env)
      assert.equal(status, 0)
      assert.match(stdout, new RegExp(`^open .*request ${requestId} is under way\n`))
      assert.match(stdout, /\nthe evidence holds: entries 0, .*\bopen 1\b.*\n$/)
      stack.upstream.server.closeAllConnections()
      await assert.rejects(stream)
    }),
  )

  test(
    'under load, also while Redis takes no events and takes them again',
    lastFirst(async t => {
      const stack = await startStack(t)
      const env = environmentOf(stack)
      const load = new AbortController()
      const callers = Array.from({ length: 10 }, async () => {
        while (!load.signal.aborted) await stack.call()
      })
      const refuse = (bytes: number) => stack.redis.command('CONFIG', 'SET', 'maxmemory', bytes)
      await until(() => stack.upstream.arrivals.length > 50, 30_000)
      assert.deepEqual((await verify(env)).findings, [])
      await refuse(1)
      await until(async () => (await stack.metric('audit_persisted')) > 0, 30_000)
      assert.deepEqual((await verify(env)).findings, [])
      await refuse(0)
      assert.deepEqual((await verify(env)).findings, [])
      load.abort()
      await Promise.all(callers)
      await until(async () => (await verify(env)).counts.waiting === 0, 30_000)
      const { findings, counts } = await verify(env)
      assert.deepEqual(findings, [])
      assert.ok(counts.events >= stack.upstream.arrivals.length)
    }),
  )

  test(
    'once what a killed gateway left open was recovered, and not before',
    lastFirst(async t => {
      const directory = await temporaryDirectory(t)
      const stack = await startStack(t, { env: { AUDIT_REPLAY_DIR: directory } })
      await stack.call()
      await until(async () => (await stack.events()).length === 1)
      stack.upstream.handler = () => undefined
      const requestId = randomUUID()
      const lost = stack.call('/v1/invoices', { headers: { 'x-request-id': requestId } })
      await until(() => stack.upstream.arrivals.length === 2)
      stack.gateway.signal('SIGKILL')
      await Promise.all([assert.rejects(lost), once(stack.gateway.child, 'exit')])
      const env = environmentOf(stack)
      const before = await everything(stack.redis, directory)
      const verdict = await verify(env)
      assert.deepEqual(verdict.failures, { pending_recovery: 1 })
      assert.deepEqual([verdict.counts.ended, verdict.counts.alive, verdict.counts.open], [1, 0, 0])
      assert.deepEqual(await everything(stack.redis, directory), before)
      const { stdout } = await run([], env)
      assert.match(stdout, /^pending_recovery {2}gateway-\d+-[0-9a-f]{16} {2}[0-9a-f-]{36} {2}/)
      assert.match(stdout, /\n1 findings: /)

      const gateway = await startGateway(t, stack.env)
      const [event] = await stack.eventsOf(requestId)
      assert.equal(event?.id, verdict.findings[0]?.id)
      await until(async () => (await readdir(directory)).length === 1, 30_000)
      assert.deepEqual((await verify(env)).failures, {})
      assert.equal(await gateway.stop(), 0)
      assert.deepEqual((await verify(env)).failures, {})
    }),
  )

  test(
    'when events wait on disk, which are counted',
    lastFirst(async t => {
      const { env, directory } = await startLedger(t)
      const [first, second, sent] = [event(), event(), event()]
      await writeFile(join(directory, 'pending-1-1.ndjson'), `${first.data}\n${second.data}\n`)
      await leaveJournal(directory, intentLine(sent), outcomeLine(sent), outcomeLine(second))
      const verdict = await verify(env)
      assert.deepEqual(verdict.failures, {})
      assert.equal(verdict.counts.waiting, 3)
      assert.equal(verdict.counts.files, 1)
    }),
  )

  test(
    'when an event was sent again, to the byte, and its journal is still there',
    lastFirst(async t => {
      const { env, directory, redis, sound } = await startLedger(t)
      await redis.add(STREAM, signed(sound))
      const interrupted = event({ evaluation_status: 'interrupted' })
      await redis.add(STREAM, signed(interrupted))
      const refused = event()
      await leaveJournal(
        directory,
        intentLine(interrupted) + intentLine(refused),
        intentLine(sound) + outcomeLine(sound),
        doneLine([sound.id, refused.id]),
      )
      const verdict = await verify(env)
      assert.deepEqual(verdict.failures, {})
      const { entries, events, resends, waiting } = verdict.counts
      assert.deepEqual([entries, events, resends, waiting], [3, 2, 1, 0])
    }),
  )

  test(
    'in dev without a key, events being unsigned',
    lastFirst(async t => {
      const redis = await startRedis(t)
      const { id, data } = event()
      await redis.add(STREAM, { id, data })
      const env = { CARACAL_MODE: 'dev', REDIS_URL: redis.url }
      const verdict = await verify(env)
      assert.deepEqual([verdict.holds, verdict.counts.unsigned, verdict.directory], [true, 1, null])
      await redis.add(STREAM, signed(event()))
      assert.deepEqual((await verify(env)).failures, { signature: 1 })
    }),
  )
})

describe('the evidence of a gateway does not hold', () => {
  const mandate = { subject_fingerprint: 'fedcba9876543210' }
  const tampered: Record<string, [failure: string, entries: Record<string, string>[]]> = {
    'when the data was changed': [
      'signature',
      [{ ...signed(event()), data: event().data }].map(entry => ({
        ...entry,
        id: JSON.parse(entry.data).id,
      })),
    ],
    'when the signature was changed': ['signature', [{ ...signed(event()), sig: '0'.repeat(64) }]],
    'when the signature is of another key': ['signature', [signed(event(), 'd4'.repeat(32))]],
    'when the signature was removed': [
      'signature',
      [event()].map(({ id, data }) => ({ id, data })),
    ],
    'when the entry has another id than the event': [
      'malformed',
      [{ ...signed(event()), id: uuidv7() }],
    ],
    'when an event is no JSON': ['malformed', [signed({ id: 'x', data: '{"id":"x"' })]],
    'when an event has no decision': [
      'malformed',
      [
        signed({
          id: 'x',
          data: event()
            .data.replace(/"id":"[^"]+"/, '"id":"x"')
            .replace('"allow"', '0'),
        }),
      ],
    ],
    'when an event has a member that the ledger drops': [
      'malformed',
      [signed({ id: 'x', data: event().data.replace(/"id":"[^"]+"/, '"id":"x","jti":"y"') })],
    ],
    'when an entry has another field': ['malformed', [{ ...signed(event()), more: '1' }]],
    'when a request has two events': [
      'request_twice',
      ['executed', 'interrupted'].map(evaluation_status =>
        signed(event({ request_id: 'r', metadata_json: mandate, evaluation_status })),
      ),
    ],
  }
  for (const [name, [failure, entries]] of Object.entries(tampered)) {
    test(
      name,
      lastFirst(async t => {
        const { redis, env } = await startLedger(t)
        const added: string[] = []
        for (const fields of entries) added.push(await redis.add(STREAM, fields))
        const verdict = await verify(env)
        assert.deepEqual(verdict.failures, { [failure]: 1 })
        assert.equal(verdict.findings[0]?.where, added.at(-1))
        const { status, stdout } = await run([], env)
        assert.equal(status, 1)
        assert.match(stdout, new RegExp(`^${failure} {2}${added.at(-1)} {2}[^\n]+\n1 findings: `))
      }),
    )
  }

  test(
    'when an id comes with two contents, in the stream or on disk',
    lastFirst(async t => {
      const { redis, env, directory, sound } = await startLedger(t)
      const changed = { id: sound.id, data: sound.data.replace('executed', 'build_failed') }
      await redis.add(STREAM, signed(changed))
      assert.deepEqual((await verify(env)).failures, { id_reused: 1 })
      await writeFile(join(directory, 'pending-1-1.ndjson'), `${sound.data}\n${sound.data}\n`)
      assert.deepEqual((await verify(env)).failures, { id_reused: 1 })
      await leaveJournal(directory, outcomeLine({ ...sound, data: `${sound.data} ` }))
      // All else is compared with what was read first.
      assert.deepEqual(Object.keys((await verify(env)).failures), ['id_reused'])
    }),
  )

  test(
    'when callers give two requests one id it does',
    lastFirst(async t => {
      const { redis, env } = await startLedger(t)
      for (const subject_fingerprint of ['1', '2']) {
        await redis.add(
          STREAM,
          signed(event({ request_id: 'r', metadata_json: { subject_fingerprint } })),
        )
      }
      assert.deepEqual((await verify(env)).failures, {})
    }),
  )

  test(
    'when what was delivered is not there any more',
    lastFirst(async t => {
      const { redis, env, directory, sound } = await startLedger(t)
      await redis.add(STREAM, signed(event()), '1-1').catch(() => undefined)
      await leaveJournal(directory, intentLine(sound), outcomeLine(sound), doneLine([sound.id]))
      assert.deepEqual((await verify(env)).failures, {})
      await redis.command('DEL', STREAM)
      const verdict = await verify(env)
      assert.deepEqual(verdict.failures, { missing: 1 })
      assert.equal(verdict.findings[0]?.id, sound.id)
      // A range that ends before says nothing of it.
      const past = new Date(Date.now() - 1_000).toISOString()
      assert.deepEqual((await verify(env, '--until', past)).failures, {})
      // Nor does a stream that has lost its begin since.
      await redis.add(STREAM, signed(event()))
      await redis.add(STREAM, signed(event()))
      await redis.command('XTRIM', STREAM, 'MAXLEN', 1)
      assert.deepEqual((await verify(env)).failures, {})
    }),
  )

  test(
    'when something on disk is torn, or was set aside',
    lastFirst(async t => {
      const { env, directory, sound } = await startLedger(t)
      await leaveJournal(directory, outcomeLine(event()), outcomeLine(event()).slice(0, 100))
      await writeFile(join(directory, 'pending-1-1.ndjson'), `${sound.data}\n{"id"\n`)
      await writeFile(join(directory, 'pending-1-0.ndjson.corrupt'), 'x\n')
      const verdict = await verify(env)
      assert.deepEqual(verdict.failures, { malformed: 2, set_aside: 1 })
      assert.deepEqual(verdict.findings.map(({ where }) => where).toSorted(), [
        'gateway-1-0000000000000000/1.journal',
        'pending-1-0.ndjson.corrupt',
        'pending-1-1.ndjson',
      ])
    }),
  )

  test(
    'when there is nothing to read it from',
    lastFirst(async t => {
      const { redis, env, directory } = await startLedger(t)
      assert.deepEqual((await verify(env, '--dir', join(directory, 'no'))).failures, {
        unreadable: 1,
      })
      await redis.stop()
      const away = await verify({ ...env, REDIS_DIAL_TIMEOUT: '100ms' })
      assert.deepEqual(away.failures, { unreadable: 1 })
      assert.match(away.findings[0]?.detail ?? '', /REDIS_URL/)
    }),
  )

  test(
    'and however much is wrong, all is counted and the first are told, as plain text',
    lastFirst(async t => {
      const { redis, env } = await startLedger(t)
      const entry = { ...signed(event()), id: 'evil\u001b[2J\n' }
      await Promise.all(Array.from({ length: 250 }, () => redis.add(STREAM, entry)))
      const { stdout } = await run([], env)
      const lines = stdout.trimEnd().split('\n')
      assert.equal(lines.length, 102)
      assert.match(lines[0] ?? '', / evil\\u001b\[2J\\u000a /)
      assert.equal(lines[100], 'malformed  150 more')
      assert.match(lines[101] ?? '', /^250 findings: entries 251, /)
    }),
  )
})

describe('the range is', () => {
  test(
    'what lies between two times or stream ids, both included',
    lastFirst(async t => {
      const redis = await startRedis(t)
      const directory = await temporaryDirectory(t)
      const ids = ['1000-0', '1000-1', '2000-0', '3000-5']
      for (const id of ids) await redis.add(STREAM, signed(event()), id)
      const entries = async (...args: string[]) =>
        (await verify(environment(redis, directory), ...args)).counts.entries
      assert.equal(await entries(), 0)
      assert.equal(await entries('--since', '0'), 4)
      assert.equal(await entries('--since', '1000-1', '--until', '2000-0'), 2)
      assert.equal(await entries('--since', '1000-1', '--until', '3000'), 3)
      assert.equal(await entries('--since', '1970-01-01T00:00:02Z'), 2)
      assert.equal(
        await entries('--since', '1970-01-01T01:00:01+01:00', '--until', '1970-01-01T00:00:01Z'),
        2,
      )
    }),
  )
})

describe('the command line', () => {
  test('prints what it takes', async () => {
    for (const flag of ['--help', '-h']) {
      const { status, stdout, stderr } = await run([flag], {})
      assert.deepEqual([status, stderr], [0, ''])
      assert.match(stdout, /^usage: caracal-gateway verify-evidence /)
    }
  })

  for (const args of [
    ['more'],
    ['--nothing'],
    ['--since'],
    ['--since', 'yesterday'],
    ['--until', '2026-02-30'],
    ['--since', '18446744073709551616'],
    ['--since', '2', '--until', '1'],
  ]) {
    test(`refuses ${args.join(' ')} with its usage`, async () => {
      const { status, stdout, stderr } = await run(args, {})
      assert.deepEqual([status, stdout], [2, ''])
      assert.match(stderr, /^caracal-gateway: .+\n\nusage: caracal-gateway verify-evidence /)
    })
  }

  test('names every variable that is wrong, needs no other, and prints no value', async () => {
    const { status, stdout, stderr } = await run([], { AUDIT_HMAC_KEY: 'secret', PORT: 'no' })
    assert.deepEqual([status, stdout], [1, ''])
    assert.match(stderr, /AUDIT_HMAC_KEY must be hex/)
    assert.match(stderr, /REDIS_URL is required/)
    assert.doesNotMatch(stderr, /secret|PORT|STS_URL/)
    const dev = await run([], { CARACAL_MODE: 'dev' })
    assert.equal(dev.status, 1)
    assert.match(dev.stderr, /REDIS_URL is required/)
  })
})
