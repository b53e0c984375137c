// Holds evidence, journal and log to tell nothing secret, whoever puts it wherever: a caller, the STS, an upstream
// (contract section 8).
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import type { Claims, Directive, ExchangeOverride } from '../../dev/sts.ts'
import { lastFirst } from '../cleanup.ts'
import { freePort } from '../redis.ts'
import { until } from '../until.ts'
import {
  ALONE,
  type AuditEvent,
  type CallOptions,
  type Stack,
  startStack,
  Wire,
} from './harness.ts'
import { startRawUpstream } from './raw.ts'
import { filesIn, temporaryDirectory } from './support.ts'

/** Must be nowhere. */
const SECRET = 'cAnArY'
/** May be where the contract wants it, and nowhere else. */
const KNOWN = 'vIsIbLe'

/** Where a caller's words go by right: members of an event, of its metadata, and of a line of the log. */
const PLACES = {
  event: ['request_id'],
  metadata: [
    'application_id',
    'resource',
    'agent_session_id',
    'delegation_edge_id',
    'jti',
    'client_id',
    'request_id',
    'provider_id',
    'connection_id',
  ],
  log: ['reqId', 'resource', 'client'],
}

const word = fc.stringMatching(/^[A-Za-z0-9]{1,12}$/).map(text => `${SECRET}-${text}`)
const name = fc.stringMatching(/^[A-Za-z0-9]{1,12}$/).map(text => `${KNOWN}-${text}`)

/** Headers that a client may send as it likes; the gateway tells of none. */
const HEADERS = [
  'cookie',
  'user-agent',
  'referer',
  'origin',
  'x-api-key',
  'proxy-authorization',
  'baggage',
  'tracestate',
  'traceparent',
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  'x-real-ip',
  'x-caracal-identity',
  'mcp-session-id',
  'last-event-id',
  'content-type',
  'content-encoding',
  'accept',
  'host',
  `x-${SECRET}`,
]

/** Claims that no event tells of. */
const CLAIMS = ['sub', 'sub_type', 'sid', 'root_sid', 'scope', 'email', 'nested', 'act', SECRET]

const requests = fc.record({
  method: fc.constantFrom('GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND'),
  segment: word,
  query: fc.dictionary(word, word, { maxKeys: 3 }),
  headers: fc.dictionary(fc.constantFrom(...HEADERS), word, { maxKeys: HEADERS.length }),
  body: fc.option(word, { nil: undefined }),
  claims: fc.dictionary(fc.constantFrom(...CLAIMS), word, { maxKeys: CLAIMS.length }),
  names: fc.record({
    requestId: name,
    jti: name,
    client_id: name,
    agent_session_id: name,
    delegation_edge_id: name,
  }),
  fate: fc.constantFrom('ok', '500', 'replay', 'use', 'unreachable', 'resource', 'signature'),
})

/** What else can go wrong with an answer of the STS or of an upstream. */
interface Trouble {
  readonly status: number
  readonly respond?: ExchangeOverride
  readonly directive?: Directive
  readonly claims?: Claims
  readonly path?: string
  readonly options?: CallOptions
}

const credential = `${SECRET}-credential`
const apiKey = { auth_mode: 'provider_apikey', auth_header: 'x-key', provider_token: credential }
const refusal = {
  error: 'approval_required',
  error_description: SECRET,
  details: { [SECRET]: SECRET },
  state: SECRET,
}
const json = { 'content-type': 'application/json' }

