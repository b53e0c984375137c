// Holds the gateway to leave evidence of every request that an upstream saw, whatever ends in the meantime (contract
// section 8).
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdir, readdir, rm, unlink, utimes, writeFile } from 'node:fs/promises'
import type { ServerResponse } from 'node:http'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { promisify } from 'node:util'
import { writeEvent } from '../../lib/audit-event.ts'
import { uuidv7 } from '../../lib/uuid.ts'
import { lastFirst } from '../cleanup.ts'
import { until } from '../until.ts'
import { ALONE, type AuditEvent, call, type Stack, startGateway, startStack } from './harness.ts'
import { assertRefusal, type Refusal } from './refusal.ts'
import { filesIn, hasLogged, kill, temporaryDirectory } from './support.ts'

const LONG = 30_000
const run = promisify(execFile)

const UNAVAILABLE: Refusal = {
  status: 503,
  error: 'internal_error',
  description: 'audit evidence unavailable',
}

/** The journal's lines, of all processes. */
function journalIn(directory: string): string[] {
  return [...filesIn(directory)]
    .filter(([name]) => name.endsWith('.journal'))
    .flatMap(([, text]) => text.split('\n').filter(line => line !== ''))
}

/** From now on the upstream holds its answers back; resolves to those it holds. */
function hold({ upstream }: Stack): ServerResponse[] {
  const held: ServerResponse[] = []
  upstream.handler = (_request, response) => void held.push(response)
  return held
}

const ends = (events: readonly AuditEvent[]) =>
  events.map(({ evaluation_status }) => evaluation_status)

describe('before a request is dispatched, the gateway', () => {
  for (const durability of ['strict', 'synced', 'relaxed']) {
    test(
      `has written that it will be: ${durability}`,
      lastFirst(async t => {
        const stack = await startStack(t, { env: { AUDIT_DURABILITY: durability } })
        const { replayDirectory } = stack.gateway
        const journals: string[][] = []
        stack.upstream.handler = (_request, response) => {
          journals.push(journalIn(replayDirectory))
          response.end('ok')
        }
        const traceId = 'ab'.repeat(16)
        const answer = await stack.call('/v1/invoices?secret=1', {
          headers: { traceparent: `00-${traceId}-${'cd'.repeat(8)}-01` },
        })
        assert.equal(answer.status, 200)
        const [event] = await stack.eventsOf(answer.requestId)
        assert.equal(event?.evaluation_status, 'executed')
        const [journal = []] = journals
        if (durability === 'relaxed') {
          assert.deepEqual(journal, [])
          return
        }
        const [sign, id, ...data] = journal.at(-1)?.split(' ') ?? []
        assert.deepEqual([sign, id], ['I', event?.id])
        const intent = JSON.parse(data.join(' '))
        const { gateway_status, latency_ms, response_bytes, upstream_status, ...known } =
          event?.metadata_json ?? {}
        assert.equal(gateway_status, 200)
        assert.equal(typeof latency_ms, 'number')
        assert.deepEqual([response_bytes, upstream_status], [2, 200])
        assert.equal(known['trace_id'], traceId)
        const { revocation_interrupted, ...metadata } = known
        assert.equal(revocation_interrupted, false)
        assert.deepEqual(intent, {
          ...event,
          evaluation_status: 'interrupted',
          occurred_at: intent.occurred_at,
          metadata_json: { ...metadata, result_class: 'unknown' },
        })
      }),
    )
  }

  test(
    'refuses it when that cannot be written, and the next before they have spent anything',
    lastFirst(async t => {
      const stack = await startStack(t, { env: ALONE })
      assert.equal((await stack.call()).status, 200)
      // Nothing is left to be written of that one.
      await until(() => journalIn(stack.gateway.replayDirectory).at(-1)?.[0] === 'D')
      const limit = async (bytes: string) => {
        for (const pid of stack.gateway.servers()) {
          await run('prlimit', ['--pid', String(pid), `--fsize=${bytes}:unlimited`])
        }
      }
      await limit('100')
      const exchanges = stack.sts.exchanges.length
      const jti = randomUUID()
      const refused = await stack.call('/v1/invoices', { token: stack.mint({ jti }) })
      assertRefusal(refused, { ...UNAVAILABLE, spent: true })
      assert.equal(stack.sts.exchanges.length, exchanges + 1)
      assert.equal(stack.upstream.arrivals.length, 1)
      const unspent = randomUUID()
      const token = stack.mint({ jti: unspent })
      assertRefusal(await stack.call('/v1/invoices', { token }), UNAVAILABLE)
      assert.equal(await stack.redis.command('EXISTS', `seen:jti:${unspent}`), 0)
      await until(async () => {
        const ready = await call(stack.gateway.url, '/ready', { resource: null })
        return ready.json()['reason'] === 'audit_replay_unavailable'
      })
      await limit('unlimited')
      await until(async () => (await stack.call('/v1/invoices', { token })).status === 200, LONG)
      const of = (await stack.events()).filter(({ request_id }) => request_id === refused.requestId)
      assert.deepEqual(of, [])
      assert.equal(await stack.gateway.stop(), 0)
      assert.deepEqual(filesIn(stack.gateway.replayDirectory), new Map())
    }),
  )
})

