// No connection hangs, loses its answer, or has a request executed that nobody is there for.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { mkdtempSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { connect as connectTls } from 'node:tls'
import { createCertificate } from '../certificate.ts'
import {
  ALONE,
  type Arrival,
  head,
  type LogLine,
  type Stack,
  startGateway,
  startStack,
  Wire,
} from '../gateway/harness.ts'
import { until } from '../until.ts'
import { answers, answersIn, assertRefusal, assertUnharmed, mandate } from './wire.ts'

const UNAUTHENTICATED = { status: 401, error: 'invalid_token', description: 'missing bearer token' }
const MIB = 1024 * 1024

const SHORT = {
  READ_HEADER_TIMEOUT: '1s',
  READ_TIMEOUT: '2s',
  STS_TIMEOUT: '900ms',
  UPSTREAM_TIMEOUT: '1s',
  IDLE_TIMEOUT: '1s',
  REDIS_READ_TIMEOUT: '20s',
  CARACAL_ADMIN_TOKEN: 'admin-token',
}

/** The head of a request without a mandate, empty line included. */
function denied(line: string, ...fields: string[]): string {
  return [`${line} HTTP/1.1`, 'Host: gateway.test', ...fields, '', ''].join('\r\n')
}

async function arrived(stack: Stack, url: string): Promise<Arrival> {
  const find = () => stack.upstream.arrivals.find(arrival => arrival.url === url)
  await until(() => find() !== undefined)
  const arrival = find()
  assert.ok(arrival)
  return arrival
}

/** A promise and the means to resolve it. */
function gate(): { opened: Promise<void>; open: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>()
  return { opened: promise, open: resolve }
}

