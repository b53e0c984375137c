// Where the gateway connects to, whatever notation names it, and where never (contract section 7).
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type RequestListener } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { createCertificate, type TestCertificate } from '../certificate.ts'
import { until } from '../until.ts'
import { ALONE, type Gateway, listen, startGateway, startStack } from './harness.ts'
import { checksById, eventsById, inParallel, type RawAnswer, send, valuesOf } from './raw.ts'

const dir = await mkdtemp(join(tmpdir(), 'gateway-egress-'))
const NAMES = {
  'safe.test': [['127.0.0.1']],
  'both.test': [['127.0.0.1', '127.0.0.1']],
  'metadata.test': [['169.254.169.254']],
  'mapped.test': [['::ffff:169.254.169.254']],
  'alibaba.test': [['100.100.100.200']],
  'ipv6.test': [['fd00:ec2::254']],
  'linklocal.test': [['fe80::1']],
  'nat64.test': [['64:ff9b::a9fe:a9fe']],
  'unspecified.test': [['0.0.0.0']],
  'multicast.test': [['224.0.0.1']],
  'mixed.test': [['127.0.0.1', '169.254.169.254']],
  'mixed-last.test': [['169.254.169.254', '127.0.0.1']],
  'mixed-ipv6.test': [['127.0.0.1', 'fe80::1']],
  'nowhere.test': ['ENOTFOUND'],
  'later.test': ['EAI_AGAIN', ['127.0.0.1']],
  'empty.test': [[]],
  'rebound.test': [['127.0.0.1'], ['169.254.169.254']],
  'moving.test': [['127.0.0.1'], ['127.0.0.2']],
  'other.test': [['127.0.0.1']],
  'private.test': [['127.0.0.1']],
  'excepted.test': [['127.0.0.2']],
  'half-excepted.test': [['127.0.0.2', '127.0.0.1']],
  'tls.test': [['127.0.0.1']],
}
await writeFile(join(dir, 'names.json'), JSON.stringify(NAMES))
await writeFile(join(dir, 'log'), '')
const preload = {
  NODE_OPTIONS: `--import ${new URL('names.ts', import.meta.url).href}`,
  TEST_NAMES: dir,
}
const stack = await startStack({ after }, { env: { ...ALONE, ...preload } })
after(() => rm(dir, { recursive: true }))

const directives = new Map<string, Readonly<Record<string, unknown>>>()
stack.sts.respond = exchange => {
  const directive = directives.get(exchange.fields['gateway_request_id'] ?? '')
  return directive && { directive: { auth_mode: 'none', ...directive } }
}

/** Who was reached, and with which `Host`. Every connection is closed after its answer. */
const reached: { id: string; at: string; host: string }[] = []
const listener =
  (at: string): RequestListener =>
  (request, response) => {
    reached.push({
      id: String(request.headers['x-request-id']),
      at,
      host: String(request.headers.host),
    })
    response.writeHead(200, { connection: 'close' }).end(Buffer.from(at))
  }
const first = createServer(listener('127.0.0.1'))
const port = await listen(first)
const second = createServer(listener('127.0.0.2')).listen(port, '127.0.0.2')
const sixth = createServer(listener('::1')).listen(port, '::1')
await Promise.all([once(second, 'listening'), once(sixth, 'listening')])
after(async () => {
  for (const server of [first, second, sixth]) server.close()
})

let count = 0
interface Result {
  readonly id: string
  readonly url: string
  readonly answer: RawAnswer
}

async function visit(
  url: unknown,
  gateway: Gateway = stack.gateway,
  more: Readonly<Record<string, unknown>> = {},
): Promise<Result> {
  const id = `egress-${count++}`
  directives.set(id, { url, ...more })
  const answer = await send(gateway.port, { token: stack.mint(), id })
  return { id, url: String(url), answer }
}

async function assertReached(
  urls: readonly string[],
  at: string,
  gateway: Gateway = stack.gateway,
): Promise<void> {
  const results = await inParallel(urls, 8, url => visit(url, gateway))
  assert.deepEqual(
    results.flatMap(({ url, answer }) => (answer.text === at ? [] : [[url, answer.text]])),
    [],
  )
}