describe('a gateway that was killed', () => {
  test(
    'is followed by one that says once what was interrupted, and what it knew',
    lastFirst(async t => {
      const directory = await temporaryDirectory(t)
      const stack = await startStack(t, { env: { AUDIT_REPLAY_DIR: directory } })
      const held = hold(stack)
      const requestId = randomUUID()
      const lost = stack.call('/v1/invoices', { headers: { 'x-request-id': requestId } })
      await until(() => held.length === 1)
      await Promise.all([assert.rejects(lost), kill(stack.gateway)])
      for (let starts = 0; starts < 3; starts += 1) {
        const gateway = await startGateway(t, stack.env)
        await stack.eventsOf(requestId)
        assert.equal(await gateway.stop(), 0)
      }
      const events = await stack.eventsOf(requestId)
      assert.deepEqual(ends(events), ['interrupted'])
      const [event] = events
      assert.deepEqual(
        [event?.event_type, event?.decision, event?.zone_id],
        ['gateway_resource_request', 'allow', 'zone-1'],
      )
      assert.deepEqual(Object.keys(event?.metadata_json ?? {}).toSorted(), [
        'application_id',
        'auth_mode',
        'method',
        'resource',
        'result_class',
        'subject_fingerprint',
        'subject_kind',
        'trace_id',
        'upstream_host',
      ])
      assert.deepEqual(filesIn(directory), new Map())
    }),
  )

  test(
    'has its open streams told of, however long ago they began',
    lastFirst(async t => {
      const directory = await temporaryDirectory(t)
      const stack = await startStack(t, { env: { AUDIT_REPLAY_DIR: directory } })
      stack.upstream.handler = (_request, response) => void response.write('first')
      const requestId = randomUUID()
      const stream = stack.call('/v1/events', { headers: { 'x-request-id': requestId } })
      await until(() => stack.upstream.arrivals.length === 1)
      await Promise.all([assert.rejects(stream), kill(stack.gateway)])
      await startGateway(t, stack.env)
      assert.deepEqual(ends(await stack.eventsOf(requestId)), ['interrupted'])
    }),
  )
})

describe('while Redis is away, the gateway', () => {
  test(
    'keeps what comes to its end on disk, tells so, and sends it on',
    lastFirst(async t => {
      const stack = await startStack(t)
      const { gateway, redis } = stack
      const held = hold(stack)
      const calls = Array.from({ length: 12 }, () => stack.call())
      await until(() => held.length === calls.length)
      await redis.stop()
      for (const response of held) response.end('ok')
      const answers = await Promise.all(calls)
      await until(async () => (await stack.metric('audit_persisted')) === 12)
      assert.equal(await stack.metric('audit_queue_depth'), 0)
      assert.ok((await stack.metric('audit_replay_files')) >= 1)
      assert.ok((await stack.metric('audit_replay_bytes')) > 12 * 300)
      assert.ok((await stack.metric('audit_sink_errors')) >= 1)
      assert.ok([...filesIn(gateway.replayDirectory).keys()].some(name => name.endsWith('.ndjson')))
      await redis.restart()
      for (const { requestId } of answers) {
        assert.deepEqual(ends(await stack.eventsOf(requestId)), ['executed'])
      }
      await until(async () => (await stack.metric('audit_drained')) === 12)
      await until(async () => (await stack.metric('audit_replay_files')) === 0)
      assert.equal(await stack.metric('audit_replay_oldest_age_seconds'), 0)
      assert.equal(await stack.metric('audit_dropped'), 0)
      assert.equal((await stack.events()).length, 12)
    }),
  )

  test(
    'can be stopped, and the next sends what it left',
    lastFirst(async t => {
      const directory = await temporaryDirectory(t)
      const stack = await startStack(t, { env: { AUDIT_REPLAY_DIR: directory } })
      const held = hold(stack)
      const calls = Array.from({ length: 5 }, () => stack.call())
      await until(() => held.length === calls.length)
      await stack.redis.stop()
      for (const response of held) response.end('ok')
      await Promise.all(calls)
      assert.equal(await stack.gateway.stop(), 0)
      const left = [...filesIn(directory)]
      assert.deepEqual(
        left.map(([name]) => name.endsWith('.ndjson')),
        left.map(() => true),
      )
      const lines = left.flatMap(([, text]) => text.trim().split('\n')).toSorted()
      assert.equal(lines.length, 5)
      await stack.redis.restart()
      await startGateway(t, stack.env)
      await until(async () => (await stack.events()).length === 5, LONG)
      const entries = await stack.redis.entries('caracal.audit.events')
      assert.deepEqual(entries.map(({ fields }) => fields['data'] ?? '').toSorted(), lines)
    }),
  )
})

