// The package holds what its users need and nothing else, and its entry points are sound.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'
import { brokenLinks } from '../../scripts/pages.ts'
import { install, manifest, namesIn, pack } from './tarball.ts'

const run = promisify(execFile)

test('the package holds the build, its declarations, docs and what runs it, and no tests or sources', async t => {
  const names = await namesIn(await pack(t))
  for (const name of [
    'package.json',
    'README.md',
    'CHANGELOG.md',
    'LICENSE',
    '.env.example',
    'dist/app.js',
    'dist/app.d.ts',
    'dist/server.js',
    'dist/cli/index.js',
    'docs/configuration.md',
  ]) {
    assert.ok(names.includes(name), `${name} is missing`)
  }
  const strange = names.filter(
    name =>
      /(^|\/)(tests?|ci|node_modules|\.cache)[/.]/.test(name) ||
      (name.startsWith('dist/') ? !/\.(js|d\.ts)$/.test(name) : /\.(ts|mjs)$/.test(name)),
  )
  assert.deepEqual(strange, [])
})

test('the pages of the package lead to what is in the package', async t => {
  const project = await install(t, await pack(t))
  const root = join(project, 'node_modules', 'caracal-gateway')
  const pages = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter(name =>
    /^(README|CHANGELOG|docs\/.*)\.md$/.test(name),
  )
  assert.ok(pages.length > 10)
  assert.deepEqual(
    pages.flatMap(page => brokenLinks(root, page)),
    [],
  )
})

test('the package has no fault that publint knows', async t => {
  const project = await install(t, await pack(t))
  const pkgDir = join(project, 'node_modules', 'caracal-gateway')
  const { messages, pkg } = await publint({ pkgDir, pack: false, strict: true })
  assert.deepEqual(
    messages.map(message => formatMessage(message, pkg)),
    [],
  )
})

test('the types of the package are right for whoever can import it', async t => {
  const data = new Uint8Array(readFileSync(await pack(t)))
  const result = await checkPackage(createPackageFromTarballData(data))
  assert.equal(result.types !== false && result.types.kind, 'included')
  // Of CommonJS alone it is said that it must use `import`: there is one build, of ES modules.
  assert.deepEqual('problems' in result && result.problems, [
    { kind: 'CJSResolvesToESM', entrypoint: '.', resolutionKind: 'node16-cjs' },
  ])
})

test('the command of the package runs where it is installed', async t => {
  const project = await install(t, await pack(t))
  const command = join(project, 'node_modules', 'caracal-gateway', 'dist', 'cli', 'index.js')
  const { stdout } = await run(process.execPath, [command, '--version'], { cwd: project })
  assert.equal(stdout, `${manifest().version}\n`)
})
