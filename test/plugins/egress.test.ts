// Holds the egress guard to contract section 7 on real connections: what was checked is what is dialled.

import assert from 'node:assert/strict'
import dns, { type LookupAddress } from 'node:dns'
import { createServer, type IncomingMessage } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { createServer as createTcpServer } from 'node:net'
import { Readable } from 'node:stream'
import { describe, it, type TestContext } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import Fastify from 'fastify'
import type { Dispatcher } from 'undici'
import type { EgressPolicy } from '../../lib/address.ts'
import { parseUpstreamUrl } from '../../lib/upstream-url.ts'
import egress, { type EgressOptions, type Respond, UnsafeAddress } from '../../plugins/egress.ts'
import { createCertificate } from '../certificate.ts'
import { listen } from '../gateway/harness.ts'

const POLICY: EgressPolicy = { hostAllowlist: [], privateNetworks: 'allow', cidrAllowlist: [] }

interface Options extends Partial<Omit<EgressOptions, 'policy'>> {
  readonly policy?: Partial<EgressPolicy>
}

/** An app whose every request is carried; tells what reply-from handed over. */
async function started(t: TestContext, { policy, ...options }: Options = {}) {
  const app = Fastify()
  t.after(() => app.close())
  await app.register(egress, {
    policy: { ...POLICY, ...policy },
    connectTimeout: 5_000,
    ...options,
  })
  const carried: Dispatcher[] = []
  const state: { respond: (respond: Respond) => void } = {
    respond: respond =>
      respond(null, { statusCode: 200, headers: {}, body: Readable.from(['ok']) }),
  }
  app.get('/*', (_request, reply) =>
    reply.from('/', {
      getUpstream: () => 'http://upstream.test',
      rewriteRequestHeaders: () =>
        app.egress.carry((dispatcher, respond) => {
          carried.push(dispatcher)
          state.respond(respond)
        }),
    }),
  )
  await app.inject('/')
  const [dispatcher = assert.fail('nothing was carried')] = carried.splice(0)
  const get = async (origin: string) => {
    const { statusCode, body } = await dispatcher.request({ origin, path: '/', method: 'GET' })
    return [statusCode, await body.text()]
  }
  return { app, get, carried, state }
}

/** An upstream on 127.0.0.1, and what reached it. */
async function upstream(t: TestContext) {
  const arrivals: IncomingMessage[] = []
  const connections: unknown[] = []
  const server = createServer((request, response) => {
    arrivals.push(request)
    // So that every request dials.
    response.writeHead(200, { connection: 'close' }).end('up')
  })
  server.on('connection', socket => connections.push(socket))
  t.after(() => server.close().closeAllConnections())
  return { port: await listen(server), arrivals, connections }
}

/** Answers look-ups from a list, one after the other; the last one stays. Tells the names. */
function resolving(
  t: TestContext,
  ...answers: (readonly string[] | NodeJS.ErrnoException)[]
): string[] {
  const asked: string[] = []
  type Callback = (error: NodeJS.ErrnoException | null, addresses: LookupAddress[]) => void
  t.mock.method(dns, 'lookup', (hostname: string, _options: unknown, callback: Callback) => {
    asked.push(hostname)
    const [answer = []] = answers
    if (answers.length > 1) answers.shift()
    setImmediate(() => {
      if (answer instanceof Error) callback(answer, [])
      else
        callback(
          null,
          answer.map(address => ({ address, family: address.includes(':') ? 6 : 4 })),
        )
    })
  })
  return asked
}

const NOT_FOUND = Object.assign(new Error('getaddrinfo ENOTFOUND'), { code: 'ENOTFOUND' })

