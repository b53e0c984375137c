// What the gateway tells a collector of a request.
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { before, describe, test } from 'node:test'
import { type CollectedSpan, type Collector, startCollector } from '../collector.ts'
import { until } from '../until.ts'
import {
  ALONE,
  call,
  type CallOptions,
  head,
  RESOURCE,
  type Stack,
  startGateway,
  startStack,
  Wire,
  ZONE,
} from './harness.ts'
import { revoke, suiteCleanup, temporaryDirectory } from './support.ts'

const CALLER = 'c'.repeat(16)
const STAGES = ['exchange', 'replay', 'upstream', 'verify']

describe('the gateway', { concurrency: true }, () => {
  const suite = suiteCleanup()
  let collector: Collector
  let stack: Stack
  let count = 0

  before(async () => {
    collector = await startCollector(suite)
    stack = await startStack(suite, {
      env: {
        OTEL_EXPORTER_OTLP_ENDPOINT: `${collector.url}/`,
        OTEL_EXPORTER_OTLP_HEADERS: 'x-collector-key=s%20e',
        OTEL_RESOURCE_ATTRIBUTES: 'deployment.environment.name=test',
      },
    })
    stack.upstream.handler = (request, response) => {
      request.resume()
      const [, path = ''] = (request.url ?? '').split(/[/?]/)
      if (path === 'silent') return
      if (path === 'break') {
        response.write('half', () => response.destroy())
      } else if (path === 'hold') {
        response.write('open')
        response.once('close', () => response.end())
      } else if (path === 'reset') {
        response.destroy()
      } else {
        response.statusCode = Number(path) || 200
        response.end('ok')
      }
    }
    stack.sts.respond = ({ fields }) => {
      const { request_path: path } = fields
      if (path === '/refuse') return { status: 403, body: { error: 'access_denied', canary: 1 } }
      if (path !== '/secret') return undefined
      const provider_token = 'provider-secret'
      return { directive: { url: stack.upstream.url, auth_mode: 'provider_oauth', provider_token } }
    }
  })

  const newTrace = () => (0xabc000 + count++).toString(16).padStart(32, '0')

  /** Calls with a trace of its own; resolves once as many spans came of it. */
  async function traced(spans: number, path: string, options: CallOptions = {}) {
    const traceId = newTrace()
    const answer = await stack.call(path, {
      ...options,
      headers: { traceparent: `00-${traceId}-${CALLER}-01`, ...options.headers },
    })
    return { traceId, answer, spans: await collector.trace(traceId, spans) }
  }

  const spanOf = (spans: Readonly<Record<string, CollectedSpan>>, name: string): CollectedSpan =>
    spans[name] ?? assert.fail(`no span ${name} among ${Object.keys(spans).join()}`)

  const headersOf = (requestId: string) => {
    const arrival = stack.upstream.arrivals.find(
      ({ headers }) => headers['x-request-id'] === requestId,
    )
    return arrival?.headers ?? assert.fail(`nothing arrived of ${requestId}`)
  }

  test('tells of a request in one span, and of each stage in one under it', async () => {
    const { traceId, answer, spans } = await traced(5, '/v1/invoices?secret=1')
    const request = spanOf(spans, 'request')
    assert.deepEqual(Object.keys(spans).toSorted(), [...STAGES, 'request'].toSorted())
    assert.deepEqual(
      [request.name, request.kind, request.parentId, request.failed],
      ['GET', 'server', CALLER, false],
    )
    assert.deepEqual(request.attributes, {
      'http.request.method': 'GET',
      'http.response.status_code': 200,
      'network.protocol.version': '1.1',
      'url.scheme': 'http',
      'caracal.client': 'dev-client',
      'caracal.request_id': answer.requestId,
      'caracal.resource': RESOURCE,
      'caracal.zone': ZONE,
    })
    const sts = Number(new URL(stack.sts.url).port)
    const http = { 'server.address': '127.0.0.1', 'url.scheme': 'http' }
    const expected: Record<string, [string, Record<string, string | number>]> = {
      verify: ['internal', {}],
      replay: ['client', { 'db.system.name': 'redis', 'db.operation.name': 'SET' }],
      exchange: [
        'client',
        {
          ...http,
          'server.port': sts,
          'http.request.method': 'POST',
          'http.response.status_code': 200,
        },
      ],
      upstream: [
        'client',
        {
          ...http,
          'server.port': stack.upstream.port,
          'http.request.method': 'GET',
          'http.response.status_code': 200,
        },
      ],
    }
    for (const name of STAGES) {
      const span = spanOf(spans, name)
      assert.equal(span.parentId, request.spanId, name)
      assert.deepEqual([span.kind, span.attributes], expected[name], name)
      assert.equal(span.failed, false, name)
      assert.ok(request.start <= span.start && span.end <= request.end, name)
    }
    assert.ok(Object.values(spans).every(({ message, extras }) => message === '' && extras === 0))
    assert.deepEqual(
      [request.resource['service.name'], request.resource['deployment.environment.name']],
      ['caracal-gateway', 'test'],
    )
    const [exported = {}] = collector.exports
    assert.equal(exported[':path'], '/v1/traces')
    assert.equal(exported['content-type'], 'application/x-protobuf')
    assert.equal(exported['x-collector-key'], 's e')
    const { metadata_json } = (await stack.eventsOf(answer.requestId))[0] ?? assert.fail('no event')
    assert.equal(metadata_json['trace_id'], traceId)
  })

  test('hands the trace on with the upstream’s span as parent', async () => {
    const headers = { tracestate: 'vendor=1', baggage: 'a=b' }
    const { traceId, answer, spans } = await traced(5, '/v1', { headers })
    const sent = headersOf(answer.requestId)
    assert.equal(sent['traceparent'], `00-${traceId}-${spanOf(spans, 'upstream').spanId}-01`)
    assert.deepEqual([sent['tracestate'], sent['baggage']], ['vendor=1', 'a=b'])
  })

  test('begins a trace where the caller brings none, or one that is malformed', async () => {
    const malformed = [
      undefined,
      '',
      `00-${'0'.repeat(32)}-${CALLER}-01`,
      `00-${'a'.repeat(32)}-${CALLER}-01-more`,
      `ff-${'a'.repeat(32)}-${CALLER}-01`,
      'canary'.repeat(1000),
    ]
    await Promise.all(
      malformed.map(async traceparent => {
        const answer = await stack.call('/v1', {
          headers: {
            ...(traceparent !== undefined && { traceparent }),
            tracestate: 'canary=1',
          },
        })
        assert.equal(answer.status, 200)
        const sent = headersOf(answer.requestId)
        const [, traceId = '', spanId, flags] = String(sent['traceparent']).split('-')
        assert.equal(sent['tracestate'], undefined)
        assert.equal(flags, '01')
        const spans = await collector.trace(traceId, 5)
        assert.equal(spanOf(spans, 'request').parentId, '')
        assert.equal(spanOf(spans, 'upstream').spanId, spanId)
        const [event] = await stack.eventsOf(answer.requestId)
        assert.equal(event?.metadata_json['trace_id'], traceId)
      }),
    )
  })

  test('records no trace that the caller does not, and hands it on all the same', async () => {
    const traceId = newTrace()
    const answer = await stack.call('/v1', {
      headers: { traceparent: `00-${traceId}-${CALLER}-00` },
    })
    const sent = String(headersOf(answer.requestId)['traceparent'])
    assert.match(sent, new RegExp(`^00-${traceId}-[0-9a-f]{16}-00$`))
    assert.doesNotMatch(sent, new RegExp(CALLER))
    await traced(5, '/v1')
    assert.equal(collector.spans.filter(span => span.traceId === traceId).length, 0)
  })

  for (const [check, path, options, stages] of [
    ['missing_bearer', '/v1', () => ({ token: null }), []],
    ['malformed_bearer', '/v1', () => ({ token: 'canary' }), []],
    ['missing_resource_header', '/v1', () => ({ resource: null }), []],
    ['path_traversal', '/v1/%2e%2e/canary', () => ({}), []],
    ['mandate_use', '/v1', () => ({ token: stack.mint({ use: 'session' }) }), ['verify']],
  ] as const) {
    test(`tells of a refusal by ${check}`, async () => {
      const { traceId, answer, spans } = await traced(1 + stages.length, path, options())
      const line = () => stack.gateway.logs.find(({ reqId }) => reqId === answer.requestId)
      await until(() => line() !== undefined)
      assert.deepEqual([line()?.['check'], line()?.['trace_id']], [check, traceId])
      const { attributes, failed, message } = spanOf(spans, 'request')
      assert.deepEqual(Object.keys(spans).toSorted(), ['request', ...stages])
      assert.equal(attributes['caracal.check'], check)
      assert.equal(attributes['error.type'], check)
      assert.equal(attributes['http.response.status_code'], answer.status)
      // A server that refuses has not failed.
      assert.deepEqual([failed, message], [false, ''])
      // What a stranger claims is not told.
      const told = stages.length === 0 ? undefined : RESOURCE
      assert.equal(attributes['caracal.resource'], told)
    })
  }

  test('tells which stage refused', async () => {
    const used = stack.mint()
    await stack.call('/v1', { token: used })
    const forged = `${stack.mint().slice(0, -8)}AAAAAAAA`
    for (const [stage, check, size, path, options] of [
      ['verify', 'invalid_signature', 2, '/v1', { token: forged }],
      ['replay', 'replayed', 3, '/v1', { token: used }],
      ['exchange', 'sts_refused', 4, '/refuse', {}],
    ] as const) {
      const { spans, answer } = await traced(size, path, options)
      const span = spanOf(spans, stage)
      const { attributes } = spanOf(spans, 'request')
      assert.deepEqual([span.failed, span.attributes['error.type']], [true, check])
      assert.equal(attributes['caracal.check'], check)
      assert.equal(Object.keys(spans).length, size)
      if (stage !== 'exchange') continue
      assert.equal(span.attributes['http.response.status_code'], answer.status)
    }
  })

  test('tells what the upstream made of it', async () => {
    const refused = await traced(5, '/404')
    assert.equal(refused.answer.status, 404)
    const missing = spanOf(refused.spans, 'upstream')
    assert.deepEqual([missing.failed, missing.attributes['error.type']], [true, '404'])
    assert.equal(spanOf(refused.spans, 'request').failed, false)

    const failed = await traced(5, '/503')
    assert.equal(failed.answer.status, 503)
    const own = spanOf(failed.spans, 'request')
    assert.deepEqual([own.failed, own.attributes['error.type']], [true, '503'])
    assert.equal(own.attributes['caracal.check'], undefined)

    const reset = await traced(5, '/reset')
    assert.equal(reset.answer.status, 502)
    for (const name of ['upstream', 'request']) {
      const { failed, attributes } = spanOf(reset.spans, name)
      assert.deepEqual([failed, attributes['error.type']], [true, 'upstream_unreachable'], name)
    }
  })

  test('ends a request’s span with its body, and says when that broke off', async () => {
    const traceId = newTrace()
    await assert.rejects(
      stack.call('/break', { headers: { traceparent: `00-${traceId}-${CALLER}-01` } }),
    )
    const spans = await collector.trace(traceId, 5)
    const { failed, attributes } = spanOf(spans, 'request')
    assert.deepEqual([failed, attributes['error.type']], [true, 'response_copy_failed'])
    assert.equal(attributes['http.response.status_code'], 200)
    assert.equal(spanOf(spans, 'upstream').failed, false)
  })

  test('tells of a stream that a revocation cut, when it is over', async () => {
    const traceId = newTrace()
    const wire = new Wire(stack.gateway.port)
    const token = stack.mint({ agent_session_id: 'cut-me' })
    const traceparent = `traceparent: 00-${traceId}-${CALLER}-01`
    wire.send(`${head('GET /hold', token, traceparent)}\r\n`)
    await wire.receives(/open/)
    // The upstream has answered; the request is not over.
    const early = await collector.trace(traceId, 4)
    assert.deepEqual(Object.keys(early).toSorted(), STAGES)
    await revoke(stack.redis, { agent_session_id: 'cut-me' })
    const spans = await collector.trace(traceId, 5)
    wire.close()
    const { failed, attributes, end } = spanOf(spans, 'request')
    assert.deepEqual([failed, attributes['error.type']], [true, 'revoked'])
    assert.ok(end > spanOf(spans, 'upstream').end)
  })

  test('tells of a caller that went before it had an answer', async () => {
    const traceId = newTrace()
    const wire = new Wire(stack.gateway.port)
    const trace = `traceparent: 00-${traceId}-${CALLER}-01`
    wire.send(`${head('GET /silent', stack.mint(), trace)}\r\n`)
    await until(() => stack.upstream.arrivals.some(({ url }) => url === '/silent'))
    wire.close()
    const spans = await collector.trace(traceId, 5)
    const { failed, attributes } = spanOf(spans, 'request')
    assert.deepEqual([failed, attributes['error.type']], [true, 'transport_error'])
    assert.equal(attributes['http.response.status_code'], undefined)
    assert.equal(spanOf(spans, 'upstream').failed, true)
  })

  test('names an operation by its declaration, not by the path', async t => {
    const file = `${await temporaryDirectory(t)}/bindings.yaml`
    const operation = '{ method: GET, path: /v1/people/:name }'
    await writeFile(
      file,
      `version: 1\nzones:\n  ${ZONE}:\n    resources:\n      ${RESOURCE}:\n        operations:\n          - ${operation}\n`,
    )
    const gateway = await startGateway(t, { ...stack.env, BINDINGS_FILE: file })
    const traceId = newTrace()
    const headers = { traceparent: `00-${traceId}-${CALLER}-01` }
    await call(gateway.url, '/v1/people/canary', { token: stack.mint(), headers })
    const { name, attributes } = spanOf(await collector.trace(traceId, 5), 'request')
    assert.equal(name, 'GET /v1/people/:name')
    assert.equal(attributes['http.route'], '/v1/people/:name')
  })

  test('tells nobody a token, a credential, a path, a query, a header or a body', async () => {
    const token = stack.mint()
    const body = 'canary'.repeat(100)
    const headers = { 'x-private': 'canary', cookie: 'canary=1', 'user-agent': 'canary/1' }
    await traced(5, '/canary/path?canary=1', { token, method: 'POST', body, headers })
    await traced(1, '/canary', { token: 'canary.canary.canary', headers })
    await traced(5, '/secret', { token: stack.mint() })
    await traced(4, '/refuse', { headers })
    const bytes = collector.bytes()
    for (const secret of ['canary', 'provider-secret', ...token.split('.')]) {
      assert.equal(bytes.includes(secret), false, secret)
    }
  })

  test('points from its durations to traces, where a scraper can read that', async () => {
    const { traceId } = await traced(5, '/v1')
    const scraped = (accept?: string) =>
      call(stack.gateway.url, '/metrics', {
        token: 'metrics-bearer',
        resource: null,
        ...(accept !== undefined && { headers: { accept } }),
      })
    const open = await scraped('application/openmetrics-text;version=1.0.0,text/plain;q=0.5')
    assert.match(String(open.headers['content-type']), /^application\/openmetrics-text/)
    const lines = open.text.split('\n')
    assert.deepEqual(lines.slice(-2), ['# EOF', ''])
    assert.ok(lines.includes('# TYPE caracal_gateway_requests counter'))
    const exemplar = / # \{trace_id="[0-9a-f]{32}"\} \d+(?:\.\d+)?(?:e-\d+)? \d+(?:\.\d+)?$/
    const pointing = lines.filter(line => line.includes('trace_id'))
    for (const line of pointing) assert.match(line, exemplar)
    for (const stage of STAGES) {
      assert.ok(
        pointing.some(line => line.includes(`stage="${stage}"`)),
        stage,
      )
    }
    assert.ok(pointing.some(line => line.startsWith('caracal_gateway_request_duration_seconds_')))
    assert.ok(open.text.includes(traceId))
    const old = await scraped('text/plain')
    assert.match(String(old.headers['content-type']), /^text\/plain/)
    assert.doesNotMatch(old.text, /trace_id|# EOF/)
    assert.match(old.text, /^# TYPE caracal_gateway_requests_total counter$/m)
  })

  test('sends what it has when it stops', async t => {
    const gateway = await startGateway(t, stack.env)
    const traceId = newTrace()
    const headers = { traceparent: `00-${traceId}-${CALLER}-01` }
    await call(gateway.url, '/v1', { token: stack.mint(), headers })
    assert.equal(await gateway.stop(), 0)
    assert.equal(collector.spans.filter(span => span.traceId === traceId).length, 5)
  })

  test('serves and stops as ever while its collector hangs', async t => {
    const hanging = await startCollector(t)
    hanging.answer = () => {}
    const env = { ...stack.env, ...ALONE, OTEL_EXPORTER_OTLP_ENDPOINT: hanging.url }
    const gateway = await startGateway(t, env)
    for (let i = 0; i < 120; i += 1) {
      const { status } = await call(gateway.url, '/v1', { token: stack.mint() })
      assert.equal(status, 200)
    }
    await until(() => hanging.exports.length > 0, 10_000)
    assert.equal((await call(gateway.url, '/v1', { token: stack.mint() })).status, 200)
    const startedAt = performance.now()
    assert.equal(await gateway.stop(), 0)
    // A tenth of SHUTDOWN_TIMEOUT, and a noisy machine.
    assert.ok(performance.now() - startedAt < 8_000)
    assert.deepEqual(
      gateway.logs.slice(-2).map(({ msg }) => msg),
      ['traces are given up', 'stopped'],
    )
    assert.equal(gateway.logs.filter(({ msg }) => String(msg).includes('traces')).length, 1)
  })

  test('says nothing of its own endpoints', async () => {
    const traceId = newTrace()
    const headers = { traceparent: `00-${traceId}-${CALLER}-01` }
    for (const path of ['/health', '/ready', '/metrics', '/metrics.json']) {
      await call(stack.gateway.url, path, { token: 'metrics-bearer', resource: null, headers })
    }
    await traced(5, '/v1')
    assert.equal(collector.spans.filter(span => span.traceId === traceId).length, 0)
  })
})
