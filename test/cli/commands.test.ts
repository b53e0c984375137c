// The built command line does what it says against a real gateway, Redis, STS and upstream.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { Looked } from '../../cli/check.ts'
import type { Explanation } from '../../cli/explain.ts'
import type { Compared } from '../../cli/parity.ts'
import type { ReplayListing } from '../../cli/replay.ts'
import type { Suggestions } from '../../cli/suggest-operations.ts'
import { writeEvent } from '../../lib/audit-event.ts'
import { readBindingsFile } from '../../lib/bindings-file.ts'
import { uuidv7 } from '../../lib/uuid.ts'
import { lastFirst } from '../cleanup.ts'
import { KEYS, RESOURCE, type Stack, startGateway, startStack, ZONE } from '../gateway/harness.ts'
import { temporaryDirectory } from '../gateway/support.ts'
import { startRedis } from '../redis.ts'
import { until } from '../until.ts'

const CLI = fileURLToPath(new URL('../../dist/cli/index.js', import.meta.url))
const NAMES = [
  'demo',
  'check',
  'explain',
  'mint',
  'revoke',
  'replay',
  'verify-evidence',
  'suggest-operations',
  'parity',
  'completion',
]

const BINDINGS = `version: 1
zones:
  ${ZONE}:
    resources:
      ${RESOURCE}:
        operation_enforcement: enforced
        operations:
          - { method: GET, path: /v1/invoices, scope: billing:read }
`

async function cli(args: string[], env: NodeJS.ProcessEnv = {}, input = '') {
  const { PATH, HOME } = process.env
  const child = spawn(process.execPath, [CLI, ...args], { env: { PATH, HOME, ...env } })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', chunk => (stdout += chunk))
  child.stderr.on('data', chunk => (stderr += chunk))
  child.stdin.on('error', () => undefined)
  child.stdin.end(input)
  const [status] = await once(child, 'close')
  return { status, stdout, stderr }
}

/** What `--json` printed. */
interface Result<T> {
  readonly status: unknown
  readonly value: T
  readonly stdout: string
}

async function json(args: string[], env: NodeJS.ProcessEnv = {}, input = '') {
  const { status, stdout, stderr } = await cli([...args, '--json'], env, input)
  assert.equal(stderr, '')
  return { status, value: JSON.parse(stdout), stdout }
}

/** A gateway with bindings, and the environment of the command line beside it. */
async function stackWithBindings(t: Parameters<typeof startStack>[0], text = BINDINGS) {
  const directory = await temporaryDirectory(t)
  const file = join(directory, 'bindings.yaml')
  await writeFile(file, text)
  const stack = await startStack(t, { env: { BINDINGS_FILE: file } })
  return { stack, env: { ...stack.env, AUDIT_REPLAY_DIR: stack.gateway.replayDirectory } }
}

const asked = (token: string, path = '/v1/invoices') => [
  'explain',
  '--token',
  token,
  '--resource',
  RESOURCE,
  '--method',
  'GET',
  '--path',
  path,
]

/** What the stack holds that a command must not change. */
async function marks({ redis, upstream, sts, gateway }: Stack) {
  const dead = await redis.entries('caracal.sessions.revoke.dead')
  const spent = await redis.command('KEYS', 'seen:jti:*')
  const exchanges = sts.exchanges.length
  return {
    dead: dead.length,
    spent,
    exchanges,
    arrivals: upstream.arrivals.length,
    files: readdirSync(gateway.replayDirectory).length,
  }
}

describe('every command', () => {
  for (const name of NAMES) {
    test(`${name} has help, and refuses what it does not know`, async () => {
      const help = await cli([name, '--help'])
      assert.equal(help.status, 0)
      assert.match(help.stdout, new RegExp(`^usage: caracal-gateway ${name}\\b`))
      assert.match(help.stdout, /--json/)
      assert.ok(help.stdout.split('\n').every(line => line.length <= 120))
      const wrong = await cli([name, '--no-such-option'])
      assert.equal(wrong.status, 2)
      assert.match(wrong.stderr, /^caracal-gateway: .*\n\nusage: /)
    })
  }

  test('is in the list of commands', async () => {
    const { stdout } = await cli(['--help'])
    for (const name of NAMES) assert.match(stdout, new RegExp(`^  ${name} `, 'm'))
  })
})

