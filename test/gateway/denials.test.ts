// Holds every refusal to the row that contract section 2 has for it, and their order to the table's.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { before, describe, test } from 'node:test'
import { createGateway, loadConfig } from '../../app.ts'
import type { Claims, ExchangeOverride } from '../../dev/sts.ts'
import { until } from '../until.ts'
import { type MovableClock, movableClock } from './clock.ts'
import {
  ALONE,
  type Answer,
  call,
  type Gateway,
  head,
  RESOURCE,
  type Stack,
  startGateway,
  startStack,
  Wire,
  ZONE,
} from './harness.ts'
import { assertRefusal, metricsOf, type Refusal, risen } from './refusal.ts'
import { claimsOf, hasLogged, revoke, suiteCleanup, temporaryDirectory } from './support.ts'

const MAX_REQUEST_BYTES = 1024
const UNBOUND = 'resource://unbound'
const REVOKED = 'revoked-session'
const SPENT = 'spent-token-id'

const BINDINGS = {
  version: 1,
  zones: {
    [ZONE]: {
      resources: {
        [RESOURCE]: {
          operations: [
            { method: 'GET', path: '/v1/invoices', scope: 'billing:read' },
            { method: 'POST', path: '/v1/invoices', scope: 'billing:write' },
          ],
        },
      },
    },
    'zone-broken': { resources: { [RESOURCE]: {} } },
  },
}

/** A request that would pass, and what a case changes about it. */
interface Draft {
  method: string
  path: string
  resource: string | string[] | null
  headers: Record<string, string>
  claims: Record<string, unknown>
  jose: Record<string, unknown>
  /** Replaces the claims. */
  payload?: string
  /** Spaces behind the payload's JSON. */
  padding: number
  tampered: boolean
  /** Replaces the whole field; `null` sends none. */
  authorization?: string | null
  body?: Buffer
}

type Change = (draft: Draft) => void

/** A row of the table, and one request that violates it. */
interface Row extends Refusal {
  readonly check: string
  readonly change: Change
  readonly event?: 'gateway_request_denied' | 'replay_detected'
  /** The counter that Caracal's alert rules know. */
  readonly counter?: string
}

const seconds = () => Math.floor(Date.now() / 1000)