async function assertRefused(
  urls: readonly unknown[],
  gateway: Gateway = stack.gateway,
): Promise<void> {
  const dialled = await readFile(join(dir, 'log'), 'utf8')
  const results = await inParallel(urls, 8, url => visit(url, gateway))
  assert.deepEqual(
    results.flatMap(({ url, answer }) => {
      const {
        error,
        error_description: description,
        dispatched,
      } = answer.status === 200 ? {} : answer.json()
      const got = [answer.status, error, description, dispatched].join(' ')
      return got === '502 internal_error upstream not addressable no'
        ? []
        : [[url, got, answer.text]]
    }),
    [],
  )
  const ids = results.map(({ id }) => id)
  assert.deepEqual(
    reached.filter(({ id }) => ids.includes(id)),
    [],
    'nothing arrives',
  )
  const log = (await readFile(join(dir, 'log'), 'utf8')).slice(dialled.length)
  assert.doesNotMatch(log, /dial/, 'nothing is dialled')
  const events = await eventsById(stack, ids)
  for (const { id, url } of results) {
    assert.deepEqual(
      (events.get(id) ?? []).map(event => [
        event.event_type,
        event.evaluation_status,
        event.metadata_json['error_kind'],
      ]),
      [['gateway_resource_request', 'upstream_rejected', 'upstream_not_addressable']],
      url,
    )
  }
  await until(() => ids.every(id => checksById({ gateway }).get(id) === 'unsafe_upstream'))
}

const hex = (value: number, length = 0) => value.toString(16).padStart(length, '0')

/** Every way to write an IPv4 address as a URL's host. */
function notations(address: string): string[] {
  const [a = 0, b = 0, c = 0, d = 0] = address.split('.').map(Number)
  const number = ((a * 256 + b) * 256 + c) * 256 + d
  const high = hex(a * 256 + b)
  const low = hex(c * 256 + d)
  const inverse = [a, b, c, d].map(byte => hex(255 - byte, 2))
  const wide = address.replace(/\d/g, digit => String.fromCodePoint(0xff10 + Number(digit)))
  return [
    address,
    `${address}.`,
    `${number}`,
    `0x${hex(number)}`,
    `0X${hex(number).toUpperCase()}`,
    `0${number.toString(8)}`,
    [a, b, c, d].map(byte => `0x${hex(byte)}`).join('.'),
    [a, b, c, d].map(byte => `0${byte.toString(8)}`).join('.'),
    [a, b, c, d].map(byte => `000${byte.toString(8)}`).join('.'),
    `${a}.${b}.${c * 256 + d}`,
    `${a}.${b * 65_536 + c * 256 + d}`,
    `0x${hex(a)}.${b}.0${c.toString(8)}.${d}`,
    wide,
    wide.replaceAll('.', '\u3002'),
    address.replaceAll('.', '\uff0e'),
    address.replace(/\d/g, digit => `%3${digit}`),
    `[::ffff:${address}]`,
    `[::ffff:${high}:${low}]`,
    `[0:0:0:0:0:FFFF:${high}:${low}]`,
    `[::${address}]`,
    `[::ffff:0:${address}]`,
    `[64:ff9b::${address}]`,
    `[64:ff9b::${high}:${low}]`,
    `[64:ff9b:1::${address}]`,
    `[2002:${high}:${low}::]`,
    `[2002:${high}:${low}::1]`,
    `[2001:0:808:808::${inverse[0]}${inverse[1]}:${inverse[2]}${inverse[3]}]`,
    `[2001:0:${high}:${low}::f7f7:f7f7]`,
  ]
}

const FORBIDDEN = [
  '169.254.169.254',
  '169.254.0.1',
  '100.100.100.200',
  '168.63.129.16',
  '192.0.0.192',
  '224.0.0.1',
  '255.255.255.255',
].flatMap(notations)

