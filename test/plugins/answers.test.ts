// Holds the answer to a denial to contract section 2, and every other error to the gateway's own words.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import Fastify, { type FastifyInstance } from 'fastify'
import { type Check, DENIALS, Denial, isCheck } from '../../denial.ts'
import answers, { asDenial, rawRefusal, refusalAnswer } from '../../plugins/answers.ts'
import metrics from '../../plugins/metrics.ts'
import passagePlugin, { Passage } from '../../plugins/passage.ts'

const CHECKS = Object.keys(DENIALS).filter(isCheck)
const BEFORE = { requestId: 'r-1', dispatched: false, spent: false }

/** RFC 6750 section 3: a challenge whose parameters are quoted-strings of its own alphabet. */
const CHALLENGE =
  /^Bearer realm="caracal"(?:, error="(?:invalid_token|insufficient_scope)", error_description="[\x20\x21\x23-\x5b\x5d-\x7e]*")?$/

const challenge = (check: Check) =>
  refusalAnswer(new Denial(check), BEFORE).headers['www-authenticate']

describe('refusalAnswer', () => {
  for (const check of CHECKS) {
    it(`answers ${check} with what every refusal says`, () => {
      const denial = new Denial(check)
      const { status, error, description } = DENIALS[check]
      const { body, headers } = refusalAnswer(denial, BEFORE)
      assert.deepEqual(JSON.parse(body), {
        error,
        error_description: description,
        requestId: 'r-1',
        dispatched: 'no',
      })
      const expected: Record<string, string> = {
        'content-type': 'application/json',
        'cache-control': 'no-store',
        'x-request-id': 'r-1',
        'x-caracal-dispatched': 'no',
      }
      if (status === 503) Object.assign(expected, { 'retry-after': '1', 'x-should-retry': 'true' })
      const { 'www-authenticate': challenge, ...others } = headers
      assert.deepEqual(others, expected)
      if (status === 401 || status === 403) assert.match(challenge ?? '', CHALLENGE)
      else assert.equal(challenge, undefined)
    })
  }

  it('challenges a request without a bearer by the scheme alone', () => {
    const { headers } = refusalAnswer(new Denial('missing_bearer'), BEFORE)
    assert.equal(headers['www-authenticate'], 'Bearer realm="caracal"')
  })

  it('tells invalid_token on 401 and insufficient_scope on 403', () => {
    assert.match(
      challenge('revoked') ?? '',
      /error="invalid_token", error_description="session revoked"/,
    )
    assert.match(challenge('missing_scope') ?? '', /error="insufficient_scope"/)
  })

  it('keeps a challenge short enough for proxies, and the whole description in the body', () => {
    const description = `operation GET /${'a'.repeat(16_000)} is not declared`
    const denial = new Denial('undeclared_operation', { description })
    const { body, headers } = refusalAnswer(denial, BEFORE)
    assert.ok((headers['www-authenticate'] ?? '').length < 1_024)
    assert.match(headers['www-authenticate'] ?? '', /error_description="operation GET \/a+"$/)
    assert.equal(JSON.parse(body).error_description, description)
  })

  it('says unknown, and do not retry, once a byte can have gone out', () => {
    for (const check of CHECKS) {
      const { body, headers } = refusalAnswer(new Denial(check), {
        ...BEFORE,
        dispatched: true,
        spent: true,
      })
      assert.equal(JSON.parse(body).dispatched, 'unknown')
      assert.equal(headers['x-caracal-dispatched'], 'unknown')
      assert.equal(headers['x-should-retry'], 'false')
    }
  })

  it('asks for no retry of a mandate that is spent', () => {
    const denial = new Denial('sts_refused', { status: 503 })
    const { headers } = refusalAnswer(denial, { ...BEFORE, spent: true })
    assert.equal(headers['x-should-retry'], undefined)
    assert.equal(headers['retry-after'], '1')
  })

  it('takes a denial’s own Retry-After and challenge', () => {
    const headers = { 'retry-after': '7', 'www-authenticate': 'DPoP' }
    const answer = refusalAnswer(new Denial('sts_refused', { status: 401, headers }), BEFORE)
    assert.equal(answer.headers['retry-after'], '7')
    assert.equal(answer.headers['www-authenticate'], 'DPoP')
  })

  it('lets no member of a refusal override what the gateway says', () => {
    const name = fc.oneof(
      fc.constantFrom(
        'error',
        'error_description',
        'requestId',
        'dispatched',
        '__proto__',
        'toJSON',
      ),
      fc.string({ maxLength: 6 }),
    )
    const members = fc.dictionary(name, fc.jsonValue({ maxDepth: 1 }), { noNullPrototype: true })
    fc.assert(
      fc.property(members, fc.boolean(), (given, dispatched) => {
        const denial = new Denial('sts_refused', { error: 'e', description: 'd', members: given })
        const { body } = refusalAnswer(denial, { ...BEFORE, dispatched })
        const own = { error: 'e', error_description: 'd', requestId: 'r-1' }
        const said = dispatched ? 'unknown' : 'no'
        // In both objects a `__proto__` is a member like any other.
        const expected = JSON.stringify({ ...given, ...own, dispatched: said })
        assert.equal(body, expected)
        assert.equal(JSON.parse(body).requestId, 'r-1')
      }),
    )
  })

  it('lets no header of a refusal override what the gateway says', () => {
    const headers = {
      'X-Request-Id': 'forged',
      'x-request-id': 'forged',
      'content-type': 'text/html',
      'cache-control': 'public',
      'x-caracal-dispatched': 'no',
      'x-should-retry': 'true',
      'x-team': 'kept',
    }
    const answer = refusalAnswer(new Denial('revoked', { headers }), {
      ...BEFORE,
      dispatched: true,
    })
    const { 'www-authenticate': _, ...others } = answer.headers
    assert.deepEqual(others, {
      'content-type': 'application/json',
      'cache-control': 'no-store',
      'x-request-id': 'r-1',
      'x-caracal-dispatched': 'unknown',
      'x-should-retry': 'false',
      'x-team': 'kept',
    })
  })

  it('always challenges in RFC 6750’s alphabet, whatever a description holds', () => {
    const text = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 20 }),
      fc
        .array(
          fc.constantFrom('"', '\\', '\r\n', '\0', ',', '=', 'é', '\u{1f600}', '\ud800', 'a'),
          { maxLength: 9 },
        )
        .map(parts => parts.join('')),
    )
    fc.assert(
      fc.property(text, fc.constantFrom(401, 403), (description, status) => {
        const denial = new Denial('sts_refused', { status, description })
        const { headers, body } = refusalAnswer(denial, BEFORE)
        assert.match(headers['www-authenticate'] ?? '', CHALLENGE)
        assert.equal(JSON.parse(body).error_description, description)
      }),
    )
  })
})