/** What is refused before the exchange, in the contract's order. */
const ROWS: readonly Row[] = [
  {
    check: 'malformed_request',
    status: 431,
    error: 'invalid_request',
    description: 'more than 100 header fields',
    change: draft => {
      for (let i = 0; i < 100; i++) draft.headers[`x-field-${i}`] = 'x'
    },
  },
  {
    check: 'missing_bearer',
    status: 401,
    error: 'invalid_token',
    description: 'missing bearer token',
    counter: 'denials_missing_auth',
    change: draft => {
      draft.authorization = null
    },
  },
  {
    check: 'oversized_bearer',
    status: 401,
    error: 'invalid_token',
    description: 'bearer token too large',
    counter: 'denials_bad_bearer',
    change: draft => {
      draft.padding = 4096
    },
  },
  {
    check: 'malformed_bearer',
    status: 401,
    error: 'invalid_token',
    description: 'malformed bearer token',
    counter: 'denials_bad_bearer',
    change: draft => {
      draft.payload = '[]'
    },
  },
  {
    check: 'expiring_bearer',
    status: 401,
    error: 'credential_expired_not_renewable',
    description: 'credential expiring within pre-flight window',
    counter: 'denials_expiring',
    change: draft => {
      draft.claims['exp'] = seconds() + 34
    },
  },
  {
    check: 'client_id_header',
    status: 400,
    error: 'invalid_token',
    description: 'client identity derives from the bearer token',
    counter: 'denials_bad_routing',
    change: draft => {
      draft.headers['x-caracal-client-id'] = 'dev-client'
    },
  },
  {
    check: 'missing_resource_header',
    status: 400,
    error: 'invalid_token',
    description: 'missing routing headers',
    counter: 'denials_bad_routing',
    change: draft => {
      draft.resource = null
    },
  },
  {
    check: 'missing_zone',
    status: 401,
    error: 'invalid_token',
    description: 'missing token zone',
    counter: 'denials_bad_bearer',
    change: draft => {
      draft.claims['zone_id'] = undefined
    },
  },
  {
    check: 'missing_client',
    status: 401,
    error: 'invalid_token',
    description: 'missing token client',
    counter: 'denials_bad_bearer',
    change: draft => {
      draft.claims['client_id'] = undefined
    },
  },
  {
    check: 'path_traversal',
    status: 400,
    error: 'invalid_token',
    description: 'path traversal not permitted',
    counter: 'denials_path_traversal',
    change: draft => {
      draft.path = '/v1/%2e%2e/invoices'
    },
  },
  {
    check: 'unknown_zone',
    status: 403,
    error: 'access_denied',
    description: 'resource not configured',
    counter: 'denials_bad_routing',
    change: draft => {
      draft.claims['zone_id'] = 'zone-stranger'
    },
  },
  {
    check: 'keys_unavailable',
    status: 503,
    error: 'sts_unavailable',
    description: 'signing keys unavailable',
    change: draft => {
      draft.claims['zone_id'] = 'zone-broken'
    },
  },
  {
    check: 'invalid_signature',
    status: 401,
    error: 'invalid_token',
    description: 'bearer signature invalid',
    counter: 'denials_signature',
    change: draft => {
      draft.tampered = true
    },
  },
  {
    check: 'mandate_use',
    status: 401,
    error: 'invalid_token',
    description: 'mandate use not accepted',
    counter: 'denials_bad_bearer',
    event: 'gateway_request_denied',
    change: draft => {
      draft.claims['use'] = 'session'
    },
  },
  {
    check: 'mandate_target',
    status: 403,
    error: 'access_denied',
    description: 'resource not in mandate target',
    counter: 'denials_bad_routing',
    event: 'gateway_request_denied',
    change: draft => {
      draft.claims['target'] = ['resource://other']
    },
  },
  {
    check: 'missing_token_id',
    status: 401,
    error: 'invalid_token',
    description: 'missing token id',
    counter: 'denials_bad_bearer',
    event: 'gateway_request_denied',
    change: draft => {
      draft.claims['jti'] = undefined
    },
  },
  {
    check: 'revoked',
    status: 401,
    error: 'invalid_token',
    description: 'session revoked',
    counter: 'denials_revoked',
    event: 'gateway_request_denied',
    change: draft => {
      draft.claims['sid'] = REVOKED
    },
  },
  {
    check: 'unbound_resource',
    status: 403,
    error: 'access_denied',
    description: 'resource not configured',
    counter: 'denials_bad_routing',
    event: 'gateway_request_denied',
    change: draft => {
      draft.resource = UNBOUND
    },
  },
  {
    check: 'undeclared_operation',
    status: 403,
    error: 'operation_not_permitted',
    description: `operation GET /v1/secrets is not declared for resource ${RESOURCE}`,
    event: 'gateway_request_denied',
    change: draft => {
      draft.path = '/v1/secrets'
    },
  },
  {
    check: 'missing_scope',
    status: 403,
    error: 'operation_not_permitted',
    description: 'scope billing:read is missing',
    event: 'gateway_request_denied',
    change: draft => {
      draft.claims['scope'] = 'billing:write'
    },
  },
  {
    check: 'request_too_large',
    status: 413,
    error: 'payload_too_large',
    description: 'request body too large',
    event: 'gateway_request_denied',
    change: draft => {
      draft.body = Buffer.alloc(MAX_REQUEST_BYTES + 1, 'canary of the body ')
    },
  },
  {
    check: 'replayed',
    status: 401,
    error: 'invalid_token',
    description: 'token replay detected',
    counter: 'denials_jti_replay',
    event: 'replay_detected',
    change: draft => {
      draft.claims['jti'] = SPENT
    },
  },
]

