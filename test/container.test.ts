// The image keeps what Caracal's compose file and Helm chart rely on (contract section 15).

import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { statSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, type RequestListener, type Server } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import { createCertificate } from './certificate.ts'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const read = (file: string) => readFileSync(join(ROOT, file), 'utf8')

/** The script in a folder without package.json, as in the image: Node takes it for CommonJS there. */
function place(t: TestContext, script: string, serverModule?: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'caracal-container-'))
  t.after(() => rmSync(folder, { recursive: true }))
  mkdirSync(join(folder, 'app'))
  const server = join(folder, 'app', 'server.mjs')
  writeFileSync(server, serverModule ?? '')
  const text = read(`deploy/container/${script}`).replace('/app/dist/server.js', server)
  writeFileSync(join(folder, script), text)
  return join(folder, script)
}

async function run(script: string, env: NodeJS.ProcessEnv, ...args: string[]) {
  const child: ChildProcess = spawn(process.execPath, [script, ...args], { env })
  let stdout = ''
  let stderr = ''
  child.stdout?.on('data', chunk => (stdout += chunk))
  child.stderr?.on('data', chunk => (stderr += chunk))
  const [status] = await once(child, 'close')
  return { status, stdout, stderr }
}

async function listen(t: TestContext, server: Server, host = '127.0.0.1'): Promise<string> {
  server.listen(0, host)
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  assert.ok(address !== null && typeof address === 'object')
  return String(address.port)
}

const answering =
  (status: number): RequestListener =>
  (_request, reply) =>
    void reply.writeHead(status, { location: '/elsewhere' }).end()

test('the gateway script hands the environment to the server', async t => {
  const script = place(t, 'gateway', 'export const serve = env => console.log(env.STS_URL)')
  const { status, stdout } = await run(script, { STS_URL: 'http://sts' })
  assert.equal(`${status} ${stdout}`, '0 http://sts\n')
})

test('the gateway script ends with a failure when the server does', async t => {
  const script = place(t, 'gateway', 'export const serve = async () => { throw new Error("no") }')
  assert.equal((await run(script, {})).status, 1)
})

for (const status of [200, 204, 302, 399]) {
  test(`the health check passes on ${status}`, async t => {
    const PORT = await listen(t, createServer(answering(status)))
    const result = await run(place(t, 'healthcheck'), { PORT })
    assert.deepEqual(result, { status: 0, stdout: '', stderr: '' })
  })
}

for (const status of [400, 404, 500, 503]) {
  test(`the health check fails on ${status}`, async t => {
    const PORT = await listen(t, createServer(answering(status)))
    const result = await run(place(t, 'healthcheck'), { PORT })
    const stderr = `healthcheck: http://127.0.0.1:${PORT}/ready answered ${status}\n`
    assert.deepEqual(result, { status: 1, stdout: '', stderr })
  })
}

test('the health check asks for HEALTH_PATH, and takes an empty variable as unset', async t => {
  const asked: (string | undefined)[] = []
  const server = createServer((request, reply) => {
    asked.push(request.url)
    reply.end()
  })
  const PORT = await listen(t, server)
  const script = place(t, 'healthcheck')
  const empty = { HEALTH_HOST: '', HEALTH_TIMEOUT_MS: '', TLS_CERT_FILE: '' }
  assert.equal((await run(script, { PORT, HEALTH_PATH: '/health' })).status, 0)
  assert.equal((await run(script, { PORT, HEALTH_PATH: '', ...empty })).status, 0)
  assert.deepEqual(asked, ['/health', '/ready'])
})

test('the health check asks HEALTH_HOST', async t => {
  const PORT = await listen(t, createServer(answering(200)), '::1')
  const script = place(t, 'healthcheck')
  assert.equal((await run(script, { PORT, HEALTH_HOST: '::1' })).status, 0)
  assert.equal((await run(script, { PORT })).status, 1)
})

test('the health check uses no proxy of the environment', async t => {
  const PORT = await listen(t, createServer(answering(200)))
  const proxy = { NODE_USE_ENV_PROXY: '1', http_proxy: 'http://127.0.0.1:1' }
  assert.equal((await run(place(t, 'healthcheck'), { PORT, ...proxy })).status, 0)
})

test('the health check gives up after HEALTH_TIMEOUT_MS', async t => {
  const PORT = await listen(
    t,
    createServer(() => {}),
  )
  const result = await run(place(t, 'healthcheck'), { PORT, HEALTH_TIMEOUT_MS: '50' })
  assert.equal(result.status, 1)
  assert.match(result.stderr, /^healthcheck: .* did not answer within 50 ms\n$/)
})

test('the health check fails in one line when nobody listens', async t => {
  const server = createServer()
  const PORT = await listen(t, server)
  server.close()
  await once(server, 'close')
  const result = await run(place(t, 'healthcheck'), { PORT })
  assert.equal(result.status, 1)
  assert.match(result.stderr, /^healthcheck: .*ECONNREFUSED.*\n$/)
})

test('the health check asks by TLS when the gateway has a certificate', async t => {
  const PORT = await listen(t, createTlsServer(createCertificate(['gateway']), answering(200)))
  const script = place(t, 'healthcheck')
  assert.equal((await run(script, { PORT, TLS_CERT_FILE: '/tls/tls.crt' })).status, 0)
  assert.equal((await run(script, { PORT })).status, 1)
})