describe('rawRefusal', () => {
  it('is one whole HTTP response, and the last of its connection', () => {
    const denial = new Denial('malformed_request', { status: 431, description: 'zu große Köpfe' })
    const [head = '', body = ''] = rawRefusal(denial, 'r-1').split('\r\n\r\n')
    const [line, ...fields] = head.split('\r\n')
    assert.equal(line, 'HTTP/1.1 431 Request Header Fields Too Large')
    assert.ok(fields.includes(`content-length: ${Buffer.byteLength(body)}`))
    assert.ok(fields.includes('connection: close'))
    assert.ok(fields.includes('x-caracal-dispatched: no'))
    assert.equal(JSON.parse(body).error_description, 'zu große Köpfe')
  })

  it('is well formed for a status without a name', () => {
    assert.match(
      rawRefusal(new Denial('sts_refused', { status: 499 }), 'r'),
      /^HTTP\/1\.1 499 \r\n/,
    )
  })
})

describe('asDenial', () => {
  it('takes a denial as it is', () => {
    const denial = new Denial('revoked')
    assert.equal(asDenial(denial), denial)
  })

  for (const [status, description] of [
    [400, 'bad request'],
    [413, 'payload too large'],
    [415, 'unsupported media type'],
    [499, 'malformed request'],
  ] as const) {
    it(`keeps a framework’s ${status} under the gateway’s own text`, () => {
      const error = Object.assign(new Error('FST says secret things'), { statusCode: status })
      const denial = asDenial(error)
      assert.deepEqual(
        [denial.check, denial.statusCode, denial.error, denial.description],
        ['malformed_request', status, 'invalid_request', description],
      )
      assert.equal(denial.cause, error)
    })
  }

  for (const error of [
    new Error('secret'),
    Object.assign(new Error('secret'), { statusCode: 503 }),
    Object.assign(new Error('secret'), { statusCode: 302 }),
    Object.assign(new Error('secret'), { statusCode: '400' }),
    'secret',
    undefined,
    null,
  ]) {
    it(`takes ${String(error)} of ${typeof error} for our own fault`, () => {
      const denial = asDenial(error)
      assert.deepEqual(
        [denial.check, denial.statusCode, denial.description],
        ['internal_error', 500, 'internal error'],
      )
    })
  }
})

