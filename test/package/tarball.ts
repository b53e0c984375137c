// The package as `npm pack` makes it of `dist/`, and a project that has it installed, without asking any registry.

import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Cleanup } from '../redis.ts'

const run = promisify(execFile)

/** The repository. */
export const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** What the tests need of `package.json`. */
export interface Manifest {
  readonly name: string
  readonly version: string
  readonly dependencies: Readonly<Record<string, string>>
}

function isManifest(value: unknown): value is Manifest {
  return (
    typeof value === 'object' && value !== null && 'dependencies' in value && 'version' in value
  )
}

/** `package.json`. */
export function manifest(): Manifest {
  const value: unknown = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
  if (!isManifest(value)) throw new TypeError('package.json has no version or no dependencies')
  return value
}

/** Packs the package. Returns the path of the tarball, which goes with the test. */
export async function pack(t: Cleanup): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'caracal-pack-'))
  t.after(async () => rmSync(folder, { recursive: true, force: true }))
  const args = ['pack', '--ignore-scripts', '--offline', '--json', `--pack-destination=${folder}`]
  await run('npm', args, { cwd: ROOT, maxBuffer: 8 << 20 })
  const [name] = readdirSync(folder)
  if (name === undefined) throw new Error('npm pack left no tarball')
  return join(folder, name)
}

/** The names of the files in a tarball, without the leading `package/`. */
export async function namesIn(tarball: string): Promise<string[]> {
  const { stdout } = await run('tar', ['-tzf', tarball])
  return stdout
    .split('\n')
    .filter(name => name !== '' && !name.endsWith('/'))
    .map(name => name.replace(/^package\//, ''))
}

/**
 * A project that has the package installed, and beside it what `package.json` names as its dependencies, Fastify
 * among them, and what TypeScript needs. A dependency that is used and not named is not found there.
 *
 * @returns its folder, which goes with the test
 */
export async function install(t: Cleanup, tarball: string): Promise<string> {
  const project = mkdtempSync(join(tmpdir(), 'caracal-project-'))
  t.after(async () => rmSync(project, { recursive: true, force: true }))
  const modules = join(project, 'node_modules')
  const unpacked = join(modules, 'caracal-gateway')
  mkdirSync(unpacked, { recursive: true })
  await run('tar', ['-xzf', tarball, '--strip-components=1', '-C', unpacked])
  for (const name of [...Object.keys(manifest().dependencies), '@types/node']) {
    const link = join(modules, name)
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(join(ROOT, 'node_modules', name), link)
  }
  return project
}
