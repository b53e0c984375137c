// The gateway serves TLS with whatever sound pair its files hold, without a connection that notices; and shows who it is
// to an STS that asks.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises'
import type { ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls'
import { createDevSts } from '../../dev/sts.ts'
import { createCertificate, type TestCertificate } from '../certificate.ts'
import { freePort, startRedis } from '../redis.ts'
import { startTlsProxy } from '../tls-proxy.ts'
import { until } from '../until.ts'
import {
  ALONE,
  call,
  head,
  KEYS,
  type LogLine,
  RESOURCE,
  startGateway,
  startStack,
  Wire,
  ZONE,
} from './harness.ts'

const folder = await mkdtemp(join(tmpdir(), 'gateway-tls-'))
after(() => rm(folder, { recursive: true, force: true }))

/** Files that hold a pair, in a directory of their own. */
async function filesOf(pair: TestCertificate) {
  const directory = await mkdtemp(join(folder, 'pair-'))
  const files = { cert: join(directory, 'tls.crt'), key: join(directory, 'tls.key') }
  await Promise.all([writeFile(files.cert, pair.cert), writeFile(files.key, pair.key)])
  return { ...files, env: { TLS_CERT_FILE: files.cert, TLS_KEY_FILE: files.key } }
}

/** The end of the validity of certificates that `createCertificate` makes, in Unix time. */
const EXPIRY = Date.UTC(2049, 11, 31, 23, 59, 59) / 1000

describe('a gateway with a certificate', async () => {
  let pair = createCertificate()
  const files = await filesOf(pair)
  const stack = await startStack({ after }, { env: { ...ALONE, ...files.env } })
  const { gateway } = stack

  async function handshake(options: ConnectionOptions = {}): Promise<TLSSocket> {
    const socket = connect({ port: gateway.port, host: '127.0.0.1', ca: pair.cert, ...options })
    await once(socket, 'secureConnect')
    return socket
  }
  /** Whether a new connection is shown this certificate. */
  async function shows({ cert }: TestCertificate): Promise<boolean> {
    const socket = await handshake({ ca: cert }).catch(() => undefined)
    socket?.destroy()
    return socket !== undefined
  }
  const said = (text: string) => gateway.logs.filter(({ msg }) => String(msg).includes(text))
  const staleness = () => stack.metric('tls_certificate_stale')

  test('speaks TLS 1.2 and 1.3, and nothing older', async () => {
    for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
      const socket = await handshake({ minVersion: version, maxVersion: version })
      assert.equal(socket.getProtocol(), version)
      socket.destroy()
    }
    for (const version of ['TLSv1', 'TLSv1.1'] as const) {
      await assert.rejects(
        handshake({ minVersion: version, maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0' }),
        /protocol version/,
      )
    }
  })

  test('speaks HTTP/1.1 and refuses who speaks HTTP/2 alone', async () => {
    const socket = await handshake({ ALPNProtocols: ['h2', 'http/1.1'] })
    assert.equal(socket.alpnProtocol, 'http/1.1')
    socket.destroy()
    await assert.rejects(handshake({ ALPNProtocols: ['h2'] }), /no application protocol/)
    assert.equal((await stack.call()).status, 200)
  })

  test('tells when its certificate expires', async () => {
    assert.equal(await stack.metric('tls_certificate_expiry_timestamp_seconds'), EXPIRY)
    assert.equal(await staleness(), 0)
  })

  const swaps: Record<string, (next: TestCertificate) => Promise<void>> = {
    'written in place': async next => {
      await writeFile(files.cert, next.cert)
      await writeFile(files.key, next.key)
    },
    'renamed over the old one': async next => {
      await writeFile(`${files.key}.next`, next.key)
      await writeFile(`${files.cert}.next`, next.cert)
      await rename(`${files.key}.next`, files.key)
      await rename(`${files.cert}.next`, files.cert)
    },
  }
  for (const [how, swap] of Object.entries(swaps)) {
    test(`serves a pair that is ${how}, and no connection notices`, async () => {
      const streams: ServerResponse[] = []
      stack.upstream.handler = (_request, response) => {
        response.write('before ')
        streams.push(response)
      }
      const [streaming, kept] = [await wire(), await wire()]
      streaming.send(`${head('GET /stream', stack.mint())}\r\n`)
      await streaming.receives(/before/)
      kept.send(`${head('GET /kept', stack.mint())}\r\n`)
      await kept.receives(/before/)
      const next = createCertificate()
      await swap(next)
      await until(() => shows(next), 10_000)
      assert.equal(await shows(pair), false)
      pair = next
      for (const response of streams) response.end('after')
      await streaming.receives(/before .*after/s)
      await kept.receives(/before .*after\r\n0\r\n\r\n/s)
      kept.send(`${head('GET /again', stack.mint())}\r\n`)
      await until(() => streams.length === 3)
      streams[2]?.end('again')
      await kept.receives(/again\r\n0\r\n\r\n/)
      for (const it of [streaming, kept]) {
        assert.equal(it.closed, false)
        it.close()
      }
      assert.equal(await staleness(), 0)
    })
  }

  async function wire(): Promise<Wire> {
    return new Wire(gateway.port, await handshake())
  }

  test('serves a pair that Kubernetes swaps by symbolic link', async t => {
    const mount = await mkdtemp(join(folder, 'mount-'))
    const [one, two] = [createCertificate(), createCertificate()]
    for (const [version, of] of [
      ['..one', one],
      ['..two', two],
    ] as const) {
      await mkdir(join(mount, version))
      await writeFile(join(mount, version, 'tls.crt'), of.cert)
      await writeFile(join(mount, version, 'tls.key'), of.key)
    }
    await symlink('..one', join(mount, '..data'))
    for (const name of ['tls.crt', 'tls.key']) {
      await symlink(join('..data', name), join(mount, name))
    }
    const mounted = await startGateway(
      { after: t.after.bind(t) },
      {
        ...stack.env,
        TLS_CERT_FILE: join(mount, 'tls.crt'),
        TLS_KEY_FILE: join(mount, 'tls.key'),
      },
    )
    const trusts = async ({ cert }: TestCertificate) => {
      const socket = connect({ port: mounted.port, host: '127.0.0.1', ca: cert })
      return once(socket, 'secureConnect')
        .then(
          () => true,
          () => false,
        )
        .finally(() => socket.destroy())
    }
    assert.equal(await trusts(one), true)
    await symlink('..two', join(mount, '..data_tmp'))
    await rename(join(mount, '..data_tmp'), join(mount, '..data'))
    await until(() => trusts(two), 10_000)
    assert.deepEqual(
      mounted.logs.filter(({ level }) => Number(level) >= 50),
      [],
    )
  })

  const unsound: Record<string, [(next: TestCertificate) => Promise<void>, RegExp]> = {
    'whose key is of another': [
      next => writeFile(files.key, next.key),
      /^TLS_KEY_FILE must be the key of the first certificate$/,
    ],
    'of which half is written': [
      next => writeFile(files.cert, next.cert.slice(0, 200)),
      /^TLS_CERT_FILE must name a file of PEM certificates/,
    ],
    'whose key is gone': [() => rm(files.key), /^TLS_KEY_FILE cannot be read \(ENOENT\)$/],
  }
  for (const [what, [spoil, cause]] of Object.entries(unsound)) {
    test(`keeps the last good pair beside one ${what}, says so, and takes the next`, async () => {
      const next = createCertificate()
      const before = said('not sound').length
      await spoil(next)
      await until(() => said('not sound').length > before, 10_000)
      const line = said('not sound').at(-1)
      assert.ok(line)
      assert.equal(line['level'], 50)
      assert.deepEqual(line['files'], [files.cert, files.key])
      assert.deepEqual(causes(line).length, 1)
      assert.match(causes(line)[0] ?? '', cause)
      assert.equal(await staleness(), 1)
      assert.equal(await shows(pair), true)
      assert.equal(await stack.metric('tls_certificate_expiry_timestamp_seconds'), EXPIRY)
      await Promise.all([writeFile(files.cert, next.cert), writeFile(files.key, next.key)])
      await until(() => shows(next), 10_000)
      pair = next
      await until(async () => (await staleness()) === 0)
    })
  }

  test('has told nobody a key', () => {
    assert.doesNotMatch(gateway.output(), /PRIVATE|MIG[A-Za-z0-9]/)
  })
})

function causes(line: LogLine): string[] {
  return Array.isArray(line['problems']) ? line['problems'].map(String) : []
}

describe('a gateway whose STS asks for a certificate', async () => {
  const [server, own, foreign] = [createCertificate(), createCertificate(), createCertificate()]
  const upstream = await startStack({ after })
  const tls = { ...server, ca: own.cert, requestCert: true, rejectUnauthorized: true }
  const sts = createDevSts({
    zones: [ZONE],
    resources: { [RESOURCE]: { url: upstream.upstream.url, auth_mode: 'none' } },
    hmacKey: KEYS.sts,
    record: true,
    tls,
  })
  const url = await sts.listen(0)
  after(() => sts.close())
  const [ownFiles, foreignFiles, serverFiles] = [
    await filesOf(own),
    await filesOf(foreign),
    await filesOf(server),
  ]
  const env = { ...upstream.env, STS_URL: url, STS_CA_FILE: serverFiles.cert }
  const mint = () => sts.mint({ zone_id: ZONE, target: [RESOURCE] })

  test('shows its own for keys, exchange and health', async t => {
    // It is ready once it was healthy.
    const gateway = await startGateway(
      { after: t.after.bind(t) },
      { ...env, STS_CERT_FILE: ownFiles.cert, STS_KEY_FILE: ownFiles.key },
    )
    const answer = await call(gateway.url, '/v1', { token: mint() })
    assert.equal(answer.status, 200, answer.text)
    assert.equal(sts.exchanges.length, 1)
    assert.equal(sts.jwksRequests.length, 1)
  })

  for (const [name, pair] of [
    ['without one', {}],
    [
      'with one that the STS does not trust',
      { STS_CERT_FILE: foreignFiles.cert, STS_KEY_FILE: foreignFiles.key },
    ],
  ] as const) {
    test(`is told nothing ${name}`, async t => {
      const arrived = [sts.exchanges.length, sts.jwksRequests.length]
      // On TLS so that the harness does not wait for it to be ready.
      const { env: served } = await filesOf(server)
      const gateway = await startGateway({ after: t.after.bind(t) }, { ...env, ...pair, ...served })
      const answer = await call(gateway.url, '/v1', { token: mint() })
      assert.equal(answer.status, 503, answer.text)
      assert.equal(answer.json()['error_description'], 'signing keys unavailable')
      const reason = async () =>
        (await call(gateway.url, '/ready', { resource: null })).json()['reason']
      await until(async () => (await reason()) === 'sts_unreachable')
      assert.deepEqual([sts.exchanges.length, sts.jwksRequests.length], arrived)
    })
  }
})

describe('a gateway whose Redis speaks TLS', async () => {
  const [server, foreign] = [createCertificate(), createCertificate()]
  const redis = await startRedis({ after })
  const port = await startTlsProxy({ after }, redis.port, server)
  const url = `rediss://localhost:${port}/0`
  const [serverFiles, foreignFiles] = [await filesOf(server), await filesOf(foreign)]

  test('serves when REDIS_CA_FILE vouches for it', async t => {
    const stack = await startStack(
      { after: t.after.bind(t) },
      { env: { REDIS_URL: url, REDIS_CA_FILE: serverFiles.cert } },
    )
    const answer = await stack.call()
    assert.equal(answer.status, 200, answer.text)
    await until(async () => (await redis.entries('caracal.audit.events')).length === 1)
    assert.deepEqual(await stack.redis.entries('caracal.audit.events'), [])
  })

  for (const [name, ca] of [
    ['nobody', {}],
    ['another', { REDIS_CA_FILE: foreignFiles.cert }],
  ] as const) {
    test(`does not start when ${name} vouches for it, and says why`, async t => {
      await assert.rejects(
        startGateway(
          { after: t.after.bind(t) },
          {
            CARACAL_MODE: 'stable',
            STS_URL: `http://127.0.0.1:${await freePort()}`,
            GATEWAY_STS_HMAC_KEY: KEYS.sts,
            STREAMS_HMAC_KEY: KEYS.streams,
            AUDIT_HMAC_KEY: KEYS.audit,
            REDIS_URL: url,
            REDIS_DIAL_TIMEOUT: '1s',
            ...ca,
          },
        ),
        /cannot start: Redis \(REDIS_URL\).*certificate/,
      )
    })
  }
})
