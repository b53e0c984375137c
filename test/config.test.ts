// Guarantees that a configuration starts a gateway or names everything that is wrong with it.

import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { inspect } from 'node:util'
import * as fc from 'fast-check'
import {
  type Config,
  configTexts,
  ConfigError,
  configWarnings,
  loadConfig,
  schema,
  SECRETS,
  workerShare,
} from '../config.ts'
import { formatDuration } from '../lib/duration.ts'
import { Secret } from '../lib/secret.ts'

type Env = Record<string, string | undefined>

const KEY = 'a1'.repeat(32)
const DEV: Env = { CARACAL_MODE: 'dev', STS_URL: 'http://127.0.0.1:8080' }
const STABLE: Env = {
  STS_URL: 'https://sts.example.com',
  REDIS_URL: 'redis://redis:6379/0',
  STREAMS_HMAC_KEY: KEY,
  AUDIT_HMAC_KEY: KEY,
  GATEWAY_STS_HMAC_KEY: KEY,
}

const CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBhjCCASugAwIBAgIUMTkSWQp5ewbObsbX/PtJMCkwxMkwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMZ2F0ZXdheS50ZXN0MCAXDTI2MTEyNDA2MDEwN1oYDzIxMjYx
MDMxMDYwMTA3WjAXMRUwEwYDVQQDDAxnYXRld2F5LnRlc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAAR6BUVgQlqWlr3cQ06EGFyreY7mH6iY/GwBdbm265+ZrV1/
0wDjj78ICxqsyWO1kb2c7xy+s6+OJmTTGM/QJQTmo1MwUTAdBgNVHQ4EFgQU2DNG
JYQU9OtwUWuUGhHswDG7DNwwHwYDVR0jBBgwFoAU2DNGJYQU9OtwUWuUGhHswDG7
DNwwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEAyjYjgbgZ2/pY
b+QbjRslYiL588/ZwRxaUK/ycBcy6owCIQDrGWZe61kfzkV9qs0HF0JFA0JAnH+s
4WkVC1paiROUsg==
-----END CERTIFICATE-----
`
const PRIVATE_KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgEcESb9TeGyhA+5yg
muYRPYmEkHOMju5oTDG2SWiVWxqhRANCAAR6BUVgQlqWlr3cQ06EGFyreY7mH6iY
/GwBdbm265+ZrV1/0wDjj78ICxqsyWO1kb2c7xy+s6+OJmTTGM/QJQTm
-----END PRIVATE KEY-----
`
const OTHER_KEY = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey

const directory = mkdtempSync(join(tmpdir(), 'config-test-'))
after(() => rmSync(directory, { recursive: true }))
let files = 0
function file(content: string): string {
  files += 1
  const path = join(directory, `file-${files}`)
  writeFileSync(path, content)
  return path
}

const MISSING = join(directory, 'missing')
const CERT_FILE = file(CERTIFICATE)
const KEY_FILE = file(PRIVATE_KEY)
const OTHER_KEY_FILE = file(OTHER_KEY.export({ type: 'pkcs8', format: 'pem' }).toString())
const ENCRYPTED_KEY_FILE = file(
  OTHER_KEY.export({
    type: 'pkcs8',
    format: 'pem',
    cipher: 'aes-256-cbc',
    passphrase: 'x',
  }).toString(),
)
const BUNDLE_FILE = file(`# two roots\n${CERTIFICATE}\r\n${CERTIFICATE}`)
const EMPTY_FILE = file('')
const BLANK_FILE = file(' \n\t\r\n')
const JUNK_FILE = file('not PEM at all')
const CUT_FILE = file(`${CERTIFICATE}\n-----BEGIN CERTIFICATE-----\nMIIB`)
const BROKEN_FILE = file('-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n')

function problems(env: Env): readonly string[] {
  try {
    loadConfig(env)
  } catch (error) {
    assert.ok(error instanceof ConfigError, inspect(error))
    return error.problems
  }
  return []
}

/** Which variables the problems begin with. */
function refused(env: Env): string[] {
  return problems(env).map(problem => problem.split(' ')[0] ?? '')
}

/** Which variables the warnings begin with. */
function warned(env: Env): (string | undefined)[] {
  return configWarnings(loadConfig(env)).map(warning => warning.split(' ')[0])
}

/** Words that mean themselves. */
function same(words: string[]): [string, unknown][] {
  return words.map(word => [word, word])
}

