// Reads what a raw connection answered, as strictly as the bytes allow.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type Stack, Wire } from '../gateway/harness.ts'
import { until } from '../until.ts'

/** One answer, parsed. */
export interface WireAnswer {
  readonly status: number
  /** By lower-case name; the last of a repeated field. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/**
 * The answers in what a connection sent, interim ones included.
 *
 * @returns as many as are complete, and the text behind them
 */
export function answersIn(text: string): { answers: WireAnswer[]; rest: string } {
  const answers: WireAnswer[] = []
  let rest = text
  for (;;) {
    const end = rest.indexOf('\r\n\r\n')
    if (end === -1) return { answers, rest }
    const [line = '', ...fields] = rest.slice(0, end).split('\r\n')
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(line)?.[1])
    assert.ok(status >= 100, `not an answer: ${rest.slice(0, 200)}`)
    const headers: Record<string, string> = {}
    for (const field of fields) {
      const colon = field.indexOf(':')
      headers[field.slice(0, colon).toLowerCase()] = field.slice(colon + 1).trim()
    }
    const length = bodyLength(status, headers, rest.slice(end + 4))
    if (length === undefined) return { answers, rest }
    answers.push({ status, headers, body: rest.slice(end + 4, end + 4 + length) })
    rest = rest.slice(end + 4 + length)
  }
}

function bodyLength(
  status: number,
  headers: Readonly<Record<string, string>>,
  text: string,
): number | undefined {
  if (status < 200 || status === 204 || status === 304) return 0
  if (headers['transfer-encoding'] === 'chunked') {
    const end = text.indexOf('0\r\n\r\n')
    return end === -1 ? undefined : end + 5
  }
  const length = Number(headers['content-length'])
  assert.ok(length >= 0, 'an answer says how long it is')
  return text.length < length ? undefined : length
}

/** Resolves with a connection's answers once there are this many, whole. */
export async function answers(wire: Wire, count = 1, milliseconds = 10_000): Promise<WireAnswer[]> {
  let found: WireAnswer[] = []
  await until(() => {
    found = answersIn(wire.text).answers
    return found.length >= count || wire.closed
  }, milliseconds)
  found = answersIn(wire.text).answers
  assert.equal(found.length, count, `answers: ${wire.text}`)
  return found
}

/** Asserts that an answer is a refusal in the form of contract section 2. */
export function assertRefusal(
  answer: WireAnswer | undefined,
  expected: { status: number; error?: string; description: string | RegExp; dispatched?: string },
): void {
  assert.ok(answer, 'an answer')
  const { status, headers, body } = answer
  const parsed = JSON.parse(body)
  const { error = 'invalid_request', description, dispatched = 'no' } = expected
  assert.equal(status, expected.status, body)
  assert.equal(parsed.error, error)
  if (typeof description === 'string') assert.equal(parsed.error_description, description)
  else assert.match(parsed.error_description, description)
  assert.equal(parsed.dispatched, dispatched)
  assert.equal(headers['x-caracal-dispatched'], dispatched)
  assert.equal(parsed.requestId, headers['x-request-id'])
  assert.match(parsed.requestId, /^[\x21-\x7e]{1,128}$/)
  assert.equal(headers['content-type'], 'application/json')
  assert.equal(headers['cache-control'], 'no-store')
}

/** A mandate and the means to see whether it was spent. */
export interface Mandate {
  readonly token: string
  readonly jti: string
  readonly spent: () => Promise<boolean>
}

/** Mints a mandate that passes every check. */
export function mandate(stack: Stack, claims: Readonly<Record<string, unknown>> = {}): Mandate {
  const jti = randomUUID()
  return {
    token: stack.mint({ jti, ...claims }),
    jti,
    spent: async () => (await stack.redis.command('EXISTS', `seen:jti:${jti}`)) === 1,
  }
}

/** Asserts that the gateway serves, holds no request any more and has said nothing on standard error. */
export async function assertUnharmed(stack: Stack): Promise<void> {
  const answer = await stack.call('/unharmed')
  assert.equal(answer.status, 200, answer.text)
  await until(async () => (await stack.metric('requests_in_flight')) === 0)
  assert.equal(stack.gateway.child.exitCode, null)
  // What is not a JSON line of the log came from Node itself: a warning, a stack, an unhandled rejection.
  const strange = stack.gateway
    .output()
    .split('\n')
    .filter(line => line !== '' && !line.startsWith('{"level":'))
  assert.deepEqual(strange, [])
  assert.deepEqual(
    stack.gateway.logs.filter(({ level }) => Number(level) >= 50),
    [],
  )
}