/** Further ways to violate a row. */
const VARIANTS: readonly (readonly [check: string, name: string, change: Change])[] = [
  ['missing_bearer', 'another scheme', authorization('Basic dXNlcjpwYXNz')],
  ['missing_bearer', 'a scheme alone', authorization('Bearer')],
  ['missing_bearer', 'an empty token', authorization('Bearer ')],
  ['missing_bearer', 'a scheme that begins like it', authorization('Bearerx a.b.c')],
  [
    'oversized_bearer',
    '4097 bytes of no token at all',
    authorization(`Bearer ${'x'.repeat(4097)}`),
  ],
  ['malformed_bearer', 'one part', authorization('Bearer token')],
  ['malformed_bearer', 'two parts', authorization('Bearer e30.e30')],
  ['malformed_bearer', 'four parts', authorization('Bearer e30.e30.e30.e30')],
  ['malformed_bearer', 'a payload that is no base64url', authorization('Bearer e30.{}.e30')],
  ['malformed_bearer', 'a payload that is no JSON', payload('{"exp":')],
  ['malformed_bearer', 'a payload that is null', payload('null')],
  ['malformed_bearer', 'a payload that is a text', payload('"text"')],
  ['malformed_bearer', 'no exp', claim('exp', undefined)],
  ['malformed_bearer', 'exp as a text', claim('exp', '4102444800')],
  ['malformed_bearer', 'exp null', claim('exp', null)],
  ['malformed_bearer', 'exp with a fraction', claim('exp', 4102444800.5)],
  ['malformed_bearer', 'exp 0', claim('exp', 0)],
  ['malformed_bearer', 'exp below 0', claim('exp', -4102444800)],
  ['malformed_bearer', 'exp a second too far', claim('exp', 253402300800)],
  ['malformed_bearer', 'exp of 1e308', payload('{"exp":1e308}')],
  ['malformed_bearer', 'exp beyond all numbers', payload('{"exp":1e999}')],
  ['expiring_bearer', 'exp long past', claim('exp', 1)],
  ['client_id_header', 'an empty one', header('x-caracal-client-id', '')],
  ['missing_resource_header', 'an empty one', resource('')],
  ['missing_resource_header', 'white space', resource(' \t ')],
  ['missing_resource_header', 'sent twice', resource([RESOURCE, RESOURCE])],
  ['missing_zone', 'an empty one', claim('zone_id', '')],
  ['missing_zone', 'a number', claim('zone_id', 1)],
  ['missing_zone', 'a list', claim('zone_id', [ZONE])],
  ['missing_zone', 'a space in it', claim('zone_id', 'zone 1')],
  ['missing_zone', 'a line feed behind it', claim('zone_id', `${ZONE}\n`)],
  ['missing_zone', '129 characters', claim('zone_id', 'z'.repeat(129))],
  ['missing_client', 'an empty one', claim('client_id', '')],
  ['missing_client', 'an object', claim('client_id', {})],
  ['missing_client', 'a slash in it', claim('client_id', 'a/b')],
  ['missing_client', '129 characters', claim('client_id', 'c'.repeat(129))],
  ['unknown_zone', '128 characters', claim('zone_id', 'z'.repeat(128))],
  ['unknown_zone', 'the name of a member of every object', claim('zone_id', 'constructor')],
  ['invalid_signature', 'no kid', jose({ kid: undefined })],
  ['invalid_signature', 'alg none', jose({ alg: 'none' })],
  ['mandate_use', 'no use', claim('use', undefined)],
  ['mandate_use', 'a list', claim('use', ['gateway'])],
  ['mandate_use', 'in capitals', claim('use', 'GATEWAY')],
  ['mandate_target', 'an empty list', claim('target', [])],
  ['mandate_target', 'null', claim('target', null)],
  ['mandate_target', 'an object that has it', claim('target', { [RESOURCE]: true })],
  ['mandate_target', 'a resource that begins like it', claim('target', [`${RESOURCE}/`])],
  ['missing_token_id', 'an empty one', claim('jti', '')],
  ['missing_token_id', 'a number', claim('jti', 7)],
  ['revoked', 'by root_sid', claim('root_sid', REVOKED)],
]

function claim(name: string, value: unknown): Change {
  return draft => {
    draft.claims[name] = value
  }
}
function payload(text: string): Change {
  return draft => {
    draft.payload = text
  }
}
function authorization(value: string): Change {
  return draft => {
    draft.authorization = value
  }
}
function header(name: string, value: string): Change {
  return draft => {
    draft.headers[name] = value
  }
}
function resource(value: string | string[]): Change {
  return draft => {
    draft.resource = value
  }
}
function jose(members: Claims): Change {
  return draft => {
    Object.assign(draft.jose, members)
  }
}