const FORBIDDEN_HOSTS = [
  '0.0.0.0',
  '0',
  '0x0',
  '00',
  '0.1',
  '0.255.255.255',
  '[::]',
  '[::ffff:0.0.0.0]',
  '[fe80::1]',
  '[FEBF::1]',
  '[fe80::1%25eth0]',
  '[fe80::1%eth0]',
  '[::1%25lo]',
  '[ff02::1]',
  '[fd00:ec2::254]',
  '[fd00:0ec2:ffff::1]',
  '[fd20:ce::254]',
  '[fd00:c1::a9fe:a9fe]',
  '[fd00:42::42]',
  '[fd00:a9fe:a9fe::1]',
  '[fd00:100::100:200]',
  'metadata',
  'METADATA.',
  'metadata.google.internal',
  'Metadata.Google.Internal.',
  'metadata\u3002google\u3002internal',
  'metadata.goog',
  'instance-data',
  'instance-data.ec2.internal',
  '\uff4d\uff45\uff54\uff41data',
  'meta\u200bdata',
  '%6detadata',
]

const UNSAFE_URLS = [
  '',
  'a',
  '//safe.test',
  'http:',
  'http://',
  'http:///x',
  'http:safe.test',
  'http:/safe.test',
  'ftp://safe.test',
  'file:///etc/passwd',
  'ws://safe.test',
  'unix:/var/run/docker.sock',
  'http+unix://safe.test',
  'gopher://safe.test',
  'javascript:alert(1)',
  `http://user@safe.test:${port}`,
  `http://user:password@safe.test:${port}`,
  `http://@safe.test:${port}`,
  `http://:@safe.test:${port}`,
  'http://safe.test@169.254.169.254/',
  `http:\\\\safe.test:${port}`,
  `http://safe.test\\@evil.test`,
  `http://safe.test:${port}/a\\b`,
  'http://safe.test:0',
  'http://127.0.0.1:0',
  'http://[::1]:0',
  'http://safe.test:65536',
  'http://safe.test:-1',
  'http://safe.test:x',
  ` http://safe.test:${port}`,
  `http://safe.test:${port} `,
  `ht\ntp://safe.test:${port}`,
  `http://safe\t.test:${port}`,
  `http://safe.test:${port}/\r\nX-Injected:1`,
  `http://safe.test:${port}/\u0000`,
  'http://.',
  'http://..',
  'http://.safe.test',
  'http://safe..test',
  'http://-safe.test',
  'http://safe-.test',
  'http://*.test',
  'http://safe,test',
  'http://safe_test!',
  'http://1.2.3.4.5',
  'http://256.1.1.1',
  'http://1.2.3.256',
  'http://4294967296',
  'http://safe.1',
  'http://safe.0x1f',
  'http://08',
  'http://[::g]',
  'http://[1.2.3.4]',
  'http://::1',
  'http://[::1',
  `http://${'a'.repeat(64)}.test`,
  `http://${'a.'.repeat(130)}test`,
  'http://xn--',
  'http://safe%00.test',
  'http://safe%2f.test',
  'http://safe%40evil.test',
]

test('the gateway dials no forbidden address, whatever notation names it', async () => {
  const urls = [...FORBIDDEN, ...FORBIDDEN_HOSTS].map(
    host => `http://${host}:${port}/latest/meta-data`,
  )
  assert(urls.length + UNSAFE_URLS.length >= 200)
  await assertRefused(urls)
  await assertRefused(['https://169.254.169.254', 'HTTP://METADATA/', 'http://0xa9fea9fe?x#y'])
})

test('the gateway dials no url that is no destination', async () => {
  await assertRefused(UNSAFE_URLS)
  await assertRefused([undefined, null, 7, {}, [`http://safe.test:${port}`]])
})