describe('loadConfig: what is required', () => {
  it('starts dev with STS_URL alone', () => {
    const config = loadConfig(DEV)
    assert.deepEqual(
      { ...config },
      {
        mode: 'dev',
        host: '127.0.0.1',
        port: 8081,
        logLevel: 'info',
        tlsCertFile: undefined,
        tlsKeyFile: undefined,
        trustProxy: false,
        gatewayPlugins: [],
        maxRequestBytes: 10_485_760,
        maxInFlight: 1000,
        workers: 1,
        maxEventLoopDelay: 1000,
        shutdownDelay: 0,
        shutdownTimeout: 15_000,
        readHeaderTimeout: 5000,
        readTimeout: 45_000,
        writeTimeout: 60_000,
        idleTimeout: 120_000,
        stsUrl: 'http://127.0.0.1:8080',
        stsIssuer: undefined,
        stsTimeout: 5000,
        stsCaFile: undefined,
        stsCertFile: undefined,
        stsKeyFile: undefined,
        gatewayStsHmacKey: undefined,
        mandateUses: ['gateway'],
        upstreamTimeout: 30_000,
        streamIdleTimeout: 60_000,
        upstreamHostAllowlist: [],
        upstreamPrivateNetworks: 'allow',
        upstreamCidrAllowlist: [],
        upstreamCaFile: undefined,
        bindingsFile: undefined,
        redisUrl: undefined,
        redisCaFile: undefined,
        redisDialTimeout: 5000,
        redisReadTimeout: 3000,
        databaseUrl: undefined,
        databaseCaFile: undefined,
        dbMaxConns: 20,
        dbMinConns: 0,
        dbConnectTimeout: 10_000,
        dbMaxConnLifetime: 3_600_000,
        dbMaxConnIdle: 1_800_000,
        streamsHmacKey: undefined,
        streamsHmacKeyPrevious: undefined,
        jtiFailOpen: false,
        auditHmacKey: undefined,
        auditDurability: 'relaxed',
        auditReplayDir: undefined,
        caracalAdminToken: undefined,
        metricsBearer: undefined,
        otelExporterOtlpEndpoint: undefined,
        otelExporterOtlpHeaders: undefined,
        otelServiceName: 'caracal-gateway',
        otelResourceAttributes: {},
        otelTracesSampler: 'parentbased_always_on',
        otelTracesSamplerArg: 1,
      },
    )
  })

  it('is stable unless it says otherwise, and listens everywhere then', () => {
    const config = loadConfig(STABLE)
    assert.equal(config.mode, 'stable')
    assert.equal(config.host, '::')
    assert.equal(config.redisUrl?.reveal(), 'redis://redis:6379/0')
    assert.equal(config.auditHmacKey?.reveal(), KEY)
    assert.equal(config.auditDurability, 'strict')
    assert.equal(config.auditReplayDir, '/var/lib/caracal/audit-replay')
  })

  for (const mode of ['rc', 'stable', '']) {
    it(`names all that a published gateway (mode '${mode}') lacks`, () => {
      assert.deepEqual(refused({ CARACAL_MODE: mode }).toSorted(), [
        'AUDIT_HMAC_KEY',
        'GATEWAY_STS_HMAC_KEY',
        'REDIS_URL',
        'STREAMS_HMAC_KEY',
        'STS_URL',
      ])
    })
  }

  it('names STS_URL in dev', () => {
    assert.deepEqual(problems({ CARACAL_MODE: 'dev' }), ['STS_URL is required; set it'])
  })

  it('takes an empty string as unset, for every variable', () => {
    const names = Object.keys(schema.properties)
    const empty = Object.fromEntries(
      names.flatMap(name => [
        [name, ''],
        [`${name}_FILE`, ''],
      ]),
    )
    assert.deepEqual(loadConfig({ ...empty, ...DEV }), loadConfig(DEV))
    assert.deepEqual(refused({ ...STABLE, REDIS_URL: '' }), ['REDIS_URL'])
  })

  it('ignores what it does not know', () => {
    const env = {
      ...DEV,
      FOO: 'x',
      PATH_FILE: MISSING,
      PORT_FILE: MISSING,
      STS_ISSUER_FILE: MISSING,
    }
    assert.deepEqual(loadConfig(env), loadConfig(DEV))
  })

  it('carries every variable that acts into the configuration', () => {
    const withoutEffect =
      /^(?:INSECURE_|REDIS_(?:WRITE|POOL|MIN)|DB_HEALTH|OTEL_EXPORTER_OTLP_PROTOCOL)/
    const config = loadConfig(DEV)
    for (const name of Object.keys(schema.properties)) {
      const member = name
        .replace('CARACAL_MODE', 'MODE')
        .toLowerCase()
        .replaceAll(/_(.)/g, (_, letter: string) => letter.toUpperCase())
      assert.equal(Object.hasOwn(config, member), !withoutEffect.test(name), name)
    }
  })

  it('leaves its input as it is, and needs nothing of the process', t => {
    const env = Object.freeze({ ...DEV, TRUST_PROXY: '10.0.0.1', CARACAL_ADMIN_TOKEN: 'x' })
    process.env.STS_ISSUER = 'https://elsewhere.example'
    t.after(() => delete process.env.STS_ISSUER)
    const config = loadConfig(env)
    assert.deepEqual({ ...env }, { ...DEV, TRUST_PROXY: '10.0.0.1', CARACAL_ADMIN_TOKEN: 'x' })
    assert.equal(config.stsIssuer, undefined)
  })

  it('gives a configuration that nobody can change', () => {
    const config = loadConfig({ ...DEV, UPSTREAM_HOST_ALLOWLIST: 'a.example' })
    assert.throws(() => Object.assign(config, { mode: 'dev' }), TypeError)
    assert.throws(() => Object.assign(config.upstreamHostAllowlist, { 0: 'b' }), TypeError)
    assert.throws(() => Object.assign(config.mandateUses, { 0: 'session' }), TypeError)
  })

  it('gives the same twice', () => {
    assert.deepEqual(loadConfig(STABLE), loadConfig(STABLE))
  })
})

