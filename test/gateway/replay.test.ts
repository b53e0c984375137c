// Holds the gateway to one use of each mandate, whatever happens to Redis (contract sections 2 and 3).
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { before, describe, test } from 'node:test'
import { until } from '../until.ts'
import {
  ALONE,
  call,
  type Gateway,
  head,
  type Stack,
  startGateway,
  startStack,
  Wire,
} from './harness.ts'
import { assertRefusal, type Refusal } from './refusal.ts'
import { hasLogged, suiteCleanup } from './support.ts'

const READ_TIMEOUT = 400

const REPLAYED: Refusal = {
  status: 401,
  error: 'invalid_token',
  description: 'token replay detected',
}
const UNKNOWN: Refusal = {
  status: 503,
  error: 'sts_unavailable',
  description: 'replay state unavailable',
}

describe('the gateway', () => {
  const suite = suiteCleanup()
  let stack: Stack
  let second: Gateway

  before(async () => {
    stack = await startStack(suite, {
      env: { ...ALONE, REDIS_READ_TIMEOUT: `${READ_TIMEOUT}ms`, MAX_EVENT_LOOP_DELAY: '60s' },
    })
    second = await startGateway(suite, { ...stack.env, MANDATE_USES: 'gateway,session' })
  })

  const present = (token: string, gateway: Gateway = stack.gateway, id: string = randomUUID()) =>
    call(gateway.url, '/v1/invoices', { token, headers: { 'x-request-id': id } })

  const traces = () => [stack.upstream.arrivals.length, stack.sts.exchanges.length]

  test('leaves evidence of a replay whose caller does not wait for its answer', async () => {
    const token = stack.mint()
    assert.equal((await present(token)).status, 200)
    const reached = traces()
    for (let i = 0; i < 5; i++) {
      const id = randomUUID()
      const wire = new Wire(stack.gateway.port)
      wire.socket.end(`${head('GET /v1/invoices', token, `X-Request-Id: ${id}`)}\r\n`)
      const [event, ...more] = await stack.eventsOf(id)
      assert.equal(event?.event_type, 'replay_detected')
      assert.deepEqual(more, [])
    }
    assert.deepEqual(traces(), reached)
  })

  for (const [name, gateways] of [
    ['one process', () => [stack.gateway]],
    ['two processes', () => [stack.gateway, second]],
  ] as const) {
    test(`admits one of 200 simultaneous uses of a mandate, in ${name}`, async () => {
      const [jti, reached] = [randomUUID(), traces()]
      const token = stack.mint({ jti, agent_session_id: 'agent-1' })
      const each = gateways()
      const answers = await Promise.all(
        Array.from({ length: 200 }, (_, index) => present(token, each[index % each.length])),
      )
      const admitted = answers.filter(({ status }) => status === 200)
      assert.equal(admitted.length, 1)
      for (const answer of answers) if (answer.status !== 200) assertRefusal(answer, REPLAYED)
      assert.deepEqual(
        traces(),
        reached.map(count => count + 1),
      )

      let events = await stack.events()
      await until(async () => {
        events = (await stack.events()).filter(({ metadata_json }) => metadata_json['jti'] === jti)
        return events.length >= 199
      })
      const refused = new Set(answers.map(({ requestId }) => requestId))
      refused.delete(admitted[0]?.requestId ?? '')
      assert.deepEqual(new Set(events.map(({ request_id }) => request_id)), refused)
      assert.equal(events.length, 199)
      for (const { event_type, decision, evaluation_status, metadata_json, request_id } of events) {
        assert.deepEqual(
          [event_type, decision, evaluation_status],
          ['replay_detected', 'deny', 'anomaly'],
        )
        assert.equal(metadata_json['client_id'], 'dev-client')
        assert.equal(metadata_json['request_id'], request_id)
        assert.match(String(metadata_json['subject_fp']), /^[0-9a-f]{16}$/)
        assert.equal(metadata_json['agent_session_id'], 'agent-1')
      }
    })
  }

  test('writes the key that a mixed fleet shares, for as long as the mandate lives', async () => {
    for (const left of [40, 3_000, 253402300799]) {
      const [jti, id] = [`jti:${randomUUID()} ü "x"`, randomUUID()]
      const exp = Math.min(Math.floor(Date.now() / 1000) + left, 253402300799)
      const sentAt = Date.now()
      assert.equal((await present(stack.mint({ jti, exp }), second, id)).status, 200)
      const key = `seen:jti:${jti}`
      const ends = Number(await stack.redis.command('PEXPIRETIME', key))
      // Redis counts from when the command came, and may have a clock that is a millisecond off.
      assert.ok(ends >= exp * 1000 - 2, `${ends}, ${exp}`)
      assert.ok(ends - exp * 1000 <= Date.now() - sentAt + 2, `${ends}, ${exp}`)
      assert.equal(await stack.redis.command('GET', key), id)
    }
  })

  test('takes the key of another gateway for what it is', async () => {
    const jti = randomUUID()
    await stack.redis.command('SET', `seen:jti:${jti}`, 'another', 'PX', 60_000)
    const reached = traces()
    assertRefusal(await present(stack.mint({ jti })), REPLAYED)
    assert.deepEqual(traces(), reached)
    assert.equal(await stack.redis.command('GET', `seen:jti:${jti}`), 'another')
  })

  test('lets the mandate stand when the caller is refused for another reason', async () => {
    const token = stack.mint()
    const wrong = await call(stack.gateway.url, '/v1/../x', { token })
    assert.equal(wrong.status, 400)
    assert.equal((await present(token)).status, 200)
    assertRefusal(await present(token), REPLAYED)
  })

  test('does not consume a session mandate that it was told to accept', async () => {
    const gateway = second
    const jti = randomUUID()
    const token = stack.mint({ jti, use: 'session' })
    for (let use = 0; use < 2; use++) {
      const answer = await present(token, gateway)
      // Past every local check, both times: the STS has its own view of it.
      assert.equal(answer.json()['error_description'], 'subject_token use is not gateway')
    }
    assert.equal(await stack.redis.command('EXISTS', `seen:jti:${jti}`), 0)
    assert.ok(hasLogged(gateway, /MANDATE_USES/), 'it warns at start')
    assertRefusal(await present(stack.mint({ use: 'resource' }), gateway), {
      status: 401,
      error: 'invalid_token',
      description: 'mandate use not accepted',
    })
    const once = stack.mint()
    assert.equal((await present(once, gateway)).status, 200)
    assertRefusal(await present(once, gateway), REPLAYED)
  })

  test('spends mandates in dev without Redis too', async t => {
    const { REDIS_URL: _, ...env } = stack.env
    const gateway = await startGateway(t, { ...env, CARACAL_MODE: 'dev' })
    const token = stack.mint()
    const answers = await Promise.all(Array.from({ length: 20 }, () => present(token, gateway)))
    assert.equal(answers.filter(({ status }) => status === 200).length, 1)
  })

  describe('without Redis', () => {
    test('refuses every use, keeps the evidence, and recovers by itself', async () => {
      const [jti, id] = [randomUUID(), randomUUID()]
      const token = stack.mint({ jti })
      assert.equal((await stack.call()).status, 200)
      const reached = traces()
      await stack.redis.stop()
      const answers = await Promise.all([
        present(token, stack.gateway, id),
        stack.call(),
        stack.call(),
      ])
      for (const answer of answers) assertRefusal(answer, UNKNOWN)
      assertRefusal(await present(token), UNKNOWN)
      const health = await call(stack.gateway.url, '/health', { resource: null })
      assert.equal(health.status, 200)
      assert.deepEqual(traces(), reached)

      await stack.redis.restart()
      await until(async () => (await stack.call()).status === 200)
      assert.equal((await present(token)).status, 200, 'the mandate is still usable')
      assertRefusal(await present(token), REPLAYED)
      const events = await stack.eventsOf(id)
      assert.deepEqual(
        events.map(({ event_type, evaluation_status }) => [event_type, evaluation_status]),
        [['gateway_request_denied', 'replay_state_unavailable']],
      )
    })

    test('refuses within REDIS_READ_TIMEOUT what Redis does not answer', async t => {
      assert.equal((await stack.call()).status, 200)
      const reached = traces()
      stack.redis.pause()
      t.after(() => stack.redis.resume())
      const startedAt = performance.now()
      const answers = await Promise.all(Array.from({ length: 10 }, () => stack.call()))
      const took = performance.now() - startedAt
      for (const answer of answers) assertRefusal(answer, UNKNOWN)
      assert.ok(took >= READ_TIMEOUT * 0.9, `after ${took} ms`)
      assert.ok(took < READ_TIMEOUT + 2_000, `after ${took} ms`)
      assert.deepEqual(traces(), reached)
      stack.redis.resume()
      await until(async () => (await stack.call()).status === 200)
    })

    test('lets requests through in dev where JTI_FAIL_OPEN says so, and says so itself', async t => {
      const gateway = await startGateway(t, {
        ...stack.env,
        CARACAL_MODE: 'dev',
        JTI_FAIL_OPEN: 'true',
        LOG_LEVEL: 'warn',
      })
      const token = stack.mint()
      assert.equal((await present(token, gateway)).status, 200)
      assertRefusal(await present(token, gateway), REPLAYED)
      await stack.redis.stop()
      assert.equal((await present(token, gateway)).status, 200)
      assertRefusal(await present(stack.mint()), UNKNOWN)
      await until(() => hasLogged(gateway, /let through by JTI_FAIL_OPEN/))
      await stack.redis.restart()
    })
  })
})
