// What `npm pack` makes can be installed and embedded, from JavaScript and from TypeScript.

import assert from 'node:assert/strict'
import { execFile, fork } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { blocksOf } from '../../scripts/pages.ts'
import { RESOURCE } from '../gateway/harness.ts'
import { startWorld } from '../in-process.ts'
import { install, pack, ROOT } from './tarball.ts'

const run = promisify(execFile)

/** A project with the package and one of the programs beside this file. */
async function projectWith(t: TestContext, program: string): Promise<string> {
  const project = await install(t, await pack(t))
  writeFileSync(join(project, 'package.json'), '{ "type": "module", "private": true }\n')
  copyFileSync(join(import.meta.dirname, 'consumer', program), join(project, program))
  return project
}

async function environment(t: TestContext) {
  const world = await startWorld(t)
  const env = {
    PATH: process.env['PATH'],
    CARACAL_MODE: 'dev',
    LOG_LEVEL: 'silent',
    STS_URL: world.sts.url,
    RESOURCE,
    MANDATE: world.mint(),
  }
  return { world, env }
}

test('the package embeds in a Fastify app of plain JavaScript, and answers an inject', async t => {
  const project = await projectWith(t, 'embed.mjs')
  const { world, env } = await environment(t)
  const child = fork(join(project, 'embed.mjs'), {
    cwd: project,
    env,
    stdio: ['ignore', 2, 2, 'ipc'],
  })
  t.after(() => child.kill())
  const closed = once(child, 'close')
  const [report] = await Promise.race([once(child, 'message'), closed])
  assert.deepEqual(report.injected, { status: 200, body: 'ok' })
  assert.equal(report.check, 'replayed')
  assert.match(report.problems.join('\n'), /STS_URL/)

  const own = await fetch(`${report.address}/own`)
  assert.deepEqual(await own.json(), { own: true })

  const headers = { authorization: `Bearer ${world.mint()}`, 'x-caracal-resource': RESOURCE }
  const body = 'x'.repeat(100_000)
  const posted = await fetch(`${report.address}/things?a=1`, { method: 'POST', headers, body })
  assert.equal(posted.status, 200)
  assert.equal(await posted.text(), 'ok')
  const arrival = world.upstream.arrivals.at(-1)
  assert.equal(arrival?.url, '/things?a=1')
  assert.equal(String(await arrival?.body), body)

  const again = await fetch(`${report.address}/things`, { method: 'POST', headers, body })
  assert.equal(again.status, 401)
  assert.match(await again.text(), /token replay detected/)

  child.send('stop')
  assert.deepEqual(await closed, [0, null])
})

test('the package and the code of the README compile without skipLibCheck; it augments Fastify and runs', async t => {
  const project = await projectWith(t, 'typed.ts')
  const { env } = await environment(t)
  const compilerOptions = {
    target: 'es2024',
    module: 'nodenext',
    lib: ['es2024'],
    types: ['node'],
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: false,
    outDir: 'out',
  }
  writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions }))
  // The README's code too, as one module.
  const readme = blocksOf(readFileSync(join(ROOT, 'README.md'), 'utf8'))
  const code = readme.filter(({ info }) => info === 'ts').map(({ text }) => text)
  assert.ok(code.length >= 2)
  writeFileSync(join(project, 'readme.ts'), code.join('\n'))
  const tsc = join(ROOT, 'node_modules', '.bin', 'tsc')
  const compiled = await run(tsc, ['-p', project]).catch(error => error)
  assert.equal(compiled.stdout, '')

  const { stdout } = await run(process.execPath, ['out/typed.js'], { cwd: project, env })
  const { refused, ...rest } = JSON.parse(stdout)
  assert.equal(refused.error, 'operation_not_permitted')
  assert.deepEqual(rest, {
    passed: 200,
    status: 401,
    name: 'ConfigError',
    unknown: 'no_such_check',
  })
})