describe('a destination', () => {
  const cases: [url: string, policy: Partial<EgressPolicy>, permitted: boolean][] = [
    ['https://api.test/', {}, true],
    ['https://api.test/', { hostAllowlist: ['API.test'] }, true],
    ['https://other.test/', { hostAllowlist: ['api.test'] }, false],
    ['https://sub.api.test/', { hostAllowlist: ['api.test'] }, false],
    ['http://127.0.0.1:81/', {}, true],
    ['http://127.0.0.1/', { privateNetworks: 'deny' }, false],
    ['http://10.1.2.3/', { privateNetworks: 'deny' }, false],
    ['http://10.1.2.3/', { privateNetworks: 'deny', cidrAllowlist: ['10.0.0.0/8'] }, true],
    ['http://[::1]/', { privateNetworks: 'deny' }, false],
    ['http://[::1]/', {}, true],
    ['http://8.8.8.8/', { privateNetworks: 'deny' }, true],
    ['http://8.8.8.8/', { hostAllowlist: ['api.test'] }, false],
  ]
  for (const [url, policy, permitted] of cases) {
    it(`is ${permitted} for ${url} under ${JSON.stringify(policy)}`, async t => {
      const { app } = await started(t, { policy })
      const destination = { upstream: parseUpstreamUrl(url), permitted }
      assert.ok(destination.upstream)
      assert.deepEqual(app.egress.destination(url), destination)
      // From the second time on it is remembered.
      assert.deepEqual(app.egress.destination(url), destination)
    })
  }

  it('is none where the URL is not safe', async t => {
    const { app } = await started(t)
    for (const url of [
      '',
      'ftp://a.test',
      'http://169.254.169.254/',
      `http://a.test:0/${'x'.repeat(3_000)}`,
    ]) {
      assert.deepEqual(app.egress.destination(url), { upstream: undefined, permitted: false })
    }
  })

  it('remembers no more than so many, each URL of a bounded length', async t => {
    const { app } = await started(t)
    const at = (path: string) => app.egress.destination(`http://a.test/${path}`)
    const first = at('')
    assert.equal(at(''), first)
    const long = 'x'.repeat(3_000)
    assert.notEqual(at(long), at(long))
    for (let i = 0; i < 1_000; i++) at(String(i))
    assert.notEqual(at(''), first)
  })
})

describe('a name', () => {
  it('is dialled at the address that was checked', async t => {
    const { port, arrivals } = await upstream(t)
    const asked = resolving(t, ['127.0.0.1'])
    const { get } = await started(t)
    assert.deepEqual(await get(`http://api.test:${port}`), [200, 'up'])
    assert.equal(arrivals[0]?.headers.host, `api.test:${port}`)
    assert.deepEqual(asked, ['api.test'])
  })

  for (const [title, addresses, policy] of [
    ['the metadata service', ['169.254.169.254'], {}],
    ['one address of many', ['127.0.0.1', '169.254.169.254'], {}],
    ['an embedded address', ['::ffff:169.254.169.254'], {}],
    ['no address', [], {}],
    ['a private network', ['127.0.0.1'], { privateNetworks: 'deny' }],
  ] as [string, string[], Partial<EgressPolicy>][]) {
    it(`is not dialled for ${title}`, async t => {
      const { port, connections } = await upstream(t)
      resolving(t, addresses)
      const { get } = await started(t, { policy })
      await assert.rejects(get(`http://api.test:${port}`), UnsafeAddress)
      assert.deepEqual(connections, [])
    })
  }

  it('is dialled on a private network that is an exception', async t => {
    const { port } = await upstream(t)
    resolving(t, ['127.0.0.1'])
    const { get } = await started(t, {
      policy: { privateNetworks: 'deny', cidrAllowlist: ['127.0.0.0/8'] },
    })
    assert.deepEqual(await get(`http://api.test:${port}`), [200, 'up'])
  })

  it('that is rebound between check and dial goes nowhere', async t => {
    const { port, connections } = await upstream(t)
    const asked = resolving(t, ['127.0.0.1'], ['169.254.169.254'])
    const { get } = await started(t)
    assert.deepEqual(await get(`http://api.test:${port}`), [200, 'up'])
    assert.deepEqual(await get(`http://api.test:${port}`), [200, 'up'])
    assert.equal(asked.length, 1)
    assert.equal(connections.length, 2)
    // 10 s later it is asked anew, and what it says then is judged anew.
    const now = performance.now.bind(performance)
    t.mock.method(performance, 'now', () => now() + 10_001)
    // The cache looks at the clock once a millisecond, by a timer that was set before this one.
    await setTimeout(5)
    await assert.rejects(get(`http://api.test:${port}`), UnsafeAddress)
    assert.equal(asked.length, 2)
    assert.equal(connections.length, 2)
  })

  it('that does not resolve is asked anew each time', async t => {
    const { port } = await upstream(t)
    const asked = resolving(t, NOT_FOUND, NOT_FOUND, ['127.0.0.1'])
    const { get } = await started(t)
    for (let i = 0; i < 2; i++) {
      await assert.rejects(
        get(`http://api.test:${port}`),
        (error: Error) => error instanceof UnsafeAddress && error.cause === NOT_FOUND,
      )
    }
    assert.deepEqual(await get(`http://api.test:${port}`), [200, 'up'])
    assert.equal(asked.length, 3)
  })
})

