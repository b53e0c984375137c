// Guarantees that the documentation is true as far as a machine can tell: links lead somewhere, generated pages are those
// of the code, and commands that are marked `sh run` do what the page says. `npm run docs:check`; it needs the build.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { brokenLinks, type Place, runBlocks, unmarkedBlocks } from './pages.ts'

/** The repository. */
const ROOT = fileURLToPath(new URL('..', import.meta.url))
const CLI = join(ROOT, 'dist', 'cli', 'index.js')

/** The pages, relative to the repository. */
export function pages(): string[] {
  const docs = readdirSync(join(ROOT, 'docs')).filter(name => name.endsWith('.md'))
  return ['README.md', 'CHANGELOG.md', ...docs.sort().map(name => `docs/${name}`)]
}

/** What is wrong with the pages as texts; one text each. */
export function pageProblems(): string[] {
  return pages().flatMap(file => [...brokenLinks(ROOT, file), ...unmarkedBlocks(ROOT, file)])
}

/**
 * Runs the commands of all pages against a demo of its own.
 *
 * @returns how many blocks ran
 */
export async function runPages(): Promise<number> {
  const directory = mkdtempSync(join(tmpdir(), 'caracal-docs-'))
  const demo = spawn(process.execPath, [CLI, 'demo'], {
    cwd: directory,
    env: {
      ...process.env,
      DEMO_GATEWAY_PORT: '0',
      DEMO_STS_PORT: '0',
      DEMO_UPSTREAM_PORT: '0',
      REDIS_URL: '',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const exit = once(demo, 'close')
  try {
    const place = placeOf(directory, await untilReady(demo, exit))
    let count = 0
    for (const file of pages()) {
      count += await runBlocks(file, readFileSync(join(ROOT, file), 'utf8'), place)
    }
    return count
  } finally {
    demo.kill('SIGTERM')
    await exit
    rmSync(directory, { recursive: true, force: true })
  }
}

/** A folder with the command of the package on its PATH, and the demo's ports in place of the usual ones. */
function placeOf(directory: string, printed: string): Place {
  const bin = join(directory, '.bin')
  mkdirSync(bin)
  const command = `#!/bin/sh\nexec '${process.execPath}' '${CLI}' "$@"\n`
  writeFileSync(join(bin, 'caracal-gateway'), command, { mode: 0o755 })
  const [gateway, sts, upstream] = ['gateway', 'development STS', 'echo upstream'].map(
    name => new RegExp(`^ *${name} +http://(\\S+)$`, 'm').exec(printed)?.[1] ?? 'nowhere',
  )
  return {
    directory,
    env: {
      ...process.env,
      PATH: [bin, dirname(process.execPath), process.env['PATH']].join(delimiter),
    },
    substitutes: new Map([
      ['127.0.0.1:8081', gateway ?? ''],
      ['127.0.0.1:8080', sts ?? ''],
      ['127.0.0.1:8082', upstream ?? ''],
    ]),
  }
}

/** What the demo has printed once it serves. */
async function untilReady({ stdout }: ChildProcess, exit: Promise<unknown>): Promise<string> {
  if (stdout === null) throw new Error('the demo has no output')
  let printed = ''
  stdout.on('data', chunk => (printed += chunk))
  while (!printed.includes('Ctrl-C')) {
    const ended = await Promise.race([
      once(stdout, 'data').then(() => false),
      exit.then(() => true),
    ])
    if (ended) throw new Error(`the demo ended: ${printed}`)
  }
  return printed
}

if (import.meta.main) {
  const problems = pageProblems()
  if (problems.length > 0) {
    process.stderr.write(`${problems.join('\n')}\n`)
    process.exitCode = 1
  } else {
    process.stdout.write(`${await runPages()} blocks of commands ran as their pages say\n`)
  }
}