test('the gateway reaches the loopback in every notation by default', async () => {
  const embedded = /64:ff9b|2002:|2001:0|ffff:0:|\[::127/
  const hosts = notations('127.0.0.1').filter(host => !embedded.test(host))
  assert(hosts.length >= 18)
  await assertReached(
    [...hosts, '127.1', '0x7f.1', 'localhost.'].map(host => `http://${host}:${port}`),
    '127.0.0.1',
  )
  await assertReached(
    ['[::1]', '[0:0::0:1]', '[0000::0001]'].map(host => `http://${host}:${port}`),
    '::1',
  )
})

test('the gateway reaches private and public addresses by default', async () => {
  const hosts = [
    '10.0.0.1',
    '172.16.0.1',
    '172.31.255.255',
    '192.168.1.1',
    '100.64.0.1',
    '100.127.255.255',
    '8.8.8.8',
    '169.253.255.255',
    '169.255.0.1',
    '223.255.255.255',
    '[fd00::1]',
    '[fc00::1]',
    '[2606:4700::1111]',
    '[64:ff9b::8.8.8.8]',
    '[64:ff9b::10.0.0.1]',
  ]
  await assertReached(
    hosts.map(host => `http://${host}:${port}`),
    '127.0.0.1',
  )
  const log = await readFile(join(dir, 'log'), 'utf8')
  // What is dialled is what was named.
  for (const host of hosts) {
    const address = new URL(`http://${host}`).hostname.replace(/[[\]]/g, '')
    assert.match(log, new RegExp(`^dial ${address.replaceAll('.', '\\.')}$`, 'm'), host)
  }
})

test('the gateway names the upstream in Host', async () => {
  for (const [url, host] of [
    [`http://SAFE.test:${port}`, `safe.test:${port}`],
    [`http://safe.test.:${port}`, `safe.test:${port}`],
    [`http://2130706433:${port}`, `127.0.0.1:${port}`],
    [`http://[0:0::1]:${port}`, `[::1]:${port}`],
  ]) {
    const { id, answer } = await visit(url)
    assert.equal(answer.status, 200, url)
    assert.equal(reached.find(visitor => visitor.id === id)?.host, host)
  }
})

test('the gateway judges the addresses of a name when it dials', async () => {
  await assertReached([`http://safe.test:${port}`, `http://both.test:${port}`], '127.0.0.1')
  await assertRefused(
    [
      'metadata.test',
      'mapped.test',
      'alibaba.test',
      'ipv6.test',
      'linklocal.test',
      'nat64.test',
      'unspecified.test',
      'multicast.test',
      'mixed.test',
      'mixed-last.test',
      'mixed-ipv6.test',
      'nowhere.test',
      'empty.test',
    ].map(name => `http://${name}:${port}`),
  )
})

test('the gateway asks again for a name that did not resolve', async () => {
  await assertRefused([`http://later.test:${port}`])
  await assertReached([`http://later.test:${port}`], '127.0.0.1')
})

test('the gateway judges the build before the addresses of a name', async () => {
  const { answer } = await visit(`http://metadata.test:${port}`, stack.gateway, {
    auth_mode: 'unknown',
  })
  assert.equal(answer.status, 400)
  assert.equal(answer.json()['error_description'], 'upstream request build failed')
})

/** How often a name was looked up. */
const lookups = async (name: string) =>
  (await readFile(join(dir, 'log'), 'utf8')).split('\n').filter(line => line === name).length

test('the gateway keeps a name for 10 s at most, and dials what it checked', async () => {
  const ahead = (milliseconds: number) => visit(`http://ahead-${milliseconds}.test:${port}`)
  const url = `http://moving.test:${port}`
  await assertReached([url], '127.0.0.1')
  await assertReached([url, url, url], '127.0.0.1')
  assert.equal(await lookups('moving.test'), 1, 'kept for the moment')
  const rebound = `http://rebound.test:${port}`
  await assertReached([rebound], '127.0.0.1')
  await ahead(10_001)
  await assertReached([url], '127.0.0.2')
  assert.equal(await lookups('moving.test'), 2)
  await assertRefused([rebound])
  assert.equal(await lookups('rebound.test'), 2)
})

test('the gateway reaches the hosts of UPSTREAM_HOST_ALLOWLIST alone', async t => {
  const gateway = await startGateway(t, {
    ...stack.env,
    UPSTREAM_HOST_ALLOWLIST: `Safe.TEST, 127.0.0.2,mapped.test,[::1],metadata.test`,
  })
  await assertReached(
    ['safe.test', 'SAFE.TEST.', '\uff53afe.test'].map(host => `http://${host}:${port}`),
    '127.0.0.1',
    gateway,
  )
  await assertReached(
    [`http://127.0.0.2:${port}`, `http://2130706434:${port}`],
    '127.0.0.2',
    gateway,
  )
  await assertReached([`http://[0:0::1]:${port}`], '::1', gateway)
  await assertRefused(
    [
      'other.test',
      '127.0.0.1',
      'localhost',
      'sub.safe.test',
      'safe.test.evil.test',
      'xsafe.test',
      'afe.test',
      // Named on the list, and yet forbidden.
      'mapped.test',
      'metadata.test',
      '169.254.169.254',
    ].map(host => `http://${host}:${port}`),
    gateway,
  )
})

test('the gateway denies private networks when told, but for UPSTREAM_CIDR_ALLOWLIST', async t => {
  const gateway = await startGateway(t, {
    ...stack.env,
    UPSTREAM_PRIVATE_NETWORKS: 'deny',
    UPSTREAM_CIDR_ALLOWLIST: '127.0.0.2/31,10.1.0.0/16, fd00:1::/32,169.254.0.0/16',
  })
  await assertReached(
    ['127.0.0.2', '2130706434', 'excepted.test'].map(host => `http://${host}:${port}`),
    '127.0.0.2',
    gateway,
  )
  await assertReached(
    ['10.1.2.3', '[::ffff:127.0.0.2]', '[fd00:1::1]', '8.8.8.8', '[64:ff9b::10.1.2.3]'].map(
      host => `http://${host}:${port}`,
    ),
    '127.0.0.1',
    gateway,
  )
  await assertRefused(
    [
      '127.0.0.1',
      '127.1',
      '2130706433',
      '127.0.0.4',
      '10.0.0.1',
      '10.2.0.1',
      '172.16.0.1',
      '192.168.0.1',
      '100.64.0.1',
      '[::1]',
      '[::ffff:10.0.0.1]',
      '[64:ff9b::10.0.0.1]',
      '[2002:a00:1::]',
      '[fc00::1]',
      '[fd00:2::1]',
      'localhost',
      'private.test',
      'safe.test',
      'half-excepted.test',
      // An exception is none to what is always forbidden.
      '169.254.169.254',
      'metadata.test',
    ].map(host => `http://${host}:${port}`),
    gateway,
  )
})

test('the gateway verifies an upstream’s certificate', async t => {
  const good = createCertificate(['tls.test', '127.0.0.1'])
  const expired = createCertificate(['tls.test', '127.0.0.1'], { expired: true })
  const elsewhere = createCertificate(['elsewhere.test'])
  const urls = new Map<TestCertificate, string>()
  for (const certificate of [good, expired, elsewhere]) {
    const server = createTlsServer(certificate, listener('tls'))
    urls.set(certificate, `https://tls.test:${await listen(server)}`)
    t.after(() => server.close())
  }
  const file = join(dir, 'ca.pem')
  await writeFile(file, [good, expired, elsewhere].map(({ cert }) => cert).join(''))
  const trusting = await startGateway(t, { ...stack.env, UPSTREAM_CA_FILE: file })

  const goodUrl = urls.get(good) ?? ''
  const addressUrl = goodUrl.replace('tls.test', '127.0.0.1')
  await assertReached([goodUrl, addressUrl], 'tls', trusting)
  const refused: [string | undefined, Gateway][] = [
    [goodUrl, stack.gateway],
    [addressUrl, stack.gateway],
    [urls.get(expired), trusting],
    [urls.get(elsewhere), trusting],
    // No TLS behind https.
    [`https://127.0.0.1:${port}`, trusting],
  ]
  const results = await inParallel(refused, 4, ([url, gateway]) => visit(url, gateway))
  const ids = results.map(({ id }) => id)
  const events = await eventsById(stack, ids)
  for (const { id, url, answer } of results) {
    assert.equal(answer.status, 502, url)
    const { error, error_description: description, dispatched } = answer.json()
    assert.deepEqual(
      [error, description, dispatched],
      ['internal_error', 'upstream unreachable', 'no'],
    )
    assert.deepEqual(valuesOf(answer.rawHeaders, 'x-should-retry'), [])
    const [event] = events.get(id) ?? []
    assert.equal(event?.evaluation_status, 'upstream_error')
    assert.equal(event?.metadata_json['error_kind'], 'transport_error')
  }
  assert.deepEqual(
    reached.filter(({ id }) => ids.includes(id)),
    [],
    'not a byte of the request arrives',
  )
})