describe('completion', () => {
  test('completes commands and options in bash', async t => {
    const { stdout } = await cli(['completion', 'bash'])
    const complete = async (...words: string[]) => {
      const line = words.map(word => `'${word}'`).join(' ')
      const script = `${stdout}\nCOMP_WORDS=(${line}); COMP_CWORD=${words.length - 1}; _caracal_gateway; echo "\${COMPREPLY[@]}"`
      const child = spawn('bash', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] })
      let text = ''
      child.stdout.on('data', chunk => (text += chunk))
      await once(child, 'close')
      return text.trim().split(' ')
    }
    assert.deepEqual(await complete('caracal-gateway', 'ver'), ['verify-evidence'])
    assert.deepEqual(await complete('caracal-gateway', 'replay', 'dr'), ['drain'])
    assert.deepEqual(await complete('caracal-gateway', 'explain', '--re'), ['--resource'])
    t.diagnostic('bash')
  })

  test('names every command to zsh and fish', async () => {
    for (const shell of ['zsh', 'fish']) {
      const { stdout, status } = await cli(['completion', shell])
      assert.equal(status, 0)
      for (const name of NAMES) assert.ok(stdout.includes(name), `${shell} ${name}`)
    }
    assert.equal((await cli(['completion', 'tcsh'])).status, 2)
  })
})