describe('late bytes', { concurrency: true }, async () => {
  const stack = await startStack({ after }, { env: SHORT })
  // Late bodies of dispatched requests are what these are about, not late upstreams.
  stack.upstream.handler = (request, response, body) => {
    if (request.url === '/early') response.write('early')
    body.then(
      // What an upstream makes of a late body takes time as well.
      () => setTimeout(() => response.end('ok'), request.url === '/slow' ? 300 : 0),
      () => response.destroy(),
    )
  }

  for (const [name, trickle] of [
    ['a request that stops in its headers', false],
    ['a request whose headers trickle in', true],
  ] as const) {
    test(`the gateway ends ${name} within READ_HEADER_TIMEOUT`, async () => {
      const slow = mandate(stack)
      const startedAt = performance.now()
      const wire = new Wire(stack.gateway.port)
      wire.send(head('GET /late', slow.token))
      const timer = setInterval(() => trickle && wire.send('X-A: b\r\n'), 100)
      await wire.ended()
      clearInterval(timer)
      assert.ok(performance.now() - startedAt >= 900, 'not before its time')
      const { answers: found, rest } = answersIn(wire.text)
      assert.deepEqual([found.length, rest], [1, ''])
      assertRefusal(found[0], { status: 408, description: 'request headers timed out' })
      assert.equal(found[0]?.headers['connection'], 'close')
      assert.equal(await slow.spent(), false)
    })
  }

  test('the gateway ends a second request that stops in its headers', async () => {
    const wire = new Wire(stack.gateway.port)
    wire.send(denied('GET /first'))
    await answers(wire)
    wire.send('GET /late HTTP/1.1\r\nHost:')
    await wire.ended()
    const [, second] = await answers(wire, 2)
    assertRefusal(second, { status: 408, description: 'request headers timed out' })
  })

  test('the gateway closes a connection that never sends a byte, without a word', async () => {
    const wire = new Wire(stack.gateway.port)
    assert.equal(await wire.ended(), '')
  })

  test('the gateway closes a kept-alive connection after IDLE_TIMEOUT, without a word', async () => {
    const wire = new Wire(stack.gateway.port)
    wire.send(denied('GET /first'))
    await answers(wire)
    const idleAt = performance.now()
    await wire.ended()
    assert.ok(performance.now() - idleAt >= 900, 'not before its time')
    assert.equal(answersIn(wire.text).rest, '')
  })

  test('the gateway keeps IDLE_TIMEOUT when a refused body has been read to its end', async () => {
    const wire = new Wire(stack.gateway.port)
    wire.send(denied('POST /first', 'Content-Length: 2'))
    await answers(wire)
    wire.send('ab')
    wire.send(denied('GET /second'))
    await answers(wire, 2)
    const idleAt = performance.now()
    await wire.ended()
    assert.ok(performance.now() - idleAt >= 900)
  })

  test('the gateway ends a request whose body is late, before dispatch and behind it', async t => {
    // What holds a request up here is Redis, so it has one of its own.
    const own = await startStack(t, { env: { ...ALONE, ...SHORT, READ_TIMEOUT: '2500ms' } })
    own.redis.pause()
    const late = new Wire(own.gateway.port)
    late.send(`${head('POST /late', own.mint(), 'Content-Length: 10')}\r\nabc`)
    // A body that is as late, on an endpoint that waits for nothing else: its answer tells when time is up.
    const clock = new Wire(own.gateway.port)
    clock.send(
      denied(
        'POST /internal/revocations/reload',
        'Authorization: Bearer admin-token',
        'Content-Type: application/json',
        'Content-Length: 10',
      ),
    )
    const [told] = await answers(clock)
    assertRefusal(told, { status: 408, description: 'request timeout' })
    await clock.ended()
    own.redis.resume()
    const [before] = await answers(late)
    assertRefusal(before, { status: 408, description: 'request timeout' })
    await late.ended()
    assert.deepEqual([own.upstream.arrivals, own.sts.exchanges], [[], []])
    const denial = ({ reqId }: LogLine) => reqId === before?.headers['x-request-id']
    await until(() => own.gateway.logs.some(denial))
    assert.equal(own.gateway.logs.find(denial)?.['check'], 'request_timeout')

    // The caller's lateness is not the upstream's: UPSTREAM_TIMEOUT is over long before.
    const later = new Wire(own.gateway.port)
    later.send(`${head('POST /later', own.mint(), 'Content-Length: 10')}\r\nabc`)
    const arrival = await arrived(own, '/later')
    const [behind] = await answers(later)
    assertRefusal(behind, {
      status: 408,
      description: 'request timeout',
      dispatched: 'unknown',
    })
    assert.equal(behind?.headers['x-should-retry'], 'false')
    await later.ended()
    await assert.rejects(arrival.body)
    const [event] = await own.eventsOf(String(behind?.headers['x-request-id']))
    assert.equal(event?.evaluation_status, 'upstream_error')
    assert.equal(event.metadata_json['gateway_status'], 408)
  })

  test('the gateway leaves an upstream its whole time behind a late body', async () => {
    const slow = new Wire(stack.gateway.port)
    slow.send(`${head('POST /slow', mandate(stack).token, 'Content-Length: 6')}\r\nabc`)
    await arrived(stack, '/slow')
    // Longer than UPSTREAM_TIMEOUT, shorter than READ_TIMEOUT.
    await new Promise(resolve => setTimeout(resolve, 1_300))
    slow.send('def')
    const [answer] = await answers(slow)
    assert.equal(answer?.status, 200)
    slow.close()
  })

  test('the gateway breaks off when a body is late behind the head of its answer', async () => {
    const wire = new Wire(stack.gateway.port)
    wire.send(`${head('POST /early', mandate(stack).token, 'Content-Length: 10')}\r\nabc`)
    await wire.receives(/early/)
    await wire.ended()
    const { answers: found, rest } = answersIn(wire.text)
    assert.deepEqual(found, [])
    assert.match(rest, /^HTTP\/1\.1 200 OK\r\n.*early\r\n$/s)
    const arrival = await arrived(stack, '/early')
    await assert.rejects(arrival.body)
  })

  test('the gateway waits no longer than a second for a refused body that does not come', async () => {
    const denials = await stack.metric('requests_denied')
    const wire = new Wire(stack.gateway.port)
    wire.send(denied('POST /refused', 'Content-Length: 10'))
    await wire.ended()
    const { answers: found, rest } = answersIn(wire.text)
    assert.deepEqual([found.length, rest], [1, ''])
    assertRefusal(found[0], UNAUTHENTICATED)
    assert.ok((await stack.metric('requests_denied')) > denials)
  })

  test('the gateway answers once, though a refused body trickles in beyond READ_TIMEOUT', async () => {
    const wire = new Wire(stack.gateway.port)
    wire.send(denied('POST /refused', 'Content-Length: 1000'))
    const timer = setInterval(() => wire.send('x'), 100)
    await wire.ended()
    clearInterval(timer)
    const { answers: found, rest } = answersIn(wire.text)
    assert.deepEqual([found.length, rest], [1, ''], wire.text)
    assertRefusal(found[0], UNAUTHENTICATED)
  })

  test('the gateway closes what does not become TLS, without a word', async t => {
    const folder = mkdtempSync(join(tmpdir(), 'gateway-tls-'))
    t.after(() => rmSync(folder, { recursive: true, force: true }))
    const { cert, key } = createCertificate()
    const [certFile, keyFile] = [join(folder, 'cert.pem'), join(folder, 'key.pem')]
    writeFileSync(certFile, cert)
    writeFileSync(keyFile, key)
    const gateway = await startGateway(
      { after: t.after.bind(t) },
      {
        ...stack.env,
        TLS_CERT_FILE: certFile,
        TLS_KEY_FILE: keyFile,
      },
    )
    const [plain, silent] = [new Wire(gateway.port), new Wire(gateway.port)]
    plain.send(denied('GET /plain'))
    const secure = connectTls({ port: gateway.port, host: '127.0.0.1', ca: cert })
    await once(secure, 'secureConnect')
    secure.write(denied('POST /refused', 'Connection: close', `Content-Length: ${MIB}`))
    secure.write(Buffer.alloc(MIB))
    let text = ''
    secure.setEncoding('latin1').on('data', chunk => {
      text += chunk
    })
    await once(secure, 'close')
    assertRefusal(answersIn(text).answers[0], UNAUTHENTICATED)
    for (const wire of [plain, silent]) {
      await wire.ended()
      assert.ok(!wire.text.includes('HTTP/'), wire.text)
    }
    assert.equal(gateway.logs.filter(({ msg }) => msg === 'request denied').length, 1)
    assert.equal(await gateway.stop(), 0)
  })
})