for (const [name, value] of [
  ['PORT', '99999'],
  ['HEALTH_TIMEOUT_MS', 'soon'],
] as const) {
  test(`the health check names a ${name} that cannot be meant`, async t => {
    const result = await run(place(t, 'healthcheck'), { [name]: value })
    assert.equal(result.status, 1)
    assert.match(result.stderr, new RegExp(`^healthcheck: .*${name}.*\\n$`))
  })
}

test('the container scripts can be executed by the kernel alone', () => {
  for (const script of ['gateway', 'healthcheck']) {
    assert.match(read(`deploy/container/${script}`), /^#!\/usr\/local\/bin\/node\n/)
    assert.ok(statSync(join(ROOT, 'deploy/container', script)).mode & 0o100, script)
  }
})

test('the image starts the gateway without a shell and as nobody', () => {
  const lines = read('Dockerfile').split('\n')
  const final = lines.slice(lines.lastIndexOf('FROM scratch'))
  assert.equal(final[0], 'FROM scratch')
  for (const line of [
    'USER 65532:65532',
    'EXPOSE 8081',
    'ENV NODE_ENV=production',
    'ENTRYPOINT ["/usr/local/bin/gateway"]',
    'HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["/healthcheck"]',
  ]) {
    assert.ok(final.includes(line), line)
  }
  assert.ok(
    final.every(line => !/^(?:RUN|CMD|ENTRYPOINT) [^[]/.test(line)),
    'there is no shell',
  )
  assert.match(final.join('\n'), /chownSync\(dir, 65532, 65532\); fs\.chmodSync\(dir, 0o750\)/)
})

test('the image is built from what the build context holds, and that is enough', async t => {
  const context = mkdtempSync(join(tmpdir(), 'caracal-context-'))
  t.after(() => rmSync(context, { recursive: true }))
  const allowed = read('.dockerignore')
    .split('\n')
    .filter(line => line.startsWith('!'))
    .flatMap(line => globSync(line.slice(1), { cwd: ROOT }))
  for (const path of allowed) cpSync(join(ROOT, path), join(context, path), { recursive: true })
  symlinkSync(join(ROOT, 'node_modules'), join(context, 'node_modules'))
  const { PATH, HOME } = process.env
  const result = await run(join(context, 'scripts/run.mjs'), { PATH, HOME }, 'build')
  assert.equal(result.status, 0, result.stdout + result.stderr)
  for (const file of ['server.js', 'app.js', 'cli/index.js', 'dev/sts-server.js']) {
    assert.ok(statSync(join(context, 'dist', file)).isFile(), file)
  }
  for (const path of ['package-lock.json', '.npmrc', 'deploy/container/healthcheck']) {
    assert.ok(statSync(join(context, path)).isFile(), path)
  }
})

test('the compose file hardens every container of ours and shows none to the network', () => {
  const { services } = parse(read('docker-compose.yml'), { merge: true })
  assert.deepEqual(Object.keys(services), ['gateway', 'redis', 'sts', 'upstream'])
  for (const name of ['gateway', 'sts', 'upstream']) {
    const service = services[name]
    assert.equal(service.user, '65532:65532', name)
    assert.equal(service.read_only, true, name)
    assert.deepEqual(service.cap_drop, ['ALL'], name)
    assert.equal(service.pids_limit, 256, name)
    assert.deepEqual(service.healthcheck.test, ['CMD', '/healthcheck'], name)
    for (const port of service.ports ?? []) assert.match(port, /^127\.0\.0\.1:/, name)
  }
  assert.equal(services.redis.ports, undefined)
  assert.deepEqual(services.redis.healthcheck.test, ['CMD', 'redis-cli', 'ping'])
  assert.deepEqual(services.redis.command.slice(1), ['--maxmemory-policy', 'noeviction'])
})

test('the compose file starts the gateway when all it needs is healthy', () => {
  const { services } = parse(read('docker-compose.yml'), { merge: true })
  const { gateway, sts, upstream } = services
  assert.equal(gateway.environment.CARACAL_MODE, 'dev')
  assert.equal(gateway.environment.GATEWAY_STS_HMAC_KEY, sts.environment.GATEWAY_STS_HMAC_KEY)
  assert.equal(gateway.entrypoint, undefined, 'the image’s own')
  const { AUDIT_REPLAY_DIR } = gateway.environment
  assert.deepEqual(gateway.volumes, [`evidence:${dirname(AUDIT_REPLAY_DIR)}`])
  assert.equal(gateway.environment.AUDIT_DURABILITY, 'strict')
  for (const name of ['redis', 'sts', 'upstream']) {
    assert.deepEqual(gateway.depends_on[name], { condition: 'service_healthy' })
  }
  for (const [service, source] of [
    [sts, 'dev/sts-server'],
    [upstream, 'dev/echo-server'],
  ]) {
    assert.deepEqual(service.entrypoint, ['/usr/local/bin/node', `/app/dist/${source}.js`])
    assert.ok(statSync(join(ROOT, `${source}.ts`)).isFile())
  }
})
