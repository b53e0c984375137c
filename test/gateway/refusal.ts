// What every refusal has in common (contract section 2), and the metrics that count it.
import assert from 'node:assert/strict'
import { type Answer, call } from './harness.ts'

/** A refusal as the contract's table has it. */
export interface Refusal {
  readonly status: number
  readonly error: string
  readonly description: string
  /** Whether the call can have happened. Default `no`. */
  readonly dispatched?: 'no' | 'unknown'
  /** Whether the mandate was spent; decides on `x-should-retry`. Default false. */
  readonly spent?: boolean
  /** Further members of the body. */
  readonly members?: Readonly<Record<string, unknown>>
  /** Headers that the refusal brings, or that replace the usual ones. */
  readonly headers?: Readonly<Record<string, string>>
}

/** Asserts status, body and every header that the contract names. */
export function assertRefusal(answer: Answer, refusal: Refusal): void {
  const { status, error, description, dispatched = 'no', spent = false, members = {} } = refusal
  const { headers } = answer
  assert.equal(answer.status, status, answer.text)
  assert.deepEqual(answer.json(), {
    ...members,
    error,
    error_description: description,
    requestId: answer.requestId,
    dispatched,
  })
  assert.match(answer.requestId, /^[\x21-\x7e]{1,128}$/)
  const expected: Record<string, string | undefined> = {
    'content-type': 'application/json',
    'cache-control': 'no-store',
    'x-caracal-dispatched': dispatched,
    'www-authenticate': challengeOf(refusal),
    'retry-after': status === 503 ? '1' : undefined,
    'x-should-retry':
      dispatched === 'unknown' ? 'false' : status === 503 && !spent ? 'true' : undefined,
    'x-caracal-token-expires-in': undefined,
    'set-cookie': undefined,
    server: undefined,
    'x-powered-by': undefined,
    ...refusal.headers,
  }
  const actual = Object.fromEntries(Object.keys(expected).map(name => [name, headers[name]]))
  assert.deepEqual(actual, expected)
}

/** RFC 6750 section 3: no error code for a request without credentials. */
function challengeOf({ status, description }: Refusal): string | undefined {
  if (status !== 401 && status !== 403) return undefined
  if (description === 'missing bearer token') return 'Bearer realm="caracal"'
  const code = status === 401 ? 'invalid_token' : 'insufficient_scope'
  return `Bearer realm="caracal", error="${code}", error_description="${description}"`
}

/** The series of `/metrics` by name and labels, as they are written there. */
export async function metricsOf(gatewayUrl: string): Promise<ReadonlyMap<string, number>> {
  const { text } = await call(gatewayUrl, '/metrics', { token: 'metrics-bearer', resource: null })
  const series = new Map<string, number>()
  for (const line of text.split('\n')) {
    const at = line.lastIndexOf(' ')
    if (!line.startsWith('#') && at > 0) series.set(line.slice(0, at), Number(line.slice(at + 1)))
  }
  return series
}

/** What the counters of the gateway's own metrics rose by; those that stood still are left out. */
export function risen(
  before: ReadonlyMap<string, number>,
  after: ReadonlyMap<string, number>,
): Record<string, number> {
  const rise: Record<string, number> = {}
  for (const [name, value] of after) {
    if (!/^caracal_gateway_\w+_total\b/.test(name)) continue
    const by = value - (before.get(name) ?? 0)
    if (by !== 0) rise[name.replace('caracal_gateway_', '')] = by
  }
  return rise
}
