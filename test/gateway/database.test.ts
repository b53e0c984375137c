// The gateway with a database: that its variables act, and what its metrics say of the connections.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { createGateway, loadConfig } from '../../app.ts'
import { createCertificate } from '../certificate.ts'
import { startPostgres } from '../postgres.ts'
import { call, startStack, type Stack } from './harness.ts'

const NAMES = [
  'caracal_db_pool_max_conns',
  'caracal_db_pool_acquired_conns',
  'caracal_db_pool_in_use_ratio',
]

async function figures(stack: Stack) {
  const ask = (path: string) =>
    call(stack.gateway.url, path, { token: 'metrics-bearer', resource: null })
  const [text, json] = await Promise.all([ask('/metrics'), ask('/metrics.json')])
  return { text: text.text, json: json.json() }
}

test('the gateway shows the connections to its database', async t => {
  const postgres = await startPostgres(t)
  await postgres.schema()
  const stack = await startStack(t, { env: { DATABASE_URL: postgres.url, DB_MAX_CONNS: '8' } })
  const { text, json } = await figures(stack)
  assert.match(text, /^caracal_db_pool_max_conns 8$/m)
  assert.equal(json['caracal_db_pool_max_conns'], 8)
  for (const name of NAMES) {
    assert.match(text, new RegExp(`^# TYPE ${name} gauge$`, 'm'))
    assert.equal(typeof json[name], 'number', name)
  }
  const acquired = Number(json['caracal_db_pool_acquired_conns'])
  assert.equal(json['caracal_db_pool_in_use_ratio'], acquired / 8)
  assert.equal(await stack.gateway.stop(), 0)
  assert.ok(!stack.gateway.output().includes(new URL(postgres.url).password))
})

test('the gateway shows no such figures without a database', async t => {
  const { text, json } = await figures(await startStack(t))
  assert.ok(!text.includes('caracal_db_'))
  assert.deepEqual(
    Object.keys(json).filter(name => name.includes('db_')),
    [],
  )
})

test('the gateway reads its database as the variables say', async t => {
  const certificate = createCertificate(['127.0.0.1'])
  const postgres = await startPostgres(t, { certificate })
  await postgres.schema()
  const dir = await mkdtemp(join(tmpdir(), 'gateway-database-'))
  t.after(() => rm(dir, { recursive: true }))
  await writeFile(join(dir, 'ca.pem'), certificate.cert)
  const url = `${postgres.url}?sslmode=verify-full&sslrootcert=${join(dir, 'ca.pem')}`
  await writeFile(join(dir, 'url'), `${url}\n`)
  const app = await createGateway(
    loadConfig({
      CARACAL_MODE: 'dev',
      LOG_LEVEL: 'silent',
      STS_URL: 'http://127.0.0.1:1',
      DATABASE_URL_FILE: join(dir, 'url'),
      DB_MAX_CONNS: '3',
    }),
  )
  t.after(() => app.close())
  const ssl = 'select ssl from pg_stat_ssl where pid = pg_backend_pid()'
  assert.deepEqual(await app.database?.rows(ssl, []), [{ ssl: true }])
  assert.equal(app.database?.maxConnections, 3)
})

test('the gateway loads the driver for a database alone', async () => {
  const cwd = fileURLToPath(new URL('../..', import.meta.url))
  const loaded = async (env: Readonly<Record<string, string>>) => {
    const script = `
      import { createRequire } from 'node:module'
      import { createGateway, loadConfig } from './dist/app.js'
      const env = { CARACAL_MODE: 'dev', LOG_LEVEL: 'silent', STS_URL: 'http://127.0.0.1:1', ...${JSON.stringify(env)} }
      // Where there is a database it must be there, and here it is not.
      const app = await createGateway(loadConfig(env)).catch(() => undefined)
      await app?.close()
      const files = Object.keys(createRequire(import.meta.url).cache)
      console.log(files.some(file => file.includes('/node_modules/pg/')))`
    const args = ['--input-type=module', '-e', script]
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd })
    return stdout.trim()
  }
  assert.equal(await loaded({}), 'false')
  assert.equal(await loaded({ DATABASE_URL: 'postgres://u:p@127.0.0.1:1/x' }), 'true')
})
