// Callers that never stop, and the account of what they did: requests that an upstream saw against the evidence of them
// (contract section 8).
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { setTimeout as pause } from 'node:timers/promises'
import { Pool } from 'undici'
import type { Scope } from '../cleanup.ts'
import { assertEvidence, type EvidenceEntry } from '../evidence.ts'
import type { Cleanup } from '../redis.ts'
import { until } from '../until.ts'
import { call, type Gateway, KEYS, RESOURCE, type Stack, WORKERS } from './harness.ts'

const CALLERS = 24
/** Milliseconds that a caller waits who was refused, or found nobody. */
const RETRY_DELAY = 30
/** Milliseconds that the upstream takes for its answers, in turn. */
const LATENCIES = [0, 5, 20, 60]
const LONG = 30_000

/** For a gateway under load on a machine that has other things to do. */
export const PATIENT = { MAX_EVENT_LOOP_DELAY: '20s' }

/** What becomes of a request in the eyes of its caller. */
export interface Outcome {
  readonly requestId: string
  /** When it was sent, `performance.now()`. */
  readonly sentAt: number
  /** Undefined: there was no answer, or not all of it. */
  readonly status: number | undefined
  /** `200`, `503 audit evidence unavailable` and the like, or `broken`. */
  readonly summary: string
  /** Whether the gateway said that the upstream has not seen it. */
  readonly undispatched: boolean
}

/** A process's directory, and what is in it. */
const USUAL = /^gateway-\d+-[0-9a-f]+(?:\/(?:owner|reserve|\d+\.journal))?$/

const BROKEN = { status: undefined, summary: 'broken', undispatched: false }

/** Callers of one gateway after another, each with a fresh mandate a request, one request at a time. */
export class Load {
  readonly outcomes: Outcome[] = []
  readonly #stack: Stack
  readonly #callers: Promise<void>[]
  #pool: Pool
  #stopped = false

  /** @param t a test that fails must not leave its callers behind */
  constructor(t: Cleanup, stack: Stack, { url }: Gateway = stack.gateway) {
    t.after(() => this.stop())
    this.#stack = stack
    this.#pool = poolOf(url)
    this.#callers = Array.from({ length: CALLERS }, () => this.#run())
  }

  /** How many requests ended so. */
  count(summary: string): number {
    return this.outcomes.filter(outcome => outcome.summary === summary).length
  }

  /** Resolves once so many more requests have ended so. */
  async more(summary: string, number: number): Promise<void> {
    const enough = this.count(summary) + number
    await until(() => this.count(summary) >= enough, LONG)
  }

  /** How the requests ended that were sent in this time, `performance.now()`. */
  between(from: number, to: number): Record<string, number> {
    return summaries(this.outcomes.filter(({ sentAt }) => sentAt >= from && sentAt <= to))
  }

  /** From now on another gateway is called. */
  async turnTo({ url }: Gateway): Promise<void> {
    const before = this.#pool
    this.#pool = poolOf(url)
    await before.destroy()
  }

  /** Resolves when all requests have ended. */
  async stop(): Promise<void> {
    this.#stopped = true
    await Promise.all(this.#callers)
    if (!this.#pool.closed) await this.#pool.close()
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const requestId = randomUUID()
      const sent = { requestId, sentAt: performance.now() }
      const answer = await this.#call(requestId).catch(() => BROKEN)
      this.outcomes.push({ ...sent, ...answer })
      if (answer.status !== 200) await pause(RETRY_DELAY)
    }
  }

  async #call(requestId: string): Promise<Omit<Outcome, 'requestId' | 'sentAt'>> {
    const { statusCode, headers, body } = await this.#pool.request({
      path: `/v1/invoices/${requestId}`,
      method: 'POST',
      headers: {
        authorization: `Bearer ${this.#stack.mint()}`,
        'x-caracal-resource': RESOURCE,
        'x-request-id': requestId,
      },
      body: 'x'.repeat(100),
    })
    const text = await body.text()
    const refused = headers['x-caracal-dispatched'] !== undefined
    const reason = refused ? ` ${JSON.parse(text).error_description}` : ''
    return {
      status: statusCode,
      summary: `${statusCode}${reason}`,
      undispatched: headers['x-caracal-dispatched'] === 'no',
    }
  }
}

function poolOf(url: string): Pool {
  return new Pool(url, { connections: CALLERS, headersTimeout: LONG, bodyTimeout: LONG })
}

/** From now on the upstream takes its time, so that requests are in flight whenever something happens. */
export function work({ upstream }: Stack): void {
  upstream.handler = (_request, response, body) => {
    const latency = LATENCIES[upstream.arrivals.length % LATENCIES.length] ?? 0
    body.then(
      () => {
        response.write('first')
        setTimeout(() => response.end('last'), latency)
      },
      () => response.destroy(),
    )
  }
}

/** Ids of the requests that the upstream saw, in order. */
export function arrived({ upstream }: Stack): string[] {
  return upstream.arrivals.map(({ headers }) => String(headers['x-request-id']))
}

/** Why a gateway is not ready; undefined when it is. */
export async function reasonOf({ url }: Gateway): Promise<unknown> {
  return (await call(url, '/ready', { resource: null })).json()['reason']
}

