#!/usr/bin/env node
// Guarantees that an old Node and an unknown command end with one clear line, before anything is loaded.

import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { isSupportedNode, OLDEST_NODE } from '../lib/node-version.ts'

const USAGE = `usage: caracal-gateway [command] [--help] [--version]

  (no command)  serve, configured by environment variables
  demo          gateway, development STS and echo upstream on loopback, with a line to try

  -h, --help    print this
  -v, --version print the version
`

type Command = () => Promise<void>

async function serveGateway(): Promise<void> {
  const { serve } = await import('../server.ts')
  await serve(process.env)
}

const COMMANDS: ReadonlyMap<string | undefined, Command> = new Map([
  [undefined, serveGateway],
  [
    'demo',
    async () => {
      const { runDemo } = await import('./demo.ts')
      // All parts are closed; what a failed start has left behind is not worth waiting for.
      process.exit(await runDemo(process.env))
    },
  ],
])

async function main(): Promise<void> {
  if (!isSupportedNode(process.versions.node)) {
    return fail(`Node.js ${OLDEST_NODE} or newer is needed, this is ${process.version}`, 1)
  }
  const parsed = parse(process.argv.slice(2))
  if (typeof parsed === 'string') return fail(`${parsed}\n\n${USAGE.trimEnd()}`, 2)
  if (parsed.help) return void process.stdout.write(USAGE)
  if (parsed.version) return void process.stdout.write(`${packageVersion()}\n`)
  await parsed.run()
}

interface Invocation {
  readonly help: boolean
  readonly version: boolean
  readonly run: Command
}

/** What was asked for, or what is wrong with it. */
function parse(args: string[]): Invocation | string {
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        help: { type: 'boolean', short: 'h', default: false },
        version: { type: 'boolean', short: 'v', default: false },
      },
    })
    const [name, ...more] = positionals
    const run = COMMANDS.get(name)
    if (run === undefined) return `unknown command: ${name}`
    if (more.length > 0) return `unexpected argument: ${more[0]}`
    return { ...values, run }
  } catch (error) {
    const [sentence] = (error instanceof Error ? error.message : String(error)).split('. ')
    return sentence ?? ''
  }
}

function packageVersion(): string {
  const file = new URL(import.meta.resolve('caracal-gateway/package.json'))
  const manifest: unknown = JSON.parse(readFileSync(file, 'utf8'))
  if (typeof manifest !== 'object' || manifest === null || !('version' in manifest))
    return 'unknown'
  return String(manifest.version)
}

function fail(message: string, exitCode: number): void {
  process.stderr.write(`caracal-gateway: ${message}\n`)
  process.exitCode = exitCode
}

await main()