/** An upstream with TLS; its URL. */
async function secure(t: TestContext, certificate: { key: string; cert: string }) {
  const server = createTlsServer(certificate, (_request, response) => void response.end('secure'))
  server.on('tlsClientError', () => undefined)
  t.after(() => server.close().closeAllConnections())
  return `https://127.0.0.1:${await listen(server)}`
}

describe('TLS to an upstream', () => {
  it('stands with a certificate of UPSTREAM_CA_FILE', async t => {
    const certificate = createCertificate(['127.0.0.1'])
    const { get } = await started(t, { ca: certificate.cert })
    assert.deepEqual(await get(await secure(t, certificate)), [200, 'secure'])
  })

  for (const [title, certificate, ca] of [
    ['a self-signed certificate', createCertificate(['127.0.0.1']), undefined],
    ['another authority', createCertificate(['127.0.0.1']), createCertificate(['127.0.0.1']).cert],
  ] as const) {
    it(`does not stand with ${title}`, async t => {
      const { get } = await started(t, { ca })
      await assert.rejects(get(await secure(t, certificate)), /self-signed|unable to verify/)
    })
  }

  it('does not stand for another name, or past its time', async t => {
    const named = createCertificate(['api.test'])
    await assert.rejects(
      (await started(t, { ca: named.cert })).get(await secure(t, named)),
      (error: Error) => Reflect.get(error, 'code') === 'ERR_TLS_CERT_ALTNAME_INVALID',
    )
    const expired = createCertificate(['127.0.0.1'], { expired: true })
    await assert.rejects(
      (await started(t, { ca: expired.cert })).get(await secure(t, expired)),
      /expired/,
    )
  })

  it('is not waited for beyond its time', async t => {
    const server = createTcpServer(socket => socket.on('error', () => undefined).resume())
    t.after(() => server.close())
    const port = await listen(server)
    const { get } = await started(t, { connectTimeout: 100 })
    await assert.rejects(
      get(`https://127.0.0.1:${port}`),
      (error: Error) => Reflect.get(error, 'code') === 'UND_ERR_CONNECT_TIMEOUT',
    )
  })
})

describe('reply-from', () => {
  it('carries a request once, whatever the answer', async t => {
    const { app, carried, state } = await started(t)
    state.respond = respond => {
      respond(null, {
        statusCode: 503,
        headers: { 'retry-after': '0' },
        body: Readable.from(['busy']),
      })
    }
    const answer = await app.inject('/')
    assert.deepEqual([answer.statusCode, answer.body], [503, 'busy'])
    assert.equal(carried.length, 1)
  })

  it('carries beside a Connection that would strip it', async t => {
    const { app, carried } = await started(t)
    const answer = await app.inject({ url: '/', headers: { connection: 'close, dispatch' } })
    assert.equal(answer.body, 'ok')
    assert.equal(carried.length, 1)
  })
})