describe('explain', () => {
  test(
    'agrees with the gateway, and leaves no mark',
    lastFirst(async t => {
      const { stack, env } = await stackWithBindings(t)
      const good = { scope: 'billing:read' }
      const expired = Math.floor(Date.now() / 1_000) - 5
      const cases: [check: string, token: string, path?: string][] = [
        ['malformed_bearer', 'no-token'],
        ['expiring_bearer', stack.mint({ ...good, exp: expired })],
        ['path_traversal', stack.mint(good), '/v1/../admin'],
        ['unknown_zone', stack.mint({ ...good, zone_id: 'zone-9' })],
        ['invalid_signature', stack.mint(good).replace(/.{8}$/, 'AAAAAAAA')],
        ['mandate_target', stack.mint({ ...good, target: ['resource://other'] })],
        ['undeclared_operation', stack.mint(good), '/v1/nothing'],
        ['missing_scope', stack.mint({ scope: 'billing:none' })],
      ]
      const before = await marks(stack)
      for (const [check, token, path] of cases) {
        const { status, value, stdout }: Result<Explanation> = await json(asked(token, path), env)
        assert.equal(status, 1, check)
        assert.equal(value.verdict, 'deny')
        assert.ok(!stdout.includes(token) || token === 'no-token')
        const denied = value.checks.filter(({ result }) => result === 'deny')
        assert.deepEqual(
          denied.map(row => row.check),
          [check],
        )
        const answer = await stack.call(path, { token })
        const { error, error_description: description } = answer.json()
        assert.deepEqual(value.denial, {
          status: answer.status,
          error,
          error_description: description,
        })
      }
      assert.deepEqual(await marks(stack), before)
    }),
  )

  test(
    'shows the exchange that would be made, and what has become of a mandate since',
    lastFirst(async t => {
      const { stack, env } = await stackWithBindings(t)
      const token = stack.mint({ scope: 'billing:read', sid: 'session-7' })
      const before = await marks(stack)
      const { status, value, stdout }: Result<Explanation> = await json(
        asked('-'),
        env,
        `${token}\n`,
      )
      assert.equal(status, 0, stdout)
      assert.equal(value.verdict, 'pass')
      assert.ok(value.checks.every(({ result }) => result !== 'deny'))
      assert.equal(value.exchange?.form['request_path'], '/v1/invoices')
      assert.equal(value.exchange?.form['application_id'], 'dev-client')
      assert.match(value.exchange?.form['subject_token'] ?? '', /^\[masked: /)
      assert.ok(!stdout.includes(token))
      assert.deepEqual(await marks(stack), before)

      const plain = await cli(asked(token), env)
      assert.match(plain.stdout, /^pass +replayed$/m)
      assert.doesNotMatch(plain.stdout, /\x1b/)
      const coloured = await cli(asked(token), { ...env, FORCE_COLOR: '1' })
      assert.match(coloured.stdout, /\x1b\[32m/)

      const answer = await stack.call('/v1/invoices', { token })
      assert.equal(answer.status, 200)
      const spent: Result<Explanation> = await json(asked(token), env)
      const replayed = spent.value.checks.find(({ check }) => check === 'replayed')
      assert.equal(replayed?.result, 'deny')
      assert.ok(replayed.detail?.includes(answer.requestId))

      const revoked = await json(['revoke', '--session', 'session-7'], env)
      assert.equal(revoked.status, 0)
      await until(async () => {
        const { status } = await stack.call('/v1/invoices', {
          token: stack.mint({ scope: 'billing:read', sid: 'session-7' }),
        })
        return status === 401
      })
      const after: Result<Explanation> = await json(asked(token), env)
      assert.equal(after.value.checks.find(({ check }) => check === 'revoked')?.result, 'deny')
    }),
  )
})

describe('check', () => {
  test(
    'says that all is well, and leaves nothing behind',
    lastFirst(async t => {
      const { stack, env } = await stackWithBindings(t)
      const before = await marks(stack)
      const { status, value, stdout }: Result<{ ok: boolean; checks: Looked[] }> = await json(
        ['check', '--zone', ZONE],
        env,
      )
      assert.equal(status, 0, stdout)
      assert.equal(value.ok, true)
      const names = value.checks.filter(({ result }) => result === 'ok').map(({ name }) => name)
      const expected = ['redis', 'bindings', 'revocations', 'sts', 'keys', 'audit directory']
      for (const name of expected) assert.ok(names.includes(name), `${name}: ${stdout}`)
      assert.deepEqual(await marks(stack), before)
    }),
  )

  test(
    'names everything that is wrong',
    lastFirst(async t => {
      const directory = await temporaryDirectory(t)
      const file = join(directory, 'bindings.yaml')
      await writeFile(file, 'version: 2\n')
      const { status, value }: Result<{ checks: Looked[] }> = await json(['check'], {
        CARACAL_MODE: 'dev',
        STS_URL: 'http://127.0.0.1:1',
        REDIS_URL: 'redis://127.0.0.1:1',
        REDIS_DIAL_TIMEOUT: '1s',
        BINDINGS_FILE: file,
        AUDIT_REPLAY_DIR: file,
      })
      assert.equal(status, 1)
      const failed = value.checks.filter(({ result }) => result === 'fail').map(({ name }) => name)
      assert.deepEqual(failed, ['redis', 'bindings', 'sts', 'audit directory'])
      const config = await cli(['check'], { CARACAL_MODE: 'stable' })
      assert.equal(config.status, 1)
      assert.match(config.stdout, /^fail +configuration +STS_URL/m)
    }),
  )
})

test(
  'mint gets a mandate that the gateway takes',
  lastFirst(async t => {
    const { stack, env } = await stackWithBindings(t)
    const args = ['mint', '--resource', RESOURCE, '--scope', 'billing:read', '--zone', ZONE]
    const { stdout, status } = await cli(args, env)
    assert.equal(status, 0)
    assert.equal((await stack.call('/v1/invoices', { token: stdout.trim() })).status, 200)
    const wrong = await cli([...args, '--ttl', '0'], env)
    assert.equal(wrong.status, 1)
    assert.match(wrong.stderr, /ttl must be/)
    assert.equal((await cli(['mint'], env)).status, 2)
  }),
)

test('revoke takes exactly one id', async () => {
  for (const args of [[], ['--session', 'a', '--edge', 'b'], ['--edge', 'a b']]) {
    assert.equal((await cli(['revoke', ...args])).status, 2)
  }
})

test(
  'replay lists what waits, and sends it',
  lastFirst(async t => {
    const [redis, directory] = await Promise.all([startRedis(t), temporaryDirectory(t)])
    const event = writeEvent(
      uuidv7(),
      {
        zone_id: ZONE,
        event_type: 'gateway_resource_request',
        request_id: 'request-1',
        decision: 'allow',
        evaluation_status: 'executed',
        metadata_json: {},
      },
      Date.now(),
    )
    const file = join(directory, 'pending-1-1.ndjson')
    await writeFile(file, `${event.data}\n`)
    const past = new Date(Date.now() - 60_000)
    await utimes(file, past, past)
    const env = { REDIS_URL: redis.url, AUDIT_HMAC_KEY: KEYS.audit, AUDIT_REPLAY_DIR: directory }
    const listed: Result<ReplayListing> = await json(['replay', 'ls'], env)
    assert.equal(listed.value.files[0]?.events, 1)
    assert.ok((listed.value.files[0]?.age_seconds ?? 0) >= 60)
    const drained: Result<{ sent: number; left: number }> = await json(['replay', 'drain'], env)
    assert.equal(drained.status, 0)
    assert.equal(drained.value.sent, 1)
    const entries = await redis.entries('caracal.audit.events')
    assert.deepEqual(
      entries.map(({ fields }) => fields['data']),
      [event.data],
    )
    assert.deepEqual(readdirSync(directory), [])
    await writeFile(file, `${event.data}\n`)
    await utimes(file, past, past)
    await redis.stop()
    const down = await cli(['replay', 'drain', '--timeout', '2s'], {
      ...env,
      REDIS_DIAL_TIMEOUT: '1s',
    })
    assert.equal(down.status, 1)
    assert.deepEqual(readdirSync(directory), ['pending-1-1.ndjson'])
  }),
)

test(
  'suggest-operations covers what an observed resource was asked for',
  lastFirst(async t => {
    const observed = BINDINGS.replace('enforced', 'observe')
    const { stack, env } = await stackWithBindings(t, observed)
    const call = (path: string, scope: string) => stack.call(path, { token: stack.mint({ scope }) })
    await call('/v1/invoices/17/lines', 'billing:read other')
    await call(
      '/v1/invoices/6f9619ff-8b86-d011-b42d-00c04fc964ff/lines?token=secret',
      'billing:read',
    )
    await call('/v1/invoices', 'other')
    await until(async () => (await stack.events()).length === 3)
    const { value, stdout }: Result<Suggestions> = await json(['suggest-operations'], env)
    const where = { zone: ZONE, resource: RESOURCE, method: 'GET' }
    const path = '/v1/invoices/:id/lines'
    assert.deepEqual(value.operations, [
      { ...where, path, common_scopes: ['billing:read'], count: 2 },
    ])
    assert.deepEqual(value.scopes, [
      { ...where, path: '/v1/invoices', scope: 'billing:read', count: 1 },
    ])
    assert.ok(!stdout.includes('secret'))
    const text = await cli(['suggest-operations'], env)
    const parsed = readBindingsFile(text.stdout)
    assert.ok(parsed.ok, text.stdout)
    const binding = parsed.set.find(ZONE, RESOURCE)
    assert.equal(binding?.operation('GET', '/v1/invoices/9/lines')?.scope, 'billing:read')
    assert.match(text.stdout, /# 2 times$/m)
    assert.match(text.stdout, /was used once without scope billing:read/)
    assert.equal(stack.gateway.logs.filter(({ would_deny: check }) => check).length, 3)
    const lines = (await stack.events()).map(event => JSON.stringify(event)).join('\n')
    const fromFile: Result<Suggestions> = await json(
      ['suggest-operations', '--file', '-'],
      {},
      lines,
    )
    assert.deepEqual(fromFile.value, value)
  }),
)

test(
  'parity finds nothing between two of a kind, and what differs between two that are not',
  lastFirst(async t => {
    const { stack } = await stackWithBindings(t)
    const other = await startGateway(t, { ...stack.env })
    const args = ['parity', '--old', stack.gateway.url, '--new', other.url]
    const env = { METRICS_BEARER: 'metrics-bearer' }
    const same: Result<{ same: boolean; cases: Compared[] }> = await json(args, env)
    assert.equal(same.status, 0, same.stdout)
    assert.ok(same.value.cases.some(({ case: name }) => name === 'metric names'))
    const differing: Result<{ cases: Compared[] }> = await json(
      ['parity', '--old', stack.gateway.url, '--new', stack.sts.url],
      env,
    )
    assert.equal(differing.status, 1)
    assert.equal(stack.upstream.arrivals.length, 0)
    assert.deepEqual(await stack.redis.command('KEYS', 'seen:jti:*'), [])
  }),
)

test(
  'every command of docs/cli.md runs as it stands there',
  lastFirst(async t => {
    const doc = readFileSync(new URL('../../docs/cli.md', import.meta.url), 'utf8')
    const lines = [...doc.matchAll(/^```sh tested\n([^]*?)^```$/gm)].flatMap(([, block = '']) =>
      block.trim().split('\n'),
    )
    assert.ok(lines.length >= 9)
    const { stack, env } = await stackWithBindings(t)
    for (const line of lines) {
      const [program, ...args] = line
        .replaceAll('http://127.0.0.1:8081', stack.gateway.url)
        .split(' ')
      assert.equal(program, 'caracal-gateway')
      const { status, stderr } = await cli(args, env, stack.mint({ scope: 'billing:read' }))
      assert.equal(status, 0, `${line}: ${stderr}`)
    }
    for (const name of NAMES) assert.ok(doc.includes(`| [\`${name}\`](`), name)
  }),
)