const TROUBLES: Readonly<Record<string, Trouble>> = {
  'the STS refuses': {
    status: 403,
    respond: { status: 403, body: refusal, headers: { ...json, 'www-authenticate': SECRET } },
  },
  'the STS refuses in other words': { status: 400, respond: { status: 400, body: SECRET } },
  'the STS fails': { status: 502, respond: { status: 502, body: SECRET } },
  'the STS answers no JSON': { status: 502, respond: { body: SECRET, headers: json } },
  'the STS redirects': {
    status: 502,
    respond: { status: 302, headers: { location: `http://${SECRET}/${SECRET}` } },
  },
  'the STS grants no token': {
    status: 502,
    respond: { answer: { access_token: undefined, token_type: SECRET, scope: SECRET } },
  },
  'the token is the credential': {
    status: 200,
    respond: { answer: { access_token: SECRET } },
    directive: { auth_mode: 'caracal_jwt', auth_scheme: SECRET },
  },
  'the token goes beside the credential': {
    status: 200,
    respond: { answer: { access_token: SECRET } },
    directive: { ...apiKey, forward_caracal_identity: true },
  },
  'the credential goes into the query': {
    status: 200,
    directive: { ...apiKey, auth_location: 'query', query_param_name: SECRET },
  },
  'the credential is no field value': {
    status: 400,
    directive: { ...apiKey, provider_token: `${credential}\r\n` },
  },
  'the header is no field name': {
    status: 400,
    directive: { ...apiKey, auth_header: `${SECRET} ` },
  },
  'the place is none': { status: 400, directive: { ...apiKey, auth_location: SECRET } },
  'the host is not one for the credential': {
    status: 502,
    directive: { ...apiKey, allowed_token_hosts: [SECRET] },
  },
  'the destination holds a password': {
    status: 502,
    directive: { ...apiKey, url: `http://${SECRET}:${SECRET}@127.0.0.1/${SECRET}` },
  },
  'the destination is none': {
    status: 502,
    directive: { ...apiKey, url: `${SECRET}://${SECRET}` },
  },
  'the resource has no directive': {
    status: 403,
    respond: { answer: { upstreams: { [SECRET]: { url: SECRET, provider_token: SECRET } } } },
  },
  'the mandate is of another use': { status: 401, claims: { use: SECRET } },
  'the mandate is for another resource': { status: 403, claims: { target: [SECRET] } },
  'the zone is none': { status: 401, claims: { zone_id: `${SECRET}/` } },
  'the client is none': { status: 401, claims: { client_id: `${SECRET}/` } },
  'the path leads out': { status: 400, path: `/../${SECRET}?${SECRET}` },
  'the client names itself': {
    status: 400,
    options: { headers: { 'x-caracal-client-id': SECRET } },
  },
  'the bearer is none': { status: 401, options: { token: `${SECRET}.${SECRET}.${SECRET}` } },
  'the bearer is long': { status: 401, options: { token: SECRET.repeat(1_000) } },
  'the scheme is another': {
    status: 401,
    options: { token: null, headers: { authorization: `Basic ${SECRET}` } },
  },
}

/** Requests that the parser refuses. */
const GARBLED = [
  `GET /${SECRET} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${SECRET}\r\n${SECRET} ${SECRET}: a\r\n\r\n`,
  `${SECRET} /${SECRET}?${SECRET}=1 HTTP/1.1\r\nHost: a\r\n\r\n`,
  `GET /${SECRET} HTTP/1.1\r\nHost: a\r\nCookie: ${SECRET.repeat(5_000)}\r\n\r\n`,
  `POST /${SECRET} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n${SECRET}\r\n`,
  `CONNECT ${SECRET}:443 HTTP/1.1\r\nHost: ${SECRET}\r\nAuthorization: Bearer ${SECRET}\r\n\r\n`,
]

function assertKnownPlaces(facts: Readonly<Record<string, unknown>>, places: string[]): void {
  const rest = Object.entries(facts).filter(([member]) => !places.includes(member))
  assert.doesNotMatch(JSON.stringify(rest), /vIsIbLe/i)
}

function assertEventTellsNothing({ metadata_json, ...event }: AuditEvent): void {
  assertKnownPlaces(event, PLACES.event)
  assertKnownPlaces(metadata_json, PLACES.metadata)
}

/** The signature or payload of a token, by which it could be found again. */
const partsOf = (token: string) => token.split('.').slice(1)