/** All figures of a gateway without labels, by their names in `/metrics.json`. */
export async function figuresOf({ url }: Gateway): Promise<Record<string, number>> {
  const answer = await call(url, '/metrics.json', { token: 'metrics-bearer', resource: null })
  return Object.fromEntries(Object.entries(answer.json()).map(([name, n]) => [name, Number(n)]))
}

/** Resolves once a gateway is ready and has nothing more to send; what it counted then is as it should be. */
export async function assertSettled(gateway: Gateway): Promise<Record<string, number>> {
  let figures: Record<string, number> = {}
  await until(async () => {
    figures = await figuresOf(gateway)
    return (
      figures['audit_queue_depth'] === 0 &&
      figures['audit_replay_files'] === 0 &&
      (await reasonOf(gateway)) === undefined
    )
  }, LONG)
  assert.equal(figures['audit_dropped'], 0)
  assert.equal(figures['audit_corrupt_lines'], 0)
  return figures
}

/** Resolves once nothing lies in an `AUDIT_REPLAY_DIR` but what these many gateways always have. */
export async function assertTidy(directory: string, gateways: number): Promise<void> {
  let names: string[] = []
  const tidy = async () => {
    names = await readdir(directory, { recursive: true }).catch(() => ['something goes'])
    const homes = names.filter(name => !name.includes('/'))
    return homes.length === gateways * WORKERS && names.every(name => USUAL.test(name))
  }
  await until(tidy, LONG).catch(() => assert.fail(names.join()))
}

/** Stops gateways, which must leave nothing in their `AUDIT_REPLAY_DIR`. */
export async function assertNothingLeft(
  directory: string,
  gateways: readonly Gateway[],
): Promise<void> {
  for (const gateway of gateways) assert.equal(await gateway.stop(), 0)
  assert.deepEqual(await readdir(directory), [])
}

/** What {@link assertAccounted} is told. */
export interface AccountOptions {
  readonly loads: readonly Load[]
  /** What Redis held when it lost all. */
  readonly earlier?: readonly EvidenceEntry[]
  /** Whether a gateway was killed: a request then may be told of that never went out, and a refusal may not be. */
  readonly killed?: boolean
}

/** What {@link assertAccounted} found. */
export interface Account {
  readonly upstream: number
  readonly events: number
  readonly interrupted: number
  /** Entries beyond the first of an event. */
  readonly duplicated: number
}

/**
 * Fails unless there is one event of each request that the upstream saw, and of each refusal that is due one, and none of
 * what was never dispatched. Waits for events that are under way, and prints the account.
 */
export async function assertAccounted(
  t: Pick<Scope, 'diagnostic'>,
  stack: Stack,
  { loads, earlier = [], killed = false }: AccountOptions,
): Promise<Account> {
  const outcomes = loads.flatMap(load => load.outcomes)
  const seen = arrived(stack)
  const refused = outcomes.filter(({ summary }) => summary === '503 replay state unavailable')
  const due = [...seen, ...(killed ? [] : refused.map(({ requestId }) => requestId))]

  let entries: readonly EvidenceEntry[] = []
  let missing: string[] = []
  const complete = async () => {
    entries = [...earlier, ...(await stack.redis.entries('caracal.audit.events'))]
    const found = new Set(entries.map(({ fields }) => requestOf(fields['data'])))
    missing = due.filter(id => !found.has(id))
    // A look takes a while: it reads all.
    if (missing.length > 0) await pause(100)
    return missing.length === 0
  }
  await until(complete, LONG).catch(() => undefined)

  const events = assertEvidence(entries, KEYS.audit)
  const ends = new Map(
    [...events.values()].map(event => [event['request_id'], event['evaluation_status']]),
  )
  const account = {
    upstream: seen.length,
    events: events.size,
    interrupted: [...ends.values()].filter(status => status === 'interrupted').length,
    missing: missing.length,
    duplicated: entries.length - events.size,
  }
  t.diagnostic(JSON.stringify({ ...account, callers: summaries(outcomes) }))
  assert.deepEqual(missing, [])
  assert.equal(new Set(seen).size, seen.length)
  assert.equal(ends.size, events.size)

  const dispatched = new Set(seen)
  for (const { requestId, status, summary, undispatched } of outcomes) {
    const end = ends.get(requestId)
    const what = `${requestId}: ${summary}, ${String(end)}`
    if (undispatched) assert.equal(dispatched.has(requestId), false, what)
    if (status === 200) assert.equal(dispatched.has(requestId), true, what)
    if (status === 200 && !killed) assert.equal(end, 'executed', what)
    if (summary === '503 audit evidence unavailable') assert.equal(end, undefined, what)
    if (summary === '503 replay state unavailable' && (!killed || end !== undefined)) {
      assert.equal(end, 'replay_state_unavailable', what)
    }
    // The journal was written, and the gateway killed before it could dispatch.
    if (!dispatched.has(requestId) && end === 'interrupted') assert.equal(killed, true, what)
  }
  const sent = new Set<unknown>(outcomes.map(({ requestId }) => requestId))
  assert.deepEqual(
    [...ends.keys()].filter(id => !sent.has(id)),
    [],
  )
  return account
}

function requestOf(data: string | undefined): string {
  return JSON.parse(data ?? '').request_id
}

/** How many requests ended how. */
function summaries(outcomes: readonly Outcome[]): Record<string, number> {
  const groups = Map.groupBy(outcomes, ({ summary }) => summary)
  return Object.fromEntries([...groups].map(([summary, { length }]) => [summary, length]))
}