describe('the gateway', () => {
  const suite = suiteCleanup()
  const tokens: string[] = []
  let stack: Stack
  let clock: MovableClock
  /** Has room for two requests at a time, and a clock that can be moved. */
  let second: Gateway

  before(async () => {
    const bindings = `${await temporaryDirectory(suite)}/bindings.json`
    await writeFile(bindings, JSON.stringify(BINDINGS))
    stack = await startStack(suite, {
      env: {
        BINDINGS_FILE: bindings,
        MAX_REQUEST_BYTES: String(MAX_REQUEST_BYTES),
        STS_TIMEOUT: '400ms',
        UPSTREAM_TIMEOUT: '400ms',
        // No backlog of cases may look like overload on a busy machine.
        MAX_EVENT_LOOP_DELAY: '60s',
        LOG_LEVEL: 'trace',
      },
    })
    clock = await movableClock(suite)
    second = await startGateway(suite, { ...stack.env, ...clock.env, MAX_IN_FLIGHT: '2' })
    stack.sts.setJwks('zone-broken', { status: 500 })
    await revoke(stack.redis, { session_id: REVOKED })
    await until(async () => (await stack.metric('revocations_active')) === 1)
    assert.equal((await send({ claims: { jti: SPENT } })).status, 200)
  })

  function draftOf(given: { claims?: Claims } = {}): Draft {
    return {
      method: 'GET',
      path: '/v1/invoices',
      resource: RESOURCE,
      headers: {},
      claims: { target: [RESOURCE, UNBOUND], scope: 'billing:read', ...given.claims },
      jose: {},
      padding: 0,
      tampered: false,
    }
  }

  function tokenOf({ claims, jose, payload, padding, tampered }: Draft): string {
    const text = payload ?? JSON.stringify(claimsOf(stack.mint(claims)))
    const token = stack.sts.sign(jose, text + ' '.repeat(padding), { zone: ZONE })
    tokens.push(token)
    if (!tampered) return token
    const at = token.lastIndexOf('.') + 1
    return token.slice(0, at) + (token[at] === 'A' ? 'B' : 'A') + token.slice(at + 1)
  }

  /** Sends the request with these changes; where two change the same, the last one counts. */
  async function send(
    given: { claims?: Claims; gateway?: Gateway } = {},
    ...changes: readonly Change[]
  ): Promise<Answer> {
    const draft = draftOf(given)
    for (const change of changes) change(draft)
    const { method, headers, body } = draft
    // What must show up in no log and in no evidence.
    const path = `${draft.path}?q=canary-of-the-query`
    const field =
      draft.authorization === undefined ? `Bearer ${tokenOf(draft)}` : draft.authorization
    return call((given.gateway ?? stack.gateway).url, path, {
      method,
      resource: null,
      headers: {
        ...headers,
        ...(draft.resource !== null && { 'x-caracal-resource': draft.resource }),
        ...(field !== null && { authorization: field }),
      },
      ...(body !== undefined && { body }),
    })
  }

  /** A good request whose evidence is in the ledger, and with it all that was due before. */
  async function barrier(): Promise<void> {
    const answer = await send()
    assert.equal(answer.status, 200, answer.text)
    await stack.eventsOf(answer.requestId)
  }

  const traces = () => [
    stack.upstream.arrivals.length,
    stack.sts.exchanges.length,
    stack.sts.jwksRequests.length,
  ]

  const spentKeys = async () => {
    const keys = await stack.redis.command('KEYS', 'seen:jti:*')
    return Array.isArray(keys) ? keys.length : Number.NaN
  }

  describe('refuses ahead of the exchange', () => {
    for (const row of ROWS) {
      test(row.check, async () => {
        const jti = row.check === 'replayed' ? SPENT : randomUUID()
        const [reached, spent, counted] = [
          traces(),
          await spentKeys(),
          await metricsOf(stack.gateway.url),
        ]
        const answer = await send({ claims: { jti } }, row.change)
        assertRefusal(answer, row)

        const rise = risen(counted, await metricsOf(stack.gateway.url))
        if (row.check === 'keys_unavailable') {
          reached[2] = (reached[2] ?? 0) + 1
          assert.equal(rise['jwks_refetch_total{reason="first"}'], 1)
          delete rise['jwks_refetch_total{reason="first"}']
        }
        assert.deepEqual(rise, {
          requests_total: 1,
          requests_denied_total: 1,
          [`denials_total{check="${row.check}"}`]: 1,
          ...(row.counter !== undefined && { [`${row.counter}_total`]: 1 }),
        })
        assert.deepEqual(traces(), reached, 'nothing reached the upstream or the STS')
        assert.equal(await spentKeys(), spent, 'no mandate was spent')

        await barrier()
        const events = (await stack.events()).filter(
          ({ request_id }) => request_id === answer.requestId,
        )
        assert.deepEqual(
          events.map(({ event_type, decision }) => [event_type, decision]),
          row.event === undefined ? [] : [[row.event, 'deny']],
        )
        if (row.event === 'gateway_request_denied') {
          assert.equal(events[0]?.evaluation_status, row.check)
          assert.equal(events[0]?.metadata_json['reason'], row.check)
        }
        if (row.event === 'replay_detected') {
          assert.equal(events[0]?.evaluation_status, 'anomaly')
          assert.equal(events[0]?.metadata_json['jti'], SPENT)
        } else {
          assert.equal((await send({ claims: { jti } })).status, 200, 'the mandate is still usable')
        }
      })
    }

    for (const [check, name, change] of VARIANTS) {
      test(`${check}: ${name}`, async () => {
        const [reached, spent] = [traces(), await spentKeys()]
        const row = ROWS.find(each => each.check === check)
        assert.ok(row)
        assertRefusal(await send({}, change), row)
        assert.deepEqual(traces(), reached)
        assert.equal(await spentKeys(), spent)
      })
    }

    test('whatever two rows a request violates, as the earlier one', async () => {
      const reached = traces()
      const [upstreamBefore, exchangesBefore] = reached
      const spent = await spentKeys()
      for (const [index, earlier] of ROWS.entries()) {
        for (const later of ROWS.slice(index + 1)) {
          const answer = await send({}, later.change, earlier.change)
          assert.equal(answer.status, earlier.status, `${earlier.check} + ${later.check}`)
          assert.equal(answer.json()['error_description'], earlier.description, later.check)
        }
      }
      const all = ROWS.toReversed().map(({ change }) => change)
      const answer = await send({}, ...all)
      assert.equal(answer.json()['error_description'], ROWS[0]?.description)
      assert.deepEqual(traces().slice(0, 2), [upstreamBefore, exchangesBefore])
      assert.equal(await spentKeys(), spent)
    })

    test('nothing at the limits of what passes', async () => {
      const cases: Change[] = [
        draft => {
          for (let i = 0; i < 94; i++) draft.headers[`x-field-${i}`] = 'x'
        },
        draft => {
          draft.padding = 4096
          const over = tokenOf(draft).length - 4096
          // Four characters of the token carry three of the payload.
          draft.padding -= Math.ceil((over * 3) / 4)
          const size = tokenOf(draft).length
          assert.ok(size <= 4096 && size > 4092, `${size}`)
        },
        claim('exp', seconds() + 37),
        claim('exp', 253402300799),
        claim('client_id', 'c:._-'.repeat(25)),
        claim('scope', ' a  billing:read b'),
        draft => {
          draft.method = 'POST'
          draft.claims['scope'] = 'billing:write'
          draft.body = Buffer.alloc(MAX_REQUEST_BYTES)
        },
        header('authorization-info', 'x'),
      ]
      for (const [index, change] of cases.entries()) {
        const answer = await send({}, change)
        assert.equal(answer.status, 200, `${index}: ${answer.text}`)
      }
      for (const target of [undefined, RESOURCE]) {
        const answer = await send({}, claim('target', target))
        const { error_description: told } = answer.json()
        assert.equal(told, 'resource is not in the target of the token', 'the STS wants a list')
      }
      const lowerCase = await send({}, draft => {
        draft.authorization = `bEARER ${tokenOf(draft)}`
      })
      assert.equal(lowerCase.status, 200)
    })
  })

  describe('refuses after the mandate was spent', () => {
    interface Late extends Refusal {
      readonly check: string
      readonly name?: string
      readonly respond?: ExchangeOverride
      readonly handler?: Stack['upstream']['handler']
      /** Of a `gateway_resource_request`: its `evaluation_status` and `error_kind`. */
      readonly outcome?: readonly [string, string | undefined]
      readonly denied?: boolean
      readonly counters?: Readonly<Record<string, number>>
    }
    const refused = { sts_exchange_errors_total: 1, sts_exchange_refused_total: 1 }
    const unavailable = { sts_exchange_errors_total: 1, sts_exchange_unavailable_total: 1 }
    const sts = { error: 'sts_unavailable', counters: unavailable, denied: true }
    const nobody = 'http://127.0.0.1:1'
    const LATE: readonly Late[] = [
      {
        check: 'sts_refused',
        name: 'in its own words',
        status: 403,
        error: 'approval_required',
        description: 'a person must approve',
        members: { approval_id: 'a-1', details: [{ tier: 2 }] },
        headers: { 'www-authenticate': 'Bearer error="step_up"' },
        respond: {
          status: 403,
          headers: { 'www-authenticate': 'Bearer error="step_up"' },
          body: {
            error: 'approval_required',
            error_description: 'a person must approve',
            approval_id: 'a-1',
            details: [{ tier: 2 }],
            requestId: 'of the STS',
            dispatched: 'of the STS',
          },
        },
        counters: refused,
      },
      {
        check: 'sts_refused',
        name: 'without JSON',
        status: 503,
        error: 'sts_unavailable',
        description: 'Service Unavailable',
        headers: { 'retry-after': '17' },
        respond: { status: 503, headers: { 'retry-after': '17' }, body: '<html>' },
        counters: refused,
      },
      {
        check: 'sts_unreachable',
        ...sts,
        status: 502,
        description: 'sts unavailable',
        respond: { destroy: 'before' },
      },
      {
        check: 'sts_timeout',
        ...sts,
        status: 504,
        description: 'sts timeout',
        respond: { delay: 700 },
      },
      {
        check: 'sts_response_invalid',
        ...sts,
        status: 502,
        description: 'sts response invalid',
        respond: { answer: { access_token: undefined } },
      },
      {
        check: 'unrouted_resource',
        status: 403,
        error: 'access_denied',
        description: 'resource upstream not configured',
        respond: { answer: { upstreams: {} } },
        outcome: ['upstream_rejected', undefined],
      },
      {
        check: 'unsafe_upstream',
        status: 502,
        error: 'internal_error',
        description: 'upstream not addressable',
        respond: { directive: { url: 'http://169.254.169.254/', auth_mode: 'none' } },
        outcome: ['upstream_rejected', 'upstream_not_addressable'],
      },
      {
        check: 'credential_host',
        status: 502,
        error: 'internal_error',
        description: 'provider credential not allowed for upstream host',
        respond: {
          directive: {
            url: nobody,
            auth_mode: 'provider_apikey',
            provider_token: 'key',
            allowed_token_hosts: ['api.example'],
          },
        },
        outcome: ['upstream_rejected', 'provider_host_not_allowed'],
      },
      {
        check: 'request_build_failed',
        status: 400,
        error: 'internal_error',
        description: 'upstream request build failed',
        respond: { directive: { url: nobody, auth_mode: 'mystery' } },
        outcome: ['build_failed', 'request_build_failed'],
      },
      {
        check: 'upstream_unreachable',
        name: 'that nobody listens on',
        status: 502,
        error: 'internal_error',
        description: 'upstream unreachable',
        respond: { directive: { url: nobody, auth_mode: 'none' } },
        outcome: ['upstream_error', 'transport_error'],
        counters: { requests_allowed_total: 1, upstream_errors_total: 1 },
      },
      {
        check: 'upstream_unreachable',
        name: 'that hangs up on the request',
        status: 502,
        error: 'internal_error',
        description: 'upstream unreachable',
        dispatched: 'unknown',
        handler: request => void request.socket.destroy(),
        outcome: ['upstream_error', 'transport_error'],
        counters: { requests_allowed_total: 1, upstream_errors_total: 1 },
      },
      {
        check: 'upstream_timeout',
        status: 504,
        error: 'internal_error',
        description: 'upstream timeout',
        dispatched: 'unknown',
        handler: () => undefined,
        outcome: ['upstream_error', 'transport_error'],
        counters: { requests_allowed_total: 1, upstream_errors_total: 1 },
      },
    ]

    for (const row of LATE) {
      test(row.name === undefined ? row.check : `${row.check}: ${row.name}`, async () => {
        const { arrivals, handler } = stack.upstream
        const [arrived, exchanged] = [arrivals.length, stack.sts.exchanges.length]
        const counted = await metricsOf(stack.gateway.url)
        const jti = randomUUID()
        if (row.respond !== undefined) stack.sts.respond = () => row.respond
        if (row.handler !== undefined) stack.upstream.handler = row.handler
        const answer = await send({ claims: { jti } })
        stack.sts.respond = undefined
        stack.upstream.handler = handler
        assertRefusal(answer, { ...row, spent: true })

        assert.deepEqual(risen(counted, await metricsOf(stack.gateway.url)), {
          requests_total: 1,
          requests_denied_total: 1,
          [`denials_total{check="${row.check}"}`]: 1,
          ...row.counters,
        })
        assert.equal(stack.sts.exchanges.length, exchanged + 1, 'one exchange, not repeated')
        assert.equal(arrivals.length, arrived + (row.dispatched === 'unknown' ? 1 : 0))
        assert.equal((await send({ claims: { jti } })).json()['error_description'], REPLAYED)

        await barrier()
        const events = (await stack.events()).filter(
          ({ request_id }) => request_id === answer.requestId,
        )
        const told = events.map(event => [
          event.event_type,
          event.evaluation_status,
          event.metadata_json['error_kind'],
          event.metadata_json['gateway_status'],
        ])
        if (row.outcome !== undefined) {
          assert.deepEqual(told, [['gateway_resource_request', ...row.outcome, row.status]])
        } else if (row.denied === true) {
          assert.deepEqual(told, [['gateway_request_denied', row.check, undefined, row.status]])
        } else assert.deepEqual(told, [], 'the STS audits what it refuses')
      })
    }
  })

  describe('tells which request it means', () => {
    const kept = ['7', '!~', 'a'.repeat(128), '0b6e7a52-1f3e-4f4e-9d0e-8f1d5a1c2b3d']
    const replaced: readonly (string | string[])[] = [
      '',
      ' ',
      'a'.repeat(129),
      'two words',
      'caf\u00e9',
      ['one', 'two'],
    ]
    const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

    for (const [name, token, path] of [
      ['a refusal', null, '/v1/invoices'],
      ['a proxied answer', 'fresh', '/v1/invoices'],
      ['an answer of its own', null, '/health'],
    ] as const) {
      test(`on ${name}`, async () => {
        const ask = (id: string | string[]) =>
          call(stack.gateway.url, path, {
            token: token === null ? null : stack.mint({ scope: 'billing:read' }),
            headers: { 'x-request-id': id },
          })
        for (const id of kept) assert.equal((await ask(id)).headers['x-request-id'], id)
        for (const id of replaced) {
          const answer = await ask(id)
          assert.match(answer.requestId, UUID, JSON.stringify(id))
          if (token !== null) {
            const arrival = stack.upstream.arrivals.at(-1)
            assert.equal(arrival?.headers['x-request-id'], answer.requestId)
          }
        }
      })
    }
  })

  test('answers a fault of its own without a word about it', async t => {
    const app = await createGateway(
      loadConfig({ CARACAL_MODE: 'dev', STS_URL: stack.sts.url, LOG_LEVEL: 'silent' }),
    )
    t.after(() => app.close())
    app.get('/fault', () => {
      throw new Error('canary')
    })
    const { statusCode, headers, body } = await app.inject('/fault')
    assertRefusal(
      {
        status: statusCode,
        headers: { ...headers, 'content-length': undefined },
        text: body,
        json: () => JSON.parse(body),
        requestId: String(headers['x-request-id']),
      },
      { status: 500, error: 'internal_error', description: 'internal error' },
    )
  })

  test('writes no token, credential, query or body into its log or its evidence', async () => {
    const logged = stack.gateway.output()
    const evidence = JSON.stringify(await stack.events())
    assert.ok(logged.length > 10_000 && evidence.length > 10_000)
    assert.ok(tokens.length > 300)
    for (const token of tokens) {
      const [, claims = '', signature = ''] = token.split('.')
      for (const part of [claims, signature]) {
        if (part.length < 20) continue
        assert.equal(logged.includes(part), false)
        assert.equal(evidence.includes(part), false)
      }
    }
    assert.doesNotMatch(logged + evidence, /canary|dXNlcjpwYXNz/)
    // Nor did anything go wrong that nobody had thought of.
    assert.doesNotMatch(logged, /unhandled|"level":60/i)
  })

  test('refuses CONNECT, and opens no tunnel', async () => {
    const reached = traces()
    const counted = await metricsOf(stack.gateway.url)
    const wire = new Wire(stack.gateway.port)
    wire.send(`${head(`CONNECT 127.0.0.1:${stack.upstream.port}`, stack.mint())}\r\n`)
    const text = await wire.ended()
    assert.match(text, /^HTTP\/1\.1 405 Method Not Allowed\r\n/)
    for (const line of [
      'content-type: application/json',
      'cache-control: no-store',
      'x-caracal-dispatched: no',
    ]) {
      assert.ok(text.includes(`\r\n${line}\r\n`), line)
    }
    const body = JSON.parse(text.slice(text.indexOf('\r\n\r\n')))
    const requestId = /x-request-id: (\S+)/.exec(text)?.[1]
    assert.deepEqual(body, {
      error: 'invalid_request',
      error_description: 'method not allowed',
      requestId,
      dispatched: 'no',
    })
    const rise = risen(counted, await metricsOf(stack.gateway.url))
    assert.equal(rise['denials_total{check="method_not_allowed"}'], 1)
    assert.deepEqual(traces(), reached)
  })

  test('refuses what it has no room for, and takes it later', async t => {
    const gateway = second
    const { handler, arrivals } = stack.upstream
    const arrived = arrivals.length
    const held: (() => void)[] = []
    stack.upstream.handler = (_request, response) => void held.push(() => response.end('late'))
    t.after(() => {
      stack.upstream.handler = handler
    })
    const slow = [send({ gateway }), send({ gateway })]
    await until(() => held.length === 2)
    const jti = randomUUID()
    const refused = await send({ gateway, claims: { jti } }, draft => {
      draft.path = '/../x'
      for (let i = 0; i < 100; i++) draft.headers[`x-field-${i}`] = 'x'
    })
    assertRefusal(refused, {
      status: 503,
      error: 'overloaded',
      description: 'gateway overloaded',
    })
    assert.equal(arrivals.length, arrived + 2)
    for (const release of held) release()
    for (const answer of await Promise.all(slow)) assert.equal(answer.text, 'late')
    stack.upstream.handler = handler
    assert.equal((await send({ gateway, claims: { jti } })).status, 200)
  })

  test('refuses a body that grows too large while it streams', async () => {
    const exchanged = stack.sts.exchanges.length
    const grows = new Wire(stack.gateway.port)
    const mandate = stack.mint({ scope: 'billing:write' })
    grows.send(`${head('POST /v1/invoices', mandate, 'Transfer-Encoding: chunked')}\r\n`)
    for (let i = 0; i < 3; i++) grows.send(`200\r\n${'x'.repeat(512)}\r\n`)
    const tooLarge = await grows.ended()
    assert.match(tooLarge, /^HTTP\/1\.1 413 /)
    assert.match(
      tooLarge,
      /"error":"payload_too_large","error_description":"request body too large"/,
    )
    assert.match(tooLarge, /x-caracal-dispatched: unknown\r\nx-should-retry: false\r\n/)
    assert.equal(stack.sts.exchanges.length, exchanged + 1)
  })

  describe('refuses everything', () => {
    async function allow(command: string): Promise<void> {
      await stack.redis.command('ACL', 'SETUSER', 'default', command)
    }

    test('while it does not know what has been revoked', async t => {
      const gateway = second
      assert.equal((await send({ gateway })).status, 200)
      await allow('-xread')
      t.after(() => allow('+xread'))
      // Ends the read that waits.
      await revoke(stack.redis, { session_id: 'anybody' })
      await until(() => hasLogged(gateway, /^revocations cannot be read$/))
      assert.equal((await send({ gateway })).status, 200, 'what it knows is fresh for 70 s')
      const reached = traces()
      const gauges = await metricsOf(gateway.url)
      const age = gauges.get('caracal_gateway_revocation_snapshot_age_seconds') ?? Number.NaN
      // What is left of the 70 s, but for some seconds that the test itself may take.
      await clock.advance((65 - age) * 1_000)
      const answer = await send({ gateway }, claim('scope', ''))
      assert.equal(answer.status, 403, answer.text)
      await clock.advance(5_000)
      const stale: Refusal = {
        status: 503,
        error: 'sts_unavailable',
        description: 'revocation state unavailable',
      }
      const jti = randomUUID()
      const counted = await metricsOf(gateway.url)
      assertRefusal(await send({ gateway, claims: { jti } }), stale)
      assert.deepEqual(risen(counted, await metricsOf(gateway.url)), {
        requests_total: 1,
        requests_denied_total: 1,
        'denials_total{check="revocation_state_unavailable"}': 1,
        denials_revocation_stale_total: 1,
      })
      assertRefusal(await send({ gateway }, authorization('')), stale)
      assert.equal((await send({ gateway }, ROWS[0]?.change ?? assert.fail())).status, 431)
      const ready = await call(gateway.url, '/ready', { resource: null })
      assert.deepEqual(ready.json(), {
        ok: false,
        ready: false,
        reason: 'revocation_snapshot_stale',
      })
      assert.deepEqual(traces(), reached)
      await allow('+xread')
      await until(async () => (await send({ gateway, claims: { jti } })).status === 200)
    })

    test('while it could keep no evidence, and loses none', async t => {
      const gateway = await startGateway(t, {
        ...stack.env,
        ...ALONE,
        // Without a replay directory evidence has nowhere to go but memory.
        CARACAL_MODE: 'dev',
        AUDIT_REPLAY_DIR: '',
        LOG_LEVEL: 'error',
        MAX_IN_FLIGHT: '100000',
        // However slow the machine is at 10,000 signatures, nothing else refuses what is to leave evidence.
        MAX_EVENT_LOOP_DELAY: '5m',
        READ_HEADER_TIMEOUT: '2m',
        READ_TIMEOUT: '5m',
      })
      // The zone's keys are at hand before the loop is held up: none of these waits for a fetch.
      assert.equal((await send({ gateway, claims: { use: 'session' } })).status, 401)
      const depth = async () =>
        (await metricsOf(gateway.url)).get('caracal_gateway_audit_queue_depth')
      await until(async () => (await depth()) === 0)
      await allow('-xadd')
      t.after(() => allow('+xadd'))
      // 10,000 events may wait, and each of these leaves one.
      const token = stack.mint({ use: 'session' })
      const request = `${head('GET /v1/invoices', token)}\r\n`
      const last = `${head('GET /v1/invoices', token, 'Connection: close')}\r\n`
      const wires = Array.from({ length: 10 }, () => new Wire(gateway.port))
      for (const wire of wires) wire.send(request.repeat(999) + last)
      for (const wire of wires) {
        const answered = await wire.ended(90_000)
        const statuses = answered.match(/^HTTP\/1\.1 .*|(?<="error_description":)"[^"]*"/gm) ?? []
        assert.deepEqual(
          Object.groupBy(statuses, status => status)['"mandate use not accepted"']?.length,
          1_000,
          [...new Set(statuses)].join(', '),
        )
      }
      const lost = 'evidence_unavailable'
      const refusal: Refusal = {
        status: 503,
        error: 'internal_error',
        description: 'audit evidence unavailable',
      }
      const reached = traces()
      const jti = randomUUID()
      const counted = await metricsOf(gateway.url)
      assertRefusal(await send({ gateway, claims: { jti } }), refusal)
      assert.equal(
        risen(counted, await metricsOf(gateway.url))[`denials_total{check="${lost}"}`],
        1,
      )
      assertRefusal(await send({ gateway }, authorization('')), refusal)
      assert.equal((await send({ gateway }, ROWS[0]?.change ?? assert.fail())).status, 431)
      assert.deepEqual(traces(), reached)
      assert.equal(counted.get('caracal_gateway_audit_queue_depth'), 10_000)
      assert.equal(counted.get('caracal_gateway_audit_dropped_total'), 0)
      const before = Number(await stack.redis.command('XLEN', 'caracal.audit.events'))
      await allow('+xadd')
      await until(async () => (await send({ gateway, claims: { jti } })).status === 200)
      await until(async () => {
        const length = Number(await stack.redis.command('XLEN', 'caracal.audit.events'))
        return length === before + 10_001
      }, 20_000)
    })
  })
})

const REPLAYED = 'token replay detected'