describe('loadConfig: each variable', () => {
  const MODES = ['dev', 'rc', 'stable']
  const LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']
  const TRUE = ['1', 't', 'T', 'TRUE', 'true', 'True']
  const FALSE = ['0', 'f', 'F', 'FALSE', 'false', 'False']

  const forms: Record<string, { member: keyof Config; good: [string, unknown][]; bad: string[] }> =
    {
      CARACAL_MODE: { member: 'mode', good: same(MODES), bad: ['prod', 'DEV', ' dev', 'dev,rc'] },
      HOST: {
        member: 'host',
        good: same(['::', '::1', '0.0.0.0', 'localhost', 'gateway.internal', 'fe80::1%eth0']),
        bad: ['[::1]', '127.0.0.1:80', 'http://x', 'a b', '*'],
      },
      PORT: {
        member: 'port',
        good: [
          ['0', 0],
          ['1', 1],
          ['65535', 65_535],
          ['0443', 443],
        ],
        bad: ['65536', '-1', '80.5', '1e3', '0x50', ' 80', 'http', '99999999999999999999'],
      },
      LOG_LEVEL: { member: 'logLevel', good: same(LEVELS), bad: ['verbose', 'INFO', '30'] },
      TRUST_PROXY: {
        member: 'trustProxy',
        good: [
          ...TRUE.map((word): [string, unknown] => [word, true]),
          ...FALSE.map((word): [string, unknown] => [word, false]),
          ['10.0.0.1', ['10.0.0.1']],
          ['10.0.0.0/8, ::1 ,fd00::/8,', ['10.0.0.0/8', '::1', 'fd00::/8']],
          ['0.0.0.0/0,::/0', ['0.0.0.0/0', '::/0']],
          ['10.0.0.1/32,10.0.0.1/32', ['10.0.0.1/32']],
        ],
        bad: [
          'yes',
          '2',
          'loopback',
          '10.0.0',
          '10.0.0.0/33',
          '::/129',
          '10.0.0.0/',
          '10.0.0.0/-1',
          '10.0.0.0/08',
          '10.0.0.0/8/8',
          '10.0.0.1 10.0.0.2',
          'proxy.example',
          ',',
          'true,10.0.0.1',
          '010.0.0.1',
          'fe80::1%eth0',
          '[::1]',
          '10.0.0.1:80',
        ],
      },
      MAX_REQUEST_BYTES: {
        member: 'maxRequestBytes',
        good: [
          ['1', 1],
          ['9007199254740991', Number.MAX_SAFE_INTEGER],
        ],
        bad: ['0', '-1', '1.5', '10MB', '9007199254740992', '1e7', 'Infinity', 'NaN', '٣'],
      },
      DB_MAX_CONNS: { member: 'dbMaxConns', good: [['1', 1]], bad: ['0', '-1', 'many'] },
      DB_MIN_CONNS: {
        member: 'dbMinConns',
        good: [
          ['0', 0],
          ['20', 20],
        ],
        bad: ['-1', '21', '1.5', 'few'],
      },
      WORKERS: { member: 'workers', good: [['1', 1]], bad: ['0', '65', '-1', '1.5', 'all'] },
      MAX_IN_FLIGHT: { member: 'maxInFlight', good: [['1', 1]], bad: ['0', '-1', 'many'] },
      OTEL_EXPORTER_OTLP_ENDPOINT: {
        member: 'otelExporterOtlpEndpoint',
        good: [
          ['http://collector:4318', 'http://collector:4318'],
          ['https://collector.example.com/base/', 'https://collector.example.com/base'],
        ],
        bad: [
          'collector:4318',
          'grpc://collector',
          'http://u:p@collector',
          'http://collector/?a=b',
        ],
      },
      OTEL_RESOURCE_ATTRIBUTES: {
        member: 'otelResourceAttributes',
        good: [
          ['a=b', { a: 'b' }],
          [' a = b%2Cc , d=,', { a: 'b,c', d: '' }],
        ],
        bad: ['a', '=b', 'a=b,c', 'a=%', 'a=1,a=2', 'anything at all'],
      },
      OTEL_TRACES_SAMPLER: {
        member: 'otelTracesSampler',
        good: [['traceidratio', 'traceidratio']],
        bad: ['always', 'jaeger_remote'],
      },
      OTEL_TRACES_SAMPLER_ARG: {
        member: 'otelTracesSamplerArg',
        good: [
          ['0', 0],
          ['0.25', 0.25],
          ['.5', 0.5],
          ['1.0', 1],
        ],
        bad: ['-0.1', '1.1', '1e-3', 'half', '50%', 'NaN'],
      },
      STS_URL: {
        member: 'stsUrl',
        good: [
          ['https://sts.example.com', 'https://sts.example.com'],
          ['https://sts.example.com/', 'https://sts.example.com'],
          ['HTTPS://STS.example.com:443//', 'https://sts.example.com'],
          ['http://sts.example.com:8080/base/', 'http://sts.example.com:8080/base'],
          ['http://[::1]:8080', 'http://[::1]:8080'],
        ],
        bad: [
          'sts.example.com',
          '/sts',
          'ftp://sts',
          'https:sts',
          'https:///sts',
          'https://',
          'https://user@sts',
          'https://user:pw@sts',
          'https://@sts',
          'https://sts?',
          'https://sts?a=b',
          'https://sts#',
          'https://sts/#x',
          'https://sts/a?b',
          ' https://sts',
          'https://sts ',
          'https://s ts',
          'https:\\\\sts',
          'https://sts\\@evil',
          'https://sts/\n',
          'https://sts:99999',
          'redis://sts',
          'https://a,https://b',
          'https://*.example.com',
          'https://[::1',
          'https://%zz',
        ],
      },
      STS_ISSUER: {
        member: 'stsIssuer',
        good: same(['https://sts.example.com/', 'caracal']),
        bad: [],
      },
      MANDATE_USES: {
        member: 'mandateUses',
        good: [
          ['gateway', ['gateway']],
          ['gateway, session', ['gateway', 'session']],
          ['resource,resource,', ['resource']],
        ],
        bad: ['Gateway', 'gateway session', 'any', 'gateway,*', ',', ' '],
      },
      UPSTREAM_HOST_ALLOWLIST: {
        member: 'upstreamHostAllowlist',
        good: [
          ['api.example.com', ['api.example.com']],
          [
            ' API.example.com. ,b_c,10.0.0.1, api.EXAMPLE.com',
            ['api.example.com', 'b_c', '10.0.0.1'],
          ],
          ['::1,[FD00::0:1]', ['[::1]', '[fd00::1]']],
          ['bücher.example', ['xn--bcher-kva.example']],
        ],
        bad: [
          '*',
          '*.example.com',
          'https://api',
          'api:443',
          'api/x',
          'a b',
          ',',
          ' , ',
          'u@h',
          'a,b?',
          'a#b',
          '[::1]:80',
          '[api]',
          'a..b\\',
          'fe80::1%eth0',
          '1.2.3.4.5',
        ],
      },
      UPSTREAM_PRIVATE_NETWORKS: {
        member: 'upstreamPrivateNetworks',
        good: same(['allow', 'deny']),
        bad: ['true', 'Deny', 'block'],
      },
      UPSTREAM_CIDR_ALLOWLIST: {
        member: 'upstreamCidrAllowlist',
        good: [['10.1.0.0/16,fd00::1', ['10.1.0.0/16', 'fd00::1']]],
        bad: ['true', 'false', '10.1.0.0/33', 'internal', ','],
      },
      JTI_FAIL_OPEN: {
        member: 'jtiFailOpen',
        good: [
          ...TRUE.map((word): [string, unknown] => [word, true]),
          ...FALSE.map((word): [string, unknown] => [word, false]),
        ],
        bad: ['yes', 'no', 'on', 'tRUE', ' true', '2', 'null'],
      },
      AUDIT_DURABILITY: {
        member: 'auditDurability',
        good: same(['relaxed']),
        bad: ['Relaxed', 'none', 'fsync'],
      },
    }

  for (const [name, { member, good, bad }] of Object.entries(forms)) {
    for (const [text, meaning] of good) {
      it(`takes ${name}=${text}`, () => {
        const base = name === 'CARACAL_MODE' ? { ...STABLE, ...DEV, STS_URL: 'https://sts' } : DEV
        assert.deepEqual(loadConfig({ ...base, [name]: text })[member], meaning)
      })
    }
    for (const text of bad) {
      it(`refuses ${name}=${JSON.stringify(text)}`, () => {
        assert.deepEqual(refused({ ...STABLE, ...DEV, STS_URL: 'https://sts', [name]: text }), [
          name,
        ])
      })
    }
  }

  const timeouts: [string, keyof Config | undefined][] = [
    ['STS_TIMEOUT', 'stsTimeout'],
    ['UPSTREAM_TIMEOUT', 'upstreamTimeout'],
    ['READ_HEADER_TIMEOUT', 'readHeaderTimeout'],
    ['READ_TIMEOUT', 'readTimeout'],
    ['STREAM_IDLE_TIMEOUT', 'streamIdleTimeout'],
    ['IDLE_TIMEOUT', 'idleTimeout'],
    ['REDIS_DIAL_TIMEOUT', 'redisDialTimeout'],
    ['REDIS_READ_TIMEOUT', 'redisReadTimeout'],
    ['DB_CONNECT_TIMEOUT', 'dbConnectTimeout'],
    ['DB_MAX_CONN_LIFETIME', 'dbMaxConnLifetime'],
    ['DB_MAX_CONN_IDLE', 'dbMaxConnIdle'],
    ['SHUTDOWN_TIMEOUT', 'shutdownTimeout'],
    ['MAX_EVENT_LOOP_DELAY', 'maxEventLoopDelay'],
    ['WRITE_TIMEOUT', 'writeTimeout'],
    ['REDIS_WRITE_TIMEOUT', undefined],
  ]
  for (const [name, member] of timeouts) {
    it(`takes ${name} as a duration above zero`, () => {
      // So that the sum that READ_TIMEOUT must exceed stays out of the way.
      const env = { ...DEV, READ_TIMEOUT: '500h', STS_TIMEOUT: '1us', UPSTREAM_TIMEOUT: '1us' }
      for (const [text, milliseconds] of [
        ['3ms', 3],
        ['1m30s', 90_000],
        ['2001us', 3],
        ['499h', 1_796_400_000],
      ] as const) {
        const config = loadConfig({ ...env, [name]: text })
        if (member) assert.equal(config[member], milliseconds, text)
      }
      for (const text of ['0', '0s', '5', '-1s', '+1s', 'soon', '5 s', '1d', '596h31m23.648s']) {
        assert.deepEqual(refused({ ...DEV, [name]: text }), [name], text)
      }
    })
  }

  it('takes no duration that a timer cannot hold', () => {
    assert.equal(loadConfig({ ...DEV, IDLE_TIMEOUT: '596h31m23.647s' }).idleTimeout, 2 ** 31 - 1)
    assert.deepEqual(problems({ ...DEV, IDLE_TIMEOUT: '600h' }), [
      'IDLE_TIMEOUT must not be longer than 596h31m23.647s',
    ])
  })

  it('takes SHUTDOWN_DELAY as a duration that may be zero', () => {
    for (const text of ['0', '0s']) {
      assert.equal(loadConfig({ ...DEV, SHUTDOWN_DELAY: text }).shutdownDelay, 0)
    }
    assert.equal(loadConfig({ ...DEV, SHUTDOWN_DELAY: '5s' }).shutdownDelay, 5000)
    assert.deepEqual(refused({ ...DEV, SHUTDOWN_DELAY: '5' }), ['SHUTDOWN_DELAY'])
    assert.deepEqual(refused({ ...DEV, SHUTDOWN_DELAY: '-1s' }), ['SHUTDOWN_DELAY'])
  })

  const keys = [
    'STREAMS_HMAC_KEY',
    'STREAMS_HMAC_KEY_PREVIOUS',
    'AUDIT_HMAC_KEY',
    'GATEWAY_STS_HMAC_KEY',
  ]
  for (const name of keys) {
    it(`takes ${name} as hex of 32 bytes at least`, () => {
      for (const key of [KEY, KEY.toUpperCase(), 'ab'.repeat(64)]) {
        assert.deepEqual(problems({ ...STABLE, [name]: key }), [])
      }
      for (const key of [
        'ab'.repeat(31),
        `${KEY}a`,
        KEY.replace('a', 'g'),
        ` ${KEY}`,
        `0x${KEY}`,
      ]) {
        assert.deepEqual(refused({ ...STABLE, [name]: key }), [name])
      }
    })
  }

  it('takes STREAMS_HMAC_KEY_PREVIOUS only beside STREAMS_HMAC_KEY', () => {
    const previous = { STREAMS_HMAC_KEY_PREVIOUS: KEY }
    assert.deepEqual(refused({ ...DEV, ...previous }), ['STREAMS_HMAC_KEY_PREVIOUS'])
    assert.deepEqual(refused({ ...DEV, ...previous, STREAMS_HMAC_KEY: KEY }), [])
    assert.deepEqual(refused({ ...STABLE, ...previous, STREAMS_HMAC_KEY: '' }), [
      'STREAMS_HMAC_KEY',
    ])
    assert.deepEqual(refused({ ...DEV, ...previous, STREAMS_HMAC_KEY: 'x' }), ['STREAMS_HMAC_KEY'])
  })

  it('takes REDIS_URL as a URL of a server, of sentinels or of a cluster', () => {
    for (const url of [
      'redis://redis',
      'redis://redis:6379',
      'rediss://redis:6380/0',
      'redis://:p%23w@redis:6379/15',
      'redis://user:pw@[::1]:6379/',
      'redis://redis/1?family=6',
      'redis+sentinel://h1,h2/name',
      'redis+cluster://h1,h2',
    ]) {
      assert.equal(loadConfig({ ...DEV, REDIS_URL: url }).redisUrl?.reveal(), url)
    }
    for (const url of [
      'redis:6379',
      'redis+sentinel://h1,h2',
      'redis+cluster://h1/1',
      'http://h',
    ]) {
      const found = problems({ ...DEV, REDIS_URL: url })
      assert.equal(found.length, 1, url)
      assert.match(found[0] ?? '', /^REDIS_URL must .*redis\+sentinel:.*redis\+cluster:/, url)
    }
  })

  it('takes DATABASE_URL as a URL of one server', () => {
    for (const url of [
      'postgres://user@db',
      'postgresql://u:p@[::1]:5432/caracal?sslmode=require',
    ]) {
      const { databaseUrl, databaseCaFile } = loadConfig({ ...DEV, DATABASE_URL: url })
      assert.equal(databaseUrl?.reveal(), url)
      assert.equal(databaseCaFile, undefined)
    }
    for (const [url, problem] of [
      ['mysql://user@db', /must be postgres:\/\//],
      ['postgres://user@db1,db2/caracal', /must name one host/],
      ['postgres://user@db?sslmode=no-verify', /must have an sslmode of disable, /],
      ['postgres://user@db?sslmode=verify-ca', /needs sslrootcert/],
      ['postgres://user@db?ssl=true', /takes only the parameters .*look at parameter 1/],
    ] as const) {
      const found = problems({ ...DEV, DATABASE_URL: url })
      assert.equal(found.length, 1, url)
      assert.match(found[0] ?? '', /^DATABASE_URL /, url)
      assert.match(found[0] ?? '', problem, url)
    }
  })

  for (const name of ['CARACAL_ADMIN_TOKEN', 'METRICS_BEARER'] as const) {
    it(`takes ${name} as text that a header can carry`, () => {
      for (const text of ['x', 'two words', '!~']) {
        assert.deepEqual(problems({ ...DEV, [name]: text }), [])
      }
      for (const text of [' ', ' x', 'x ', 'a\nb', 'naïve', 'x\u007f', '\t']) {
        assert.deepEqual(refused({ ...DEV, [name]: text }), [name])
      }
    })
  }

  it('takes every AUDIT_DURABILITY together with a directory, and in a published mode', () => {
    for (const durability of ['relaxed', 'strict', 'synced']) {
      const env = { AUDIT_DURABILITY: durability }
      const dev = loadConfig({ ...DEV, ...env, AUDIT_REPLAY_DIR: '/evidence' })
      assert.deepEqual([dev.auditDurability, dev.auditReplayDir], [durability, '/evidence'])
      assert.equal(loadConfig({ ...STABLE, ...env }).auditDurability, durability)
    }
  })

  it('takes any text for the variables without effect', () => {
    const env = Object.fromEntries(
      [
        'REDIS_POOL_SIZE',
        'REDIS_MIN_IDLE_CONNS',
        'REDIS_POOL_TIMEOUT',
        'DB_HEALTH_CHECK_PERIOD',
        'OTEL_EXPORTER_OTLP_PROTOCOL',
      ].map(name => [name, 'anything at all']),
    )
    assert.deepEqual(loadConfig({ ...STABLE, ...env }), loadConfig(STABLE))
  })

  it('takes plugins as a list of packages and paths', () => {
    const read = (text: string) => loadConfig({ ...DEV, GATEWAY_PLUGINS: text }).gatewayPlugins
    assert.deepEqual(read('@team/limit, ./plugins/hours.ts'), ['@team/limit', './plugins/hours.ts'])
    assert.deepEqual(loadConfig(DEV).gatewayPlugins, [])
    assert.deepEqual(problems({ ...DEV, GATEWAY_PLUGINS: './a.ts ./b.ts' }), [
      'GATEWAY_PLUGINS must be a comma-separated list of package names and paths; look at entry 1',
    ])
  })
})

describe('loadConfig: rules across variables', () => {
  it('wants Redis for several workers, and a share of what there is for each', () => {
    assert.deepEqual(problems({ ...DEV, WORKERS: '2' }), [
      'WORKERS needs REDIS_URL, or each worker would take a mandate once; set that, or unset this',
    ])
    const several = { ...STABLE, WORKERS: '64' }
    assert.equal(loadConfig(several).workers, 64)
    assert.deepEqual(problems({ ...several, MAX_IN_FLIGHT: '63' }), [
      'MAX_IN_FLIGHT must be WORKERS (64) at least; raise it',
    ])
    assert.deepEqual(problems({ ...several, DB_MAX_CONNS: '20' }), [])
    const url = 'postgres://gateway@db.example.com/caracal'
    assert.deepEqual(problems({ ...several, DATABASE_URL: url, DB_MAX_CONNS: '63' }), [
      'DB_MAX_CONNS must be WORKERS (64) at least; raise it',
    ])
    // Each problem once.
    assert.deepEqual(refused({ ...DEV, WORKERS: '2', REDIS_URL: 'nowhere' }), ['REDIS_URL'])
  })

  it('shares out what the service may take, and no more', () => {
    const limits = { MAX_IN_FLIGHT: '1000', DB_MAX_CONNS: '20', DB_MIN_CONNS: '2' }
    const share = workerShare(loadConfig({ ...STABLE, ...limits, WORKERS: '3' }))
    assert.deepEqual([share.maxInFlight, share.dbMaxConns, share.dbMinConns], [333, 6, 0])
    const alone = loadConfig({ ...STABLE, ...limits })
    assert.deepEqual(workerShare(alone), alone)
  })

  it('gives workers what it has read itself, secrets out of their files included', () => {
    const { AUDIT_HMAC_KEY: _, ...rest } = STABLE
    const env = {
      ...rest,
      AUDIT_HMAC_KEY_FILE: file(`${KEY}\n`),
      WORKERS: '2',
      PATH: '/bin',
      PORT: '',
    }
    const texts = configTexts(env)
    assert.equal(texts['AUDIT_HMAC_KEY'], KEY)
    assert.deepEqual(loadConfig(texts), loadConfig(env))
    assert.deepEqual(
      Object.keys(texts).filter(name => !Object.hasOwn(schema.properties, name)),
      [],
    )
  })

  it('wants SHUTDOWN_DELAY below three quarters of SHUTDOWN_TIMEOUT', () => {
    assert.deepEqual(problems({ ...DEV, SHUTDOWN_DELAY: '11250ms' }), [
      'SHUTDOWN_DELAY must be less than three quarters of SHUTDOWN_TIMEOUT (11.25s); lower it',
    ])
    assert.deepEqual(problems({ ...DEV, SHUTDOWN_DELAY: '11s' }), [])
    assert.deepEqual(problems({ ...DEV, SHUTDOWN_DELAY: '16s', SHUTDOWN_TIMEOUT: '22s' }), [])
    assert.deepEqual(refused({ ...DEV, SHUTDOWN_DELAY: '16s', SHUTDOWN_TIMEOUT: '21s' }), [
      'SHUTDOWN_DELAY',
    ])
  })

  it('wants READ_TIMEOUT above the sum of STS_TIMEOUT and UPSTREAM_TIMEOUT', () => {
    assert.deepEqual(problems({ ...DEV, READ_TIMEOUT: '35s' }), [
      'READ_TIMEOUT must exceed STS_TIMEOUT + UPSTREAM_TIMEOUT (35s); raise it',
    ])
    assert.deepEqual(problems({ ...DEV, READ_TIMEOUT: '35.001s' }), [])
    assert.deepEqual(refused({ ...DEV, UPSTREAM_TIMEOUT: '40s' }), ['READ_TIMEOUT'])
    assert.deepEqual(refused({ ...DEV, STS_TIMEOUT: '15s' }), ['READ_TIMEOUT'])
    assert.deepEqual(refused({ ...DEV, STS_TIMEOUT: '14.999s' }), [])
  })

  it('judges the sum for any three timeouts as arithmetic does', () => {
    const timeout = fc.integer({ min: 1, max: 100_000 })
    fc.assert(
      fc.property(timeout, timeout, timeout, (sts, upstream, read) => {
        const env = {
          ...DEV,
          STS_TIMEOUT: formatDuration(sts),
          UPSTREAM_TIMEOUT: formatDuration(upstream),
          READ_TIMEOUT: formatDuration(read),
        }
        assert.equal(problems(env).length === 0, read > sts + upstream)
      }),
      { numRuns: 25 },
    )
  })

  it('wants no more connections to stay open than there may be', () => {
    const env = { ...DEV, DB_MAX_CONNS: '3' }
    assert.deepEqual(problems({ ...env, DB_MIN_CONNS: '3' }), [])
    assert.deepEqual(problems({ ...env, DB_MIN_CONNS: '4' }), [
      'DB_MIN_CONNS must not be more than DB_MAX_CONNS; lower it',
    ])
    assert.deepEqual(refused({ ...DEV, DB_MAX_CONNS: 'x', DB_MIN_CONNS: '40' }), ['DB_MAX_CONNS'])
  })

  it('speaks one protocol to a collector, and asks for it where there is one', () => {
    const collector = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318' }
    for (const protocol of [undefined, '', 'http/protobuf']) {
      const env = { ...STABLE, ...collector, OTEL_EXPORTER_OTLP_PROTOCOL: protocol }
      assert.deepEqual(problems(env), [])
    }
    for (const protocol of ['grpc', 'http/json']) {
      const env = { ...STABLE, OTEL_EXPORTER_OTLP_PROTOCOL: protocol }
      assert.deepEqual(problems(env), [])
      assert.deepEqual(problems({ ...env, ...collector }), [
        'OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf; unset it',
      ])
    }
  })

  it('takes the name of the service from OTEL_SERVICE_NAME, else from its attributes', () => {
    const env = { ...DEV, OTEL_RESOURCE_ATTRIBUTES: 'service.name=attribute' }
    assert.equal(loadConfig(env).otelServiceName, 'attribute')
    assert.equal(loadConfig({ ...env, OTEL_SERVICE_NAME: 'name' }).otelServiceName, 'name')
  })

  it('takes headers for a collector that are headers', () => {
    const name = 'OTEL_EXPORTER_OTLP_HEADERS'
    const config = loadConfig({ ...DEV, [name]: 'authorization=Bearer%20x,x-tenant=a' })
    assert.equal(config.otelExporterOtlpHeaders?.reveal(), 'authorization=Bearer%20x,x-tenant=a')
    for (const text of ['x', 'a b=c', 'a=b%0D%0Ac', 'a=', ',']) {
      assert.deepEqual(refused({ ...DEV, [name]: text }), [name], text)
    }
  })

  it('does not judge the sum when a part of it cannot be read', () => {
    for (const name of ['STS_TIMEOUT', 'UPSTREAM_TIMEOUT', 'READ_TIMEOUT']) {
      const env = { ...DEV, UPSTREAM_TIMEOUT: '100s', [name]: 'soon' }
      assert.deepEqual(refused(env), [name])
    }
  })

  const plainHosts: [string, boolean][] = [
    ['http://127.0.0.1:8080', true],
    ['http://127.9.9.9', true],
    ['http://2130706433', true],
    ['http://[::1]:8080', true],
    ['http://[::ffff:127.0.0.1]', true],
    ['http://localhost:8080', true],
    ['http://sts:8080/base', true],
    ['https://sts.example.com', true],
    ['https://10.0.0.1', true],
    ['http://sts.example.com', false],
    ['http://sts.default.svc', false],
    ['http://10.0.0.1', false],
    ['http://128.0.0.1', false],
    ['http://[fd00::1]', false],
    ['http://[::]', false],
    ['http://localhost.example.com', false],
    ['HTTP://sts.example.com', false],
  ]
  for (const [url, fine] of plainHosts) {
    it(`${fine ? 'takes' : 'refuses'} STS_URL=${url} in a published mode, and takes it in dev`, () => {
      for (const mode of ['rc', 'stable']) {
        const found = refused({ ...STABLE, CARACAL_MODE: mode, STS_URL: url })
        assert.deepEqual(found, fine ? [] : ['STS_URL'])
      }
      assert.deepEqual(refused({ ...DEV, STS_URL: url }), [])
    })
  }

  for (const mode of ['rc', 'stable']) {
    it(`refuses JTI_FAIL_OPEN in ${mode}`, () => {
      const env = { ...STABLE, CARACAL_MODE: mode }
      assert.deepEqual(refused({ ...env, JTI_FAIL_OPEN: 'true' }), ['JTI_FAIL_OPEN'])
      assert.deepEqual(refused({ ...env, JTI_FAIL_OPEN: 'false' }), [])
    })

    for (const name of ['INSECURE_STS', 'INSECURE_HTTP']) {
      it(`refuses ${name} in ${mode}`, () => {
        const env = { ...STABLE, CARACAL_MODE: mode }
        for (const word of ['true', 'TRUE', 'True', '1', 'yes', 'YES']) {
          assert.deepEqual(refused({ ...env, [name]: word }), [name])
        }
        for (const word of ['false', '0', 'no', 'truer', 'yes!', '11']) {
          assert.deepEqual(refused({ ...env, [name]: word }), [])
        }
      })
    }
  }

  it('takes JTI_FAIL_OPEN and the INSECURE_ variables in dev', () => {
    const env = { ...DEV, JTI_FAIL_OPEN: '1', INSECURE_STS: 'true', INSECURE_HTTP: 'yes' }
    assert.equal(loadConfig(env).jtiFailOpen, true)
  })

  it('holds an unknown mode to the published rules', () => {
    const env = { ...STABLE, CARACAL_MODE: 'prod', REDIS_URL: '', JTI_FAIL_OPEN: 'true' }
    assert.deepEqual(refused(env), ['CARACAL_MODE', 'REDIS_URL', 'JTI_FAIL_OPEN'])
  })
})

describe('loadConfig: files', () => {
  const good: Record<string, string> = {
    GATEWAY_STS_HMAC_KEY: KEY,
    REDIS_URL: 'redis://:from-file@redis:6379',
    DATABASE_URL: 'postgres://u:from-file@db',
    STREAMS_HMAC_KEY: KEY,
    STREAMS_HMAC_KEY_PREVIOUS: KEY,
    AUDIT_HMAC_KEY: KEY,
    CARACAL_ADMIN_TOKEN: 'admin-from-file',
    METRICS_BEARER: 'metrics-from-file',
    OTEL_EXPORTER_OTLP_HEADERS: 'authorization=from%20file',
  }

  it('knows the secrets of the contract', () => {
    assert.deepEqual([...SECRETS].toSorted(), Object.keys(good).toSorted())
  })

  it('reads every secret from its file, less the white space at its end', () => {
    const env: Env = { STS_URL: 'https://sts.example.com' }
    for (const [name, text] of Object.entries(good)) env[`${name}_FILE`] = file(`${text} \r\n\n`)
    const config = loadConfig(env)
    assert.deepEqual(
      [
        config.gatewayStsHmacKey,
        config.redisUrl,
        config.databaseUrl,
        config.streamsHmacKey,
        config.streamsHmacKeyPrevious,
        config.auditHmacKey,
        config.caracalAdminToken,
        config.metricsBearer,
        config.otelExporterOtlpHeaders,
      ].map(it => it?.reveal()),
      Object.values(good),
    )
  })

  for (const name of SECRETS) {
    it(`says once what is wrong with ${name}_FILE`, () => {
      const env = { ...STABLE, STREAMS_HMAC_KEY_PREVIOUS: KEY, [name]: '' }
      for (const path of [MISSING, directory, EMPTY_FILE, BLANK_FILE]) {
        assert.deepEqual(refused({ ...env, [`${name}_FILE`]: path }), [`${name}_FILE`])
      }
      // Not so a file whose text is of the wrong form: that is the variable's own problem.
      assert.deepEqual(refused({ ...env, [`${name}_FILE`]: file('na\u00efve') }), [name])
    })

    it(`lets a value win over ${name}_FILE`, () => {
      const text = good[name] ?? ''
      const env = { ...STABLE, STREAMS_HMAC_KEY: KEY, [name]: text, [`${name}_FILE`]: MISSING }
      assert.deepEqual(problems(env), [])
    })
  }

  // Certificate, key, and which of the two is refused.
  const pairs: [string | undefined, string | undefined, ('CERT' | 'KEY')[]][] = [
    [undefined, undefined, []],
    [CERT_FILE, KEY_FILE, []],
    [BUNDLE_FILE, KEY_FILE, []],
    [CERT_FILE, undefined, ['KEY']],
    [undefined, KEY_FILE, ['CERT']],
    [MISSING, KEY_FILE, ['CERT']],
    [CERT_FILE, MISSING, ['KEY']],
    [MISSING, MISSING, ['CERT', 'KEY']],
    [MISSING, undefined, ['KEY', 'CERT']],
    [directory, KEY_FILE, ['CERT']],
    [EMPTY_FILE, KEY_FILE, ['CERT']],
    [JUNK_FILE, JUNK_FILE, ['CERT', 'KEY']],
    [KEY_FILE, CERT_FILE, ['CERT', 'KEY']],
    [CERT_FILE, EMPTY_FILE, ['KEY']],
    [CERT_FILE, ENCRYPTED_KEY_FILE, ['KEY']],
    [CERT_FILE, OTHER_KEY_FILE, ['KEY']],
    [CUT_FILE, KEY_FILE, ['CERT']],
  ]
  for (const side of ['TLS', 'STS'] as const) {
    for (const [index, [certificate, key, expected]] of pairs.entries()) {
      it(`judges ${side} pair ${index + 1}: ${expected.join(', ') || 'fine'}`, () => {
        const env = {
          ...DEV,
          STS_URL: 'https://sts.example.com',
          [`${side}_CERT_FILE`]: certificate,
          [`${side}_KEY_FILE`]: key,
        }
        assert.deepEqual(
          refused(env),
          expected.map(what => `${side}_${what}_FILE`),
        )
        if (expected.length > 0) return
        const { tlsCertFile, tlsKeyFile, stsCertFile, stsKeyFile } = loadConfig(env)
        const [cert, keyFile] =
          side === 'TLS' ? [tlsCertFile, tlsKeyFile] : [stsCertFile, stsKeyFile]
        assert.deepEqual([cert, keyFile], [certificate, key])
      })
    }
  }

  it('wants an https STS_URL for STS_CERT_FILE', () => {
    const env = { ...DEV, STS_CERT_FILE: CERT_FILE, STS_KEY_FILE: KEY_FILE }
    assert.deepEqual(problems({ ...env, STS_URL: 'http://sts:8080' }), [
      'STS_CERT_FILE needs an https STS_URL; set that, or unset this',
    ])
    assert.deepEqual(problems({ ...env, STS_URL: 'https://sts:8080' }), [])
  })

  for (const [name, member] of [
    ['STS_CA_FILE', 'stsCaFile'],
    ['UPSTREAM_CA_FILE', 'upstreamCaFile'],
    ['REDIS_CA_FILE', 'redisCaFile'],
  ] as const) {
    it(`takes ${name} when it holds certificates`, () => {
      for (const path of [CERT_FILE, BUNDLE_FILE]) {
        assert.equal(loadConfig({ ...DEV, [name]: path })[member], path)
      }
      for (const path of [
        MISSING,
        directory,
        EMPTY_FILE,
        JUNK_FILE,
        CUT_FILE,
        BROKEN_FILE,
        KEY_FILE,
      ]) {
        assert.deepEqual(refused({ ...DEV, [name]: path }), [name])
      }
    })
  }

  it('takes DATABASE_URL when its sslrootcert holds certificates', () => {
    const url = (path: string) =>
      `postgres://u@db?sslmode=verify-full&sslrootcert=${encodeURIComponent(path)}`
    for (const path of [CERT_FILE, BUNDLE_FILE]) {
      assert.equal(loadConfig({ ...DEV, DATABASE_URL: url(path) }).databaseCaFile, path)
    }
    assert.deepEqual(problems({ ...DEV, DATABASE_URL: url(MISSING) }), [
      'DATABASE_URL has an sslrootcert that names a file that cannot be read (ENOENT); name one that the gateway may read',
    ])
    for (const path of [directory, EMPTY_FILE, JUNK_FILE, CUT_FILE, BROKEN_FILE, KEY_FILE]) {
      assert.deepEqual(refused({ ...DEV, DATABASE_URL: url(path) }), ['DATABASE_URL'])
    }
  })

  it('takes BINDINGS_FILE when it can be read', () => {
    const path = file('version: 1\n')
    assert.equal(loadConfig({ ...DEV, BINDINGS_FILE: path }).bindingsFile, path)
    assert.deepEqual(problems({ ...DEV, BINDINGS_FILE: MISSING }), [
      'BINDINGS_FILE names a file that cannot be read (ENOENT); name one that the gateway may read',
    ])
    assert.deepEqual(refused({ ...DEV, BINDINGS_FILE: directory }), ['BINDINGS_FILE'])
  })
})

describe('loadConfig: what it says', () => {
  it('tells every problem at once: forms, rules, files and what is missing', () => {
    const env = {
      CARACAL_MODE: 'rc',
      PORT: 'http',
      STS_URL: 'http://sts.example.com',
      STS_TIMEOUT: '30s',
      IDLE_TIMEOUT: 'long',
      LOG_LEVEL: 'loud',
      JTI_FAIL_OPEN: 'true',
      INSECURE_STS: 'yes',
      AUDIT_DURABILITY: 'fsync',
      AUDIT_HMAC_KEY: 'short',
      GATEWAY_STS_HMAC_KEY_FILE: MISSING,
      REDIS_URL_FILE: EMPTY_FILE,
      TLS_CERT_FILE: CERT_FILE,
      STS_CA_FILE: JUNK_FILE,
      BINDINGS_FILE: MISSING,
      WORKERS: 'all',
      DATABASE_URL: 'postgres://db',
      DB_MIN_CONNS: '21',
    }
    assert.deepEqual(refused(env).toSorted(), [
      'AUDIT_DURABILITY',
      'AUDIT_HMAC_KEY',
      'BINDINGS_FILE',
      'DATABASE_URL',
      'DB_MIN_CONNS',
      'GATEWAY_STS_HMAC_KEY_FILE',
      'IDLE_TIMEOUT',
      'INSECURE_STS',
      'JTI_FAIL_OPEN',
      'LOG_LEVEL',
      'PORT',
      'READ_TIMEOUT',
      'REDIS_URL_FILE',
      'STREAMS_HMAC_KEY',
      'STS_CA_FILE',
      'STS_URL',
      'TLS_KEY_FILE',
      'WORKERS',
    ])
  })

  it('has the problems in its message, a line each', () => {
    assert.throws(
      () => loadConfig({ CARACAL_MODE: 'dev', PORT: 'x' }),
      (error: Error) => {
        assert.ok(error instanceof ConfigError)
        assert.equal(error.name, 'ConfigError')
        assert.deepEqual(error.message.split('\n  ').slice(1), error.problems)
        assert.equal(error.problems.length, 2)
        return true
      },
    )
  })

  it('names the rule and the fix', () => {
    assert.deepEqual(problems({ ...DEV, PORT: '70000' }), [
      'PORT must be a whole number from 0 to 65535, in digits',
    ])
    assert.deepEqual(problems({ ...DEV, LOG_LEVEL: 'loud' }), [
      'LOG_LEVEL must be one of fatal, error, warn, info, debug, trace, silent',
    ])
    assert.deepEqual(problems({ ...STABLE, REDIS_URL: '' }), [
      'REDIS_URL is required in rc and stable; set it or REDIS_URL_FILE',
    ])
    assert.deepEqual(problems({ ...DEV, TRUST_PROXY: '10.0.0.1,nginx' }), [
      'TRUST_PROXY must be true, false, or a comma-separated list of addresses and CIDRs; look at entry 2',
    ])
    assert.deepEqual(problems({ ...DEV, AUDIT_DURABILITY: 'strict' }), [
      'AUDIT_DURABILITY needs AUDIT_REPLAY_DIR; set that, or unset this',
    ])
    assert.deepEqual(problems({ ...STABLE, AUDIT_DURABILITY: 'fsync' }), [
      'AUDIT_DURABILITY must be one of relaxed, strict, synced',
    ])
  })

  it('shows the text of no variable, whatever is set to it', () => {
    const canary = 'cAnArY-7d3e'
    const names = Object.keys(schema.properties)
    for (const text of [
      canary,
      ` ${canary}`,
      `redis://:${canary}@h:x`,
      `redis+sentinel://:${canary}@h1,h2/name`,
      `postgres://${canary}:${canary}@db/${canary}?${canary}=${canary}`,
      `postgres://${canary}:${canary}@db/?sslrootcert=/${canary}`,
      `postgres://u:${canary}?${canary}@db`,
      `https://user:${canary}@sts.example.com`,
      `http://${canary}.example.com`,
      `${canary},${canary}`,
      `-----BEGIN PRIVATE KEY-----\n${canary}`,
    ]) {
      const everywhere = Object.fromEntries([
        ...names.map(name => [name, text]),
        ...SECRETS.map(name => [`${name}_FILE`, text]),
      ])
      const fromFile = Object.fromEntries(SECRETS.map(name => [`${name}_FILE`, file(text)]))
      const paths = Object.fromEntries(SECRETS.map(name => [`${name}_FILE`, text]))
      for (const env of [everywhere, { ...everywhere, CARACAL_MODE: 'dev' }, fromFile, paths]) {
        let thrown: unknown
        try {
          loadConfig(env)
        } catch (error) {
          thrown = error
        }
        assert.ok(thrown instanceof ConfigError)
        assert.ok(thrown.problems.length > 3)
        const shown = inspect(thrown, { depth: 9, showHidden: true }) + JSON.stringify(thrown)
        assert.ok(!shown.toLowerCase().includes(canary.toLowerCase()), shown)
      }
    }
  })

  it('prints no secret of a sound configuration', () => {
    const secrets = {
      REDIS_URL: 'redis://:canary-redis@redis',
      DATABASE_URL: 'postgres://canary-user:canary-database@db',
      STREAMS_HMAC_KEY: 'c1'.repeat(32),
      STREAMS_HMAC_KEY_PREVIOUS: 'c2'.repeat(32),
      AUDIT_HMAC_KEY: 'c3'.repeat(32),
      GATEWAY_STS_HMAC_KEY: 'c4'.repeat(32),
      CARACAL_ADMIN_TOKEN: 'canary-admin',
      METRICS_BEARER: 'canary-metrics',
      OTEL_EXPORTER_OTLP_HEADERS: 'authorization=canary-collector',
    }
    assert.deepEqual(Object.keys(secrets).toSorted(), [...SECRETS].toSorted())
    const config = loadConfig({ ...STABLE, ...secrets })
    assert.equal(Object.values(config).filter(it => it instanceof Secret).length, SECRETS.length)
    const shown = inspect(config, { depth: 9, showHidden: true }) + JSON.stringify(config)
    for (const text of Object.values(secrets)) assert.ok(!shown.includes(text))
    assert.ok(shown.includes('[redacted]'))
  })

  it('throws nothing but a ConfigError, whatever the texts are', () => {
    const names = Object.keys(schema.properties)
    const text = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom('http://[', 'redis://[', '1.2.3.4/', '::/', '..', '/', '1h', '0', 'dev'),
    )
    const env = fc.dictionary(fc.constantFrom(...names), text)
    fc.assert(
      fc.property(env, given => {
        const known = new Set([...names, ...SECRETS.map(name => `${name}_FILE`)])
        for (const name of refused(given)) assert.ok(known.has(name), name)
      }),
      { numRuns: 60 },
    )
  })
})