test(
  'the gateway writes nothing secret, whoever puts it wherever',
  lastFirst(async t => {
    const directory = await temporaryDirectory(t)
    const env = { AUDIT_REPLAY_DIR: directory, LOG_LEVEL: 'trace' }
    const stack: Stack = await startStack(t, { env: { ...ALONE, ...env } })
    const { gateway, redis, upstream } = stack
    const written: string[] = []
    const look = () => written.push(...filesIn(directory).values())
    upstream.handler = (request, response, body) => {
      look()
      body.then(
        () => {
          response.statusCode = Number(request.headers['x-status'] ?? 200)
          response.statusMessage = SECRET
          for (const header of ['x-answer', 'location', 'set-cookie', 'www-authenticate', 'server'])
            response.setHeader(header, `${SECRET}-answer`)
          response.end(`${SECRET}-answer`)
        },
        () => response.destroy(),
      )
    }
    const url = `${upstream.url}/${SECRET}?${SECRET}=${SECRET}`
    const facts = { provider_id: `${KNOWN}-provider`, connection_id: `${KNOWN}-connection` }
    const closed = await freePort()
    const tokens: string[] = []
    const answers: number[] = []

    for (const request of fc.sample(requests, { numRuns: 100, seed: 11 })) {
      const { method, segment, query, headers, body, claims, names, fate } = request
      const { requestId, ...named } = names
      const use = fate === 'use' ? { use: 'session' } : {}
      const token = stack.mint({ ...claims, ...named, ...use })
      const presented = fate === 'signature' ? `${token.slice(0, -20)}${'A'.repeat(20)}` : token
      tokens.push(...partsOf(presented))
      const destination = fate === 'unreachable' ? `http://127.0.0.1:${closed}/${SECRET}` : url
      stack.direct({ ...apiKey, ...facts, url: destination })
      const options = {
        method,
        token: presented,
        headers: {
          ...headers,
          'x-request-id': requestId,
          ...(fate === '500' && { 'x-status': '500' }),
        },
        ...(body !== undefined && method !== 'GET' && { body }),
        ...(fate === 'resource' && { resource: `${KNOWN}-resource` }),
      }
      const path = `/v1/${segment}?${new URLSearchParams(query).toString()}`
      answers.push((await stack.call(path, options)).status)
      if (fate === 'replay') answers.push((await stack.call(path, options)).status)
    }
    assert.deepEqual(
      [...new Set(answers)].toSorted((a, b) => a - b),
      [200, 401, 403, 500, 502],
    )

    for (const [what, trouble] of Object.entries(TROUBLES)) {
      const { status, respond, directive, claims, options } = trouble
      // What fails of the STS would open its circuit.
      stack.sts.respond = undefined
      stack.direct({ url })
      assert.equal((await stack.call()).status, 200)
      stack.sts.respond = respond && (() => respond)
      stack.direct({ url, ...facts, ...directive })
      const token = stack.mint(claims)
      tokens.push(...partsOf(token))
      const { path = `/${SECRET}?${SECRET}=${SECRET}` } = trouble
      const answer = await stack.call(path, { method: 'POST', body: SECRET, token, ...options })
      assert.equal(answer.status, status, what)
    }
    stack.sts.respond = undefined

    const raw = await startRawUpstream(t, socket => void socket.end(`${SECRET} ${SECRET}\r\n\r\n`))
    stack.direct({ ...apiKey, url: `${raw.url}/${SECRET}` })
    assert.equal((await stack.call(`/${SECRET}?${SECRET}`)).status, 502)
    for (const bytes of GARBLED) {
      const wire = new Wire(gateway.port)
      wire.send(bytes)
      await wire.ended()
    }

    // And what a Redis that goes leaves on disk.
    const entries = await redis.entries('caracal.audit.events')
    stack.direct({ ...apiKey, url })
    const arrived = Promise.withResolvers<() => void>()
    upstream.handler = (_request, response) =>
      arrived.resolve(() => void response.end(`${SECRET}-answer`))
    const last = stack.call(`/v1/${SECRET}?${SECRET}=1`, { method: 'POST', body: SECRET })
    const end = await arrived.promise
    await redis.stop()
    end()
    await last
    await until(async () => (await stack.metric('audit_persisted')) === 1)
    look()

    const events = entries.map(({ fields }) => JSON.stringify(fields))
    assert.ok(events.length > 80)
    assert.ok(events.join('').includes(KNOWN))
    assert.ok(written.join('').includes('"evaluation_status":"interrupted"'))
    assert.ok([...filesIn(directory).keys()].some(file => file.endsWith('.ndjson')))
    assert.ok(gateway.output().includes('request denied'))
    for (const text of [...events, ...written, gateway.output()]) {
      assert.equal(/cAnArY/i.exec(text)?.input.slice(0, 500), undefined)
      for (const secret of tokens) assert.equal(text.includes(secret), false)
    }
    for (const { fields } of entries) assertEventTellsNothing(JSON.parse(fields['data'] ?? ''))
    for (const line of gateway.logs) assertKnownPlaces(line, PLACES.log)
  }),
)