describe('bodies that nobody reads', async () => {
  const stack = await startStack({ after })
  const { handler } = stack.upstream

  const TOO_LARGE = {
    status: 413,
    error: 'payload_too_large',
    description: 'request body too large',
  }
  const uploads: Record<
    string,
    [
      () => string,
      () => Iterable<string | Buffer>,
      Parameters<typeof assertRefusal>[1],
      then: 'open' | 'close' | 'any',
    ]
  > = {
    'a length and no mandate': [
      () => denied('POST /refused', `Content-Length: ${20 * MIB}`),
      () => bytes(20),
      UNAUTHENTICATED,
      'open',
    ],
    'chunks and no mandate': [
      () => denied('POST /refused', 'Transfer-Encoding: chunked'),
      () => chunks(20),
      UNAUTHENTICATED,
      'open',
    ],
    'a length, no mandate and Connection: close': [
      () => denied('POST /refused', 'Connection: close', `Content-Length: ${20 * MIB}`),
      () => bytes(20),
      UNAUTHENTICATED,
      'close',
    ],
    'a length in HTTP/1.0': [
      () => denied('POST /refused', `Content-Length: ${20 * MIB}`).replace('HTTP/1.1', 'HTTP/1.0'),
      () => bytes(20),
      UNAUTHENTICATED,
      'close',
    ],
    'a length over MAX_REQUEST_BYTES': [
      () => `${head('POST /refused', mandate(stack).token, `Content-Length: ${20 * MIB}`)}\r\n`,
      () => bytes(20),
      TOO_LARGE,
      'open',
    ],
    'chunks over MAX_REQUEST_BYTES': [
      () => `${head('POST /grows', mandate(stack).token, 'Transfer-Encoding: chunked')}\r\n`,
      () => chunks(20),
      { ...TOO_LARGE, dispatched: 'unknown' },
      'any',
    ],
    'an unmet expectation': [
      () => denied('POST /refused', 'Expect: 100-continue', `Content-Length: ${20 * MIB}`),
      () => bytes(20),
      UNAUTHENTICATED,
      'close',
    ],
    'a coding that is not understood': [
      () => denied('POST /refused', 'Transfer-Encoding: gzip, chunked'),
      () => chunks(20),
      { status: 400, description: 'transfer coding not supported, only chunked' },
      'close',
    ],
    'no HTTP at all': [
      () => 'garbage\r\n\r\n',
      () => bytes(20),
      { status: 400, description: 'malformed HTTP request' },
      'close',
    ],
  }

  for (const [name, [start, body, refusal, then]] of Object.entries(uploads)) {
    test(`the gateway's answer to 20 MiB with ${name} can be read behind them`, async () => {
      const wire = new Wire(stack.gateway.port)
      let failed: Error | undefined
      wire.socket.on('error', error => {
        failed = error
      })
      wire.send(start())
      await upload(wire, body())
      const [answer] = await answers(wire)
      assertRefusal(answer, refusal)
      assert.ok(!wire.text.includes('100 Continue'))
      if (then === 'close') {
        assert.equal(answer?.headers['connection'], 'close')
        await wire.ended()
      } else if (answer?.headers['connection'] !== 'close' || then === 'open') {
        wire.send(`${head('GET /again', mandate(stack).token)}\r\n`)
        const [, again] = await answers(wire, 2)
        assert.equal(again?.status, 200)
      }
      assert.equal(failed, undefined)
      wire.close()
    })
  }

  test('the gateway reads a refused body for as long as it comes', async () => {
    const wire = new Wire(stack.gateway.port)
    wire.send(denied('POST /refused', 'Content-Length: 15'))
    await answers(wire)
    for (let i = 0; i < 15; i++) {
      wire.send('x')
      // In all longer than the silence that would end it.
      await new Promise(resolve => setTimeout(resolve, 100))
    }
    wire.send(`${head('GET /again', mandate(stack).token)}\r\n`)
    const [, again] = await answers(wire, 2)
    assert.equal(again?.status, 200)
    wire.close()
  })

  test('the gateway serves on when an upstream answers before it has read the body', async () => {
    stack.upstream.handler = (request, response) => {
      request.resume()
      response.end('early')
    }
    const wire = new Wire(stack.gateway.port)
    wire.send(`${head('POST /early', mandate(stack).token, `Content-Length: ${5 * MIB}`)}\r\nfirst`)
    const [early] = await answers(wire)
    assert.deepEqual([early?.status, early?.body], [200, 'early'])
    wire.send(Buffer.alloc(5 * MIB - 'first'.length, 'b'))
    stack.upstream.handler = handler
    wire.send(`${head('GET /again', mandate(stack).token)}\r\n`)
    const [, again] = await answers(wire, 2)
    assert.equal(again?.status, 200)
    wire.close()
  })

  test('the gateway keeps a connection over many denials', async () => {
    const wire = new Wire(stack.gateway.port)
    for (let i = 1; i <= 5; i++) {
      wire.send(`${denied('POST /refused', 'Content-Length: 2')}ab`)
      await answers(wire, i)
    }
    wire.send(`${head('GET /again', mandate(stack).token)}\r\n`)
    const found = await answers(wire, 6)
    assert.deepEqual(
      found.map(({ status }) => status),
      [401, 401, 401, 401, 401, 200],
    )
    wire.close()
  })

  test('the gateway executes nothing behind an answer that closes', async () => {
    const behind = mandate(stack)
    const wire = new Wire(stack.gateway.port)
    wire.send(
      `${denied('POST /refused', 'Expect: 100-continue', 'Content-Length: 2')}ab${head('GET /behind', behind.token)}\r\n`,
    )
    await wire.ended()
    assert.deepEqual(
      answersIn(wire.text).answers.map(({ status }) => status),
      [401],
    )
    assert.equal(await behind.spent(), false)
  })

  test('the gateway says 100 Continue after the exchange, and not before', async () => {
    const exchange = gate()
    let asked = false
    stack.sts.respond = () => {
      asked = true
      return { delay: exchange.opened }
    }
    const wire = new Wire(stack.gateway.port)
    wire.send(
      `${head('POST /expected', mandate(stack).token, 'Expect: 100-continue', 'Content-Length: 2')}\r\n`,
    )
    await until(() => asked)
    assert.equal(wire.text, '')
    stack.sts.respond = undefined
    exchange.open()
    const [interim] = await answers(wire)
    assert.equal(interim?.status, 100)
    wire.send('ab')
    const [, final] = await answers(wire, 2)
    assert.equal(final?.status, 200)
    const arrival = await arrived(stack, '/expected')
    assert.equal((await arrival.body).toString(), 'ab')
    assert.equal(arrival.headers['expect'], undefined)
    wire.close()
  })

  for (const [expectation, statuses, version] of [
    ['100-continue, other', [100, 200], '1.1'],
    ['100-Continue', [100, 200], '1.1'],
    ['other', [200], '1.1'],
    ['100-continue', [200], '1.0'],
  ] as const) {
    test(`the gateway answers ${statuses.join(', ')} to Expect: ${expectation} of HTTP/${version}`, async () => {
      const wire = new Wire(stack.gateway.port)
      const fields = [`Expect: ${expectation}`, 'Content-Length: 2']
      const start = head('POST /expected-so', mandate(stack).token, ...fields)
      wire.send(`${start.replace('HTTP/1.1', `HTTP/${version}`)}\r\nab`)
      const found = await answers(wire, statuses.length)
      assert.deepEqual(
        found.map(({ status }) => status),
        statuses,
      )
      assert.equal(stack.upstream.arrivals.at(-1)?.headers['expect'], undefined)
      wire.close()
    })
  }

  test('the gateway is unharmed by bodies', () => assertUnharmed(stack))
})

