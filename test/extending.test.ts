// Holds the guide for extending to the gateway: its code compiles, and does what the guide says of it.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { call, startStack } from './gateway/harness.ts'
import { metricsOf } from './gateway/refusal.ts'

const ROOT = join(import.meta.dirname, '..')

test('the code of docs/extending.md compiles and works', async t => {
  const guide = await readFile(join(ROOT, 'docs', 'extending.md'), 'utf8')
  const blocks = [...guide.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map(([, code = '']) => code)
  await mkdir(join(ROOT, '.cache'), { recursive: true })
  // Within the package, so that its name can be imported.
  const directory = await mkdtemp(join(ROOT, '.cache', 'guide-'))
  t.after(() => rm(directory, { recursive: true }))
  const files: string[] = []
  for (const [index, code] of blocks.entries()) {
    const file = join(directory, `block-${index}.ts`)
    await writeFile(file, code)
    files.push(file)
  }
  const settings = { extends: '../../tsconfig.json', include: ['./*.ts', '../../app.ts'] }
  await writeFile(join(directory, 'tsconfig.json'), JSON.stringify(settings))
  await promisify(execFile)(join(ROOT, 'node_modules', '.bin', 'tsc'), ['-p', directory]).catch(
    ({ stdout }: { stdout: string }) => assert.fail(stdout),
  )

  const plugins = files.filter((_, index) => blocks[index]?.includes('export default'))
  assert.equal(plugins.length, 4)
  const stack = await startStack(t, { env: { GATEWAY_PLUGINS: plugins.join() } })
  stack.upstream.handler = (_request, response) =>
    response.writeHead(200, { 'content-type': 'text/plain' }).end('quiet')

  const answer = await stack.call('/v1/invoices', { token: stack.mint({ tenant: 'acme' }) })
  assert.deepEqual([answer.status, answer.text], [200, 'QUIET'])
  const arrival = stack.upstream.arrivals[0]
  assert.equal(arrival?.headers['x-region'], 'eu')
  const [event] = await stack.eventsOf(answer.requestId)
  const annotations = { tenant: 'acme', 'upstream.mode': 'none' }
  assert.deepEqual(event?.metadata_json['annotations'], annotations)

  const blocked = await stack.call('/v1/invoices', { token: stack.mint({ tenant: 'blocked' }) })
  assert.deepEqual([blocked.status, blocked.json()['error']], [403, 'access_denied'])
  const word = await stack.call('/v1/invoices', { method: 'POST', body: 'forbidden' })
  assert.equal(word.status, 422)
  assert.equal((await stack.call('/v1/other')).status, 403)
  const open = await stack.call('/team/status', { token: null, resource: null })
  assert.deepEqual(open.json(), { status: 'well' })
  assert.deepEqual((await stack.call('/team/whoami')).json(), { client: 'dev-client' })
  assert.equal((await stack.call('/team/whoami', { token: null })).status, 401)
  assert.equal((await metricsOf(stack.gateway.url)).get('team_whoami_total'), 1)
  assert.equal(stack.upstream.arrivals.length, 1)

  const embedding: unknown = await import(pathToFileURL(files.at(-1) ?? '').href)
  assert.ok(isEmbedding(embedding))
  const env = { CARACAL_MODE: 'dev', LOG_LEVEL: 'silent', STS_URL: stack.sts.url }
  const app = await embedding.start(env)
  t.after(() => app.close())
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const served = await call(url, '/', { token: null })
  assert.deepEqual([served.status, served.headers['x-served-by']], [401, 'us'])
})

interface Embedding {
  start(env: Record<string, string>): Promise<{
    listen(address: { port: number; host: string }): Promise<string>
    close(): Promise<unknown>
  }>
}

function isEmbedding(value: unknown): value is Embedding {
  return typeof value === 'object' && value !== null && 'start' in value
}