describe('what others left, the gateway', () => {
  test(
    'sends: whole lines, and a torn one is set aside and counted',
    lastFirst(async t => {
      const directory = await temporaryDirectory(t)
      const event = (n: number) => {
        const facts = { zone_id: 'zone-1', event_type: 'policy_decision' } as const
        const rest = {
          request_id: `r-${n}`,
          evaluation_status: 'executed',
          metadata_json: {},
        } as const
        return writeEvent(uuidv7(), { ...facts, ...rest, decision: 'allow' }, Date.now()).data
      }
      const lines = [event(1), event(2)]
      const path = join(directory, 'pending-1-1.ndjson')
      await writeFile(path, `${lines.join('\n')}\n${event(3).slice(0, 100)}`)
      await utimes(path, new Date(), new Date(Date.now() - 60_000))
      const stack = await startStack(t, { env: { AUDIT_REPLAY_DIR: directory } })
      await until(async () => (await stack.events()).length === 2)
      const entries = await stack.redis.entries('caracal.audit.events')
      assert.deepEqual(
        entries.map(({ fields }) => fields['data']),
        lines,
      )
      await until(async () => (await stack.metric('audit_corrupt_lines')) === 1)
      await until(async () => (await stack.metric('audit_drained')) === 2)
      assert.ok((await readdir(directory)).includes('pending-1-1.ndjson.corrupt'))
    }),
  )
})

describe('with a replay directory that cannot be used, the gateway', () => {
  test(
    'starts, refuses before anything is spent, says why, and recovers',
    lastFirst(async t => {
      const directory = join(await temporaryDirectory(t), 'replay')
      const stack = await startStack(t, { env: { ...ALONE, AUDIT_REPLAY_DIR: directory } })
      const { gateway } = stack
      assert.equal((await stack.call()).status, 200)
      await rm(directory, { recursive: true })
      await writeFile(directory, '')
      const reason = async () =>
        (await call(gateway.url, '/ready', { resource: null })).json()['reason']
      await until(async () => (await reason()) === 'audit_replay_unavailable')
      const jti = randomUUID()
      const token = stack.mint({ jti })
      assertRefusal(await stack.call('/v1/invoices', { token }), UNAVAILABLE)
      assert.equal(await stack.redis.command('EXISTS', `seen:jti:${jti}`), 0)
      assert.equal(stack.upstream.arrivals.length, 1)
      assert.ok(hasLogged(gateway, /^audit replay directory cannot be used/))
      await unlink(directory)
      await until(async () => (await reason()) === undefined)
      assert.equal((await stack.call('/v1/invoices', { token })).status, 200)
      assert.ok(hasLogged(gateway, /^audit replay directory can be used again/))
    }),
  )

  test(
    'serves when it promised nothing and Redis takes everything',
    lastFirst(async t => {
      const directory = await temporaryDirectory(t)
      const stack = await startStack(t, {
        env: { AUDIT_DURABILITY: 'relaxed', AUDIT_REPLAY_DIR: join(directory, 'replay') },
      })
      await rm(join(directory, 'replay'), { recursive: true })
      await writeFile(join(directory, 'replay'), '')
      await until(async () => {
        const ready = await call(stack.gateway.url, '/ready', { resource: null })
        return ready.json()['reason'] === 'audit_replay_unavailable'
      })
      const answer = await stack.call()
      assert.equal(answer.status, 200)
      assert.deepEqual(ends(await stack.eventsOf(answer.requestId)), ['executed'])
      await unlink(join(directory, 'replay'))
      await mkdir(join(directory, 'replay'))
      await until(async () => {
        const ready = await call(stack.gateway.url, '/ready', { resource: null })
        return ready.status === 200
      })
    }),
  )
})