/** An app whose route throws, with or without a passage, and the lines that it logs. */
async function failing(error: unknown, passage: Passage | null = null) {
  const logged: string[] = []
  const app: FastifyInstance = Fastify({
    genReqId: () => 'r-1',
    logger: { level: 'info', stream: { write: line => void logged.push(line) } },
    disableRequestLogging: true,
  })
  await app.register(metrics)
  await app.register(passagePlugin)
  await app.register(answers)
  app.get('/', async (request, reply) => {
    request.passage = passage
    void reply.header('x-upstream', 'colour').header('set-cookie', 'a=1')
    throw error
  })
  return { app, logged }
}

describe('the error handler', () => {
  it('answers a denial, counts it, logs it, and keeps it for evidence', async () => {
    const passage = new Passage()
    const { app, logged } = await failing(
      new Denial('revoked', { cause: new Error('why') }),
      passage,
    )
    const answer = await app.inject('/')
    assert.equal(answer.statusCode, 401)
    assert.equal(answer.headers['content-type'], 'application/json')
    assert.equal(answer.json().error_description, 'session revoked')
    assert.equal(passage.denial?.check, 'revoked')
    const flat = await app.meters.flat()
    assert.deepEqual([flat['requests_denied'], flat['denials_revoked']], [1, 1])
    const [line] = logged.map(text => JSON.parse(text))
    // Strangers cause denials as they like: what caused one is told without a stack.
    assert.deepEqual(line.reason, { type: 'Error', message: 'why' })
    assert.equal(line.err, undefined)
    assert.deepEqual(
      [line.check, line.status, line.error, line.dispatched, line.level],
      ['revoked', 401, 'invalid_token', 'no', 30],
    )
    await app.close()
  })

  it('answers an unexpected error with a fixed body, and keeps its message for the log', async () => {
    const { app, logged } = await failing(new TypeError('secret of /srv/app'))
    const answer = await app.inject('/')
    assert.equal(answer.statusCode, 500)
    assert.deepEqual(answer.json(), {
      error: 'internal_error',
      error_description: 'internal error',
      requestId: 'r-1',
      dispatched: 'no',
    })
    assert.ok(!answer.payload.includes('secret'))
    const [line] = logged.map(text => JSON.parse(text))
    assert.deepEqual([line.level, line.check], [50, 'internal_error'])
    assert.ok(line.err.stack.includes('secret of /srv/app'))
    await app.close()
  })

  it('takes an error behind the upstream’s answer for an upstream that broke, and drops its headers', async () => {
    const passage = new Passage()
    const names = ['X-Upstream', 'colour', 'Set-Cookie', 'a=1']
    passage.answer = { statusCode: 200, headers: names, body: Object.create(null) }
    const { app } = await failing(new Error('bad status'), passage)
    const answer = await app.inject('/')
    assert.equal(answer.json().error_description, 'upstream unreachable')
    assert.equal(answer.headers['x-upstream'], undefined)
    assert.equal(answer.headers['set-cookie'], undefined)
    await app.close()
  })

  it('keeps what others have set for whatever the answer is', async () => {
    const { app } = await failing(new Denial('upstream_unreachable'))
    assert.ok((await app.inject('/')).headers['x-upstream'])
    await app.close()
  })

  it('answers a route that does not exist as our own fault: the catch-all must have matched', async () => {
    const { app } = await failing(undefined)
    const answer = await app.inject('/nowhere')
    assert.equal(answer.statusCode, 500)
    assert.equal(answer.json().error, 'internal_error')
    await app.close()
  })
})
