// The demo works as printed, says what is wrong when it cannot, and stops cleanly.

import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'

const CLI = fileURLToPath(new URL('../../cli/index.ts', import.meta.url))
const FREE_PORTS = { DEMO_GATEWAY_PORT: '0', DEMO_STS_PORT: '0', DEMO_UPSTREAM_PORT: '0' }

interface Run {
  readonly child: ChildProcess
  readonly output: () => { stdout: string; stderr: string }
  readonly exit: Promise<number | null>
}

function run(t: TestContext, program: string, args: string[], env: NodeJS.ProcessEnv = {}): Run {
  const { PATH, HOME } = process.env
  const child = spawn(program, args, { env: { PATH, HOME, ...env } })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', chunk => (stdout += chunk))
  child.stderr.on('data', chunk => (stderr += chunk))
  const exit = once(child, 'close').then(([status]) => status)
  t.after(async () => {
    child.kill('SIGTERM')
    await exit
  })
  return { child, output: () => ({ stdout, stderr }), exit }
}

const runCli = (t: TestContext, args: string[], env?: NodeJS.ProcessEnv) =>
  run(t, process.execPath, [CLI, ...args], env)

/** The demo, once it has printed how to stop it. */
async function startDemo(t: TestContext, env: NodeJS.ProcessEnv = {}) {
  const demo = runCli(t, ['demo'], { ...FREE_PORTS, ...env })
  while (!demo.output().stdout.includes('Ctrl-C')) {
    const ended = await Promise.race([once(demo.child.stdout ?? demo.child, 'data'), demo.exit])
    if (!Array.isArray(ended)) assert.fail(`the demo ended: ${demo.output().stderr}`)
  }
  const commands = demo
    .output()
    .stdout.split('\n')
    .filter(line => line.startsWith('curl '))
  return { ...demo, commands }
}

async function shell(t: TestContext, command: string): Promise<string> {
  const { exit, output } = run(t, 'sh', ['-c', command])
  assert.equal(await exit, 0, output().stderr)
  return output().stdout
}

test('the demo prints lines that work as pasted, every time', async t => {
  const { commands } = await startDemo(t)
  const [allowed = '', refused = ''] = commands
  for (let turn = 0; turn < 2; turn++) {
    const answer = await shell(t, allowed)
    assert.match(answer, /^HTTP\/1\.1 200 /)
    const echoed = JSON.parse(answer.slice(answer.indexOf('{')))
    assert.equal(echoed.method, 'GET')
    assert.equal(echoed.url, '/hello')
    assert.match(echoed.headers.authorization, /^Bearer /)
    assert.equal(echoed.headers['x-caracal-resource'], undefined)

    const refusal = await shell(t, refused)
    assert.match(refusal, /^HTTP\/1\.1 403 /)
    assert.match(refusal, /"error":"operation_not_permitted"/)
  }
})

test('the demo refuses a mandate that was used before', async t => {
  const { commands } = await startDemo(t)
  const [allowed = ''] = commands
  const token = await shell(t, /\$\((.*?)\)/.exec(allowed)?.[1] ?? '')
  const line = allowed.replace(/\$\(.*?\)/, token)
  assert.match(await shell(t, line), /^HTTP\/1\.1 200 /)
  assert.match(await shell(t, line), /^HTTP\/1\.1 401 [^]*token replay detected/)
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  test(`the demo ends with 0 on ${signal}, also when it comes twice`, async t => {
    const { child, exit, output } = await startDemo(t)
    child.kill(signal)
    child.kill(signal)
    assert.equal(await exit, 0)
    assert.equal(output().stderr, '')
  })
}

for (const [variable, what] of [
  ['DEMO_GATEWAY_PORT', 'gateway'],
  ['DEMO_STS_PORT', 'STS'],
  ['DEMO_UPSTREAM_PORT', 'upstream'],
] as const) {
  test(`the demo names the port of the ${what} that is taken, and the way out`, async t => {
    const server = createServer()
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => server.close())
    const address = server.address()
    assert.ok(address !== null && typeof address === 'object')
    const taken = String(address.port)
    const { exit, output } = runCli(t, ['demo'], { ...FREE_PORTS, [variable]: taken })
    assert.equal(await exit, 1)
    assert.equal(output().stdout, '')
    assert.equal(
      output().stderr,
      `caracal-gateway demo: port ${taken} is taken: stop what listens there, or set ${variable} to a free port (0: the system chooses)\n`,
    )
  })
}

test('the demo names a port that is none', async t => {
  const { exit, output } = runCli(t, ['demo'], { ...FREE_PORTS, DEMO_STS_PORT: '80 80' })
  assert.equal(await exit, 1)
  assert.equal(output().stderr, 'caracal-gateway demo: DEMO_STS_PORT must be a port, 0 to 65535\n')
})

test('the demo says why it cannot start when its Redis is not there', async t => {
  const env = { ...FREE_PORTS, REDIS_URL: 'redis://127.0.0.1:1' }
  const { exit, output } = runCli(t, ['demo'], env)
  assert.equal(await exit, 1)
  assert.match(output().stderr, /caracal-gateway demo: /)
  assert.doesNotMatch(output().stdout, /curl/)
})

test('the command line prints its usage and its version', async t => {
  const help = runCli(t, ['--help'])
  assert.equal(await help.exit, 0)
  assert.match(help.output().stdout, /^usage: caracal-gateway /)
  const version = runCli(t, ['--version'])
  assert.equal(await version.exit, 0)
  assert.match(version.output().stdout, /^\d+\.\d+\.\d+\n$/)
})

for (const args of [['nothing'], ['demo', 'more'], ['--nothing']]) {
  test(`the command line refuses ${args.join(' ')} with its usage`, async t => {
    const { exit, output } = runCli(t, args)
    assert.equal(await exit, 2)
    assert.match(output().stderr, /^caracal-gateway: .*\n\nusage: caracal-gateway /)
    assert.equal(output().stdout, '')
  })
}