describe('callers that go', async () => {
  const stack = await startStack(
    { after },
    {
      env: { ...ALONE, MAX_IN_FLIGHT: '20', REDIS_READ_TIMEOUT: '20s' },
      zones: ['zone-goes', 'zone-resets'],
    },
  )
  const { handler } = stack.upstream
  const sockets = () => openSockets(stack.gateway.child.pid ?? 0)

  for (const [way, leave] of [
    ['goes', (wire: Wire) => wire.socket.destroy()],
    ['resets', (wire: Wire) => wire.socket.resetAndDestroy()],
  ] as const) {
    test(`the gateway forgets a caller that ${way} within its headers`, async () => {
      const gone = mandate(stack)
      const wire = new Wire(stack.gateway.port)
      await once(wire.socket, 'connect')
      wire.send(head('GET /gone', gone.token))
      await sent(wire)
      leave(wire)
      await assertUnharmed(stack)
      assert.equal(await gone.spent(), false)
    })

    test(`the gateway spends nothing for a caller that ${way} while keys are fetched`, async () => {
      const keys = gate()
      const zone = `zone-${way}`
      stack.sts.setJwks(zone, { delay: keys.opened })
      const fetches = stack.sts.jwksRequests.length
      const gone = mandate(stack, { zone_id: zone })
      const wire = new Wire(stack.gateway.port)
      wire.send(`${head('GET /gone', gone.token)}\r\n`)
      await until(() => stack.sts.jwksRequests.length > fetches)
      leave(wire)
      await until(async () => (await stack.metric('requests_in_flight')) === 0)
      keys.open()
      stack.sts.setJwks(zone, undefined)
      await assertUnharmed(stack)
      assert.equal(await gone.spent(), false)
      assert.ok(!stack.upstream.arrivals.some(({ url }) => url === '/gone'))
    })

    test(`the gateway asks the STS nothing for a caller that ${way} while Redis hangs`, async () => {
      const exchanges = stack.sts.exchanges.length
      stack.redis.pause()
      const wire = new Wire(stack.gateway.port)
      wire.send(`${head('GET /gone', mandate(stack).token)}\r\n`)
      await until(async () => (await stack.metric('requests_in_flight')) === 1)
      leave(wire)
      await until(async () => (await stack.metric('requests_in_flight')) === 0)
      stack.redis.resume()
      await assertUnharmed(stack)
      // One for the call that showed it.
      assert.equal(stack.sts.exchanges.length, exchanges + 1)
    })

    test(`the gateway dispatches nothing for a caller that ${way} while the STS hangs`, async () => {
      const exchange = gate()
      const asked = gate()
      stack.sts.respond = () => {
        asked.open()
        return { delay: exchange.opened }
      }
      const wire = new Wire(stack.gateway.port)
      wire.send(
        `${head('POST /gone', mandate(stack).token, `X-Request-Id: sts-${way}`, 'Content-Length: 5')}\r\nab`,
      )
      await asked.opened
      stack.sts.respond = undefined
      leave(wire)
      await until(async () => (await stack.metric('requests_in_flight')) === 0)
      exchange.open()
      const [event] = await stack.eventsOf(`sts-${way}`)
      assert.equal(event?.evaluation_status, 'upstream_error')
      await assertUnharmed(stack)
      assert.ok(!stack.upstream.arrivals.some(({ url }) => url === '/gone'))
    })

    test(`the gateway breaks off upstream for a caller that ${way} within its body`, async () => {
      const path = `/gone-body-${way}`
      const wire = new Wire(stack.gateway.port)
      wire.send(`${head(`POST ${path}`, mandate(stack).token, 'Content-Length: 10')}\r\nabc`)
      const arrival = await arrived(stack, path)
      leave(wire)
      await assert.rejects(arrival.body)
      await assertUnharmed(stack)
    })

    test(`the gateway breaks off upstream for a caller that ${way} before its answer`, async () => {
      const closed = gate()
      stack.upstream.handler = request => request.socket.once('close', closed.open)
      const path = `/gone-hanging-${way}`
      const wire = new Wire(stack.gateway.port)
      const id = `hanging-${way}`
      wire.send(`${head(`GET ${path}`, mandate(stack).token, `X-Request-Id: ${id}`)}\r\n`)
      await arrived(stack, path)
      leave(wire)
      await closed.opened
      stack.upstream.handler = handler
      const [event] = await stack.eventsOf(id)
      assert.equal(event?.evaluation_status, 'upstream_error')
      assert.equal(event.metadata_json['error_kind'], 'transport_error')
      await assertUnharmed(stack)
    })

    test(`the gateway breaks off upstream for a caller that ${way} within its answer`, async () => {
      const closed = gate()
      stack.upstream.handler = (request, response) => {
        request.socket.once('close', closed.open)
        pour(response)
      }
      const id = `pouring-${way}`
      const wire = new Wire(stack.gateway.port)
      wire.send(`${head('GET /gone-pouring', mandate(stack).token, `X-Request-Id: ${id}`)}\r\n`)
      await wire.receives(/pouring/)
      leave(wire)
      await closed.opened
      stack.upstream.handler = handler
      const [event, ...more] = await stack.eventsOf(id)
      assert.deepEqual(more, [])
      assert.equal(event?.evaluation_status, 'upstream_error')
      assert.equal(event.metadata_json['error_kind'], 'response_copy_failed')
      await assertUnharmed(stack)
    })
  }

  test('the gateway breaks off every pipelined request of a caller that goes', async () => {
    let closed = 0
    stack.upstream.handler = request => {
      request.socket.once('close', () => {
        closed += 1
      })
    }
    for (const behind of ['', 'CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n']) {
      closed = 0
      const ids = ['one', 'two', 'three'].map(name => `${name}-${behind.length}`)
      const wire = new Wire(stack.gateway.port)
      wire.send(
        ids
          .map(id => `${head(`GET /${id}`, mandate(stack).token, `X-Request-Id: ${id}`)}\r\n`)
          .join(''),
      )
      for (const id of ids) await arrived(stack, `/${id}`)
      if (behind === '') wire.close()
      else wire.send(behind)
      await until(() => closed === 3)
      for (const id of ids) {
        const events = await stack.eventsOf(id)
        assert.deepEqual(
          events.map(({ evaluation_status: status }) => status),
          ['upstream_error'],
        )
      }
      await wire.ended()
      assert.equal(wire.text, '')
    }
    stack.upstream.handler = handler
    await assertUnharmed(stack)
  })

  test('the gateway keeps places free for others, whatever waits behind one request', async () => {
    const held: ServerResponse[] = []
    stack.upstream.handler = (_request, response) => held.push(response)
    const wire = new Wire(stack.gateway.port)
    wire.send(`${head('GET /held', mandate(stack).token)}\r\n`)
    await until(() => held.length === 1)
    stack.upstream.handler = handler
    for (let i = 0; i < 30; i++) wire.send(denied('GET /refused'))
    const other = await stack.call('/other')
    assert.equal(other.status, 200, other.text)
    assert.equal(await stack.metric('requests_in_flight'), 1)
    held[0]?.end('held')
    const found = await answers(wire, 31)
    assert.deepEqual(
      found.map(({ status }) => status),
      [200, ...Array.from({ length: 30 }, () => 401)],
    )
    wire.close()
  })

  test('the gateway leaves no connection of a caller that closes its half', async () => {
    const before = await sockets()
    const { token } = mandate(stack)
    const halves: Record<string, string> = {
      'nothing sent': '',
      'within the headers': head('GET /half', token),
      'behind a denied request': denied('GET /refused'),
      'within a denied body': `${denied('POST /refused', 'Content-Length: 10')}abc`,
      'behind a request': `${head('GET /half', mandate(stack).token)}\r\n`,
      'within a body': `${head('POST /half', mandate(stack).token, 'Content-Length: 10')}\r\nabc`,
      'within a chunk': `${head('POST /half', mandate(stack).token, 'Transfer-Encoding: chunked')}\r\n5\r\nab`,
    }
    for (const [name, bytes] of Object.entries(halves)) {
      const wire = new Wire(stack.gateway.port)
      wire.socket.end(Buffer.from(bytes, 'latin1'))
      await wire.ended()
      const { rest } = answersIn(wire.text)
      assert.equal(rest, '', name)
      if (name === 'behind a denied request') {
        assertRefusal((await answers(wire))[0], UNAUTHENTICATED)
      }
    }
    await assertUnharmed(stack)
    await until(async () => (await sockets()) <= before + 2)
  })

  test('the gateway serves a good request among 500 connections with garbage or nothing', async () => {
    const before = await sockets()
    const wires = Array.from({ length: 500 }, (_, i) => {
      const wire = new Wire(stack.gateway.port)
      if (i % 4 === 0) wire.send('\x16\x03\x01garbage\r\n\r\n')
      else if (i % 4 === 1) wire.send('GET /half HTTP/1.1\r\nHo')
      else if (i % 4 === 2) wire.send(denied('POST /refused', 'Transfer-Encoding: chunked'))
      return wire
    })
    await Promise.all(wires.map(wire => once(wire.socket, 'connect')))
    await until(() => wires.every((wire, i) => i % 2 === 1 || wire.received.length > 0))
    const startedAt = performance.now()
    const answer = await stack.call('/among')
    assert.equal(answer.status, 200)
    assert.ok(performance.now() - startedAt < 2_000)
    for (const wire of wires) wire.close()
    await assertUnharmed(stack)
    await until(async () => (await sockets()) <= before + 2)
  })
})