describe('configWarnings', () => {
  it('has nothing to say of the defaults', () => {
    assert.deepEqual(warned(DEV), [])
    assert.deepEqual(warned(STABLE), [])
  })

  it('warns of a published gateway that trusts every proxy', () => {
    for (const trust of ['true', '0.0.0.0/0', '10.0.0.1,::/0']) {
      assert.deepEqual(warned({ ...STABLE, TRUST_PROXY: trust }), ['TRUST_PROXY'])
      assert.deepEqual(warned({ ...DEV, TRUST_PROXY: trust }), [])
    }
    assert.deepEqual(warned({ ...STABLE, TRUST_PROXY: '10.0.0.0/8' }), [])
  })

  it('warns of a published gateway whose database may be read in the clear', () => {
    const at = (rest: string) => ({ ...STABLE, DATABASE_URL: `postgres://u@${rest}` })
    for (const mode of ['disable', 'allow', 'prefer']) {
      assert.deepEqual(warned(at(`db.example.com/x?sslmode=${mode}`)), ['DATABASE_URL'])
    }
    assert.deepEqual(warned(at('10.0.0.1')), ['DATABASE_URL'])
    assert.deepEqual(warned({ ...at('10.0.0.1'), CARACAL_MODE: 'dev' }), [])
    for (const rest of ['db', 'localhost', '127.0.0.1', '[::1]', '/x?host=/run/my.sockets']) {
      assert.deepEqual(warned(at(rest)), [], rest)
    }
    for (const mode of ['require', 'verify-full']) {
      assert.deepEqual(warned(at(`db.example.com?sslmode=${mode}`)), [], mode)
    }
  })

  it('warns of mandates that are not meant for a gateway', () => {
    assert.deepEqual(warned({ ...DEV, MANDATE_USES: 'gateway,session' }), ['MANDATE_USES'])
    assert.deepEqual(warned({ ...STABLE, MANDATE_USES: 'resource' }), ['MANDATE_USES'])
  })

  it('warns of JTI_FAIL_OPEN', () => {
    assert.deepEqual(warned({ ...DEV, JTI_FAIL_OPEN: 'true' }), ['JTI_FAIL_OPEN'])
  })

  it('warns of exceptions to a rule that is off', () => {
    const env = { ...STABLE, UPSTREAM_CIDR_ALLOWLIST: '10.0.0.0/8' }
    assert.deepEqual(warned(env), ['UPSTREAM_CIDR_ALLOWLIST'])
    assert.deepEqual(warned({ ...env, UPSTREAM_PRIVATE_NETWORKS: 'deny' }), [])
  })
})