/** Sends a body without reading a byte of the answer, then reads. */
async function upload(wire: Wire, body: Iterable<string | Buffer>): Promise<void> {
  const { socket } = wire
  let proceed: (() => void) | undefined
  const onChange = () => proceed?.()
  socket.on('drain', onChange).on('close', onChange).pause()
  for (const piece of body) {
    if (socket.write(piece) || socket.destroyed) continue
    await new Promise<void>(resolve => {
      proceed = resolve
    })
  }
  socket.off('drain', onChange).off('close', onChange).resume()
}

function* bytes(count: number): Iterable<Buffer> {
  for (let i = 0; i < count; i++) yield Buffer.alloc(MIB, 'b')
}

function* chunks(count: number): Iterable<string | Buffer> {
  for (const piece of bytes(count)) {
    yield `${piece.length.toString(16)}\r\n`
    yield piece
    yield '\r\n'
  }
  yield '0\r\n\r\n'
}

/** Writes without end, as fast as it is read. */
function pour(response: ServerResponse): void {
  const piece = 'pouring '.repeat(8192)
  const more = () => {
    while (!response.destroyed && response.write(piece));
  }
  response.on('drain', more)
  more()
}

/** Resolves when what was sent is with the kernel. */
async function sent(wire: Wire): Promise<void> {
  await until(() => wire.socket.writableLength === 0)
}

/** How many sockets a process holds; 0 where nobody tells. */
async function openSockets(pid: number): Promise<number> {
  const folder = `/proc/${pid}/fd`
  try {
    return readdirSync(folder).filter(name => {
      try {
        return readlinkSync(`${folder}/${name}`).startsWith('socket:')
      } catch {
        return false
      }
    }).length
  } catch {
    return 0
  }
}
