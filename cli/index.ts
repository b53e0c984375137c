#!/usr/bin/env node
// Guarantees that an old Node and an unknown command end with one clear line, before anything is loaded.

import { readFileSync } from 'node:fs'
import { isSupportedNode, OLDEST_NODE } from '../lib/node-version.ts'
import { type Command, readOptions, UsageError } from './command.ts'

const USAGE = `usage: caracal-gateway [command] [--help] [--version]

  (no command)     serve, configured by environment variables
  demo             gateway, development STS and echo upstream on loopback, with a line to try
  verify-evidence  whether the audit evidence on disk and in Redis holds

  -h, --help       print this, or what a command takes
  -v, --version    print the version
`

const COMMANDS: ReadonlyMap<string, () => Promise<Command>> = new Map([
  ['demo', async () => (await import('./demo.ts')).demo],
  ['verify-evidence', async () => (await import('./verify-evidence.ts')).verifyEvidence],
])

async function main([name, ...args]: string[]): Promise<void> {
  if (!isSupportedNode(process.versions.node)) {
    return fail(`Node.js ${OLDEST_NODE} or newer is needed, this is ${process.version}`, 1)
  }
  if (name === undefined || name.startsWith('-')) {
    return withUsage(USAGE, () => withoutCommand(name === undefined ? [] : [name, ...args]))
  }
  const load = COMMANDS.get(name)
  if (load === undefined) return fail(`unknown command: ${name}\n\n${USAGE.trimEnd()}`, 2)
  const command = await load()
  await withUsage(command.usage, () => runCommand(name, command, args))
}

async function withoutCommand(args: string[]): Promise<void> {
  const { help, version } = readOptions(args, {
    help: { type: 'boolean', short: 'h' },
    version: { type: 'boolean', short: 'v' },
  })
  if (help) return void process.stdout.write(USAGE)
  if (version) return void process.stdout.write(`${packageVersion()}\n`)
  const { serve } = await import('../server.ts')
  await serve(process.env)
}

async function runCommand(name: string, command: Command, args: string[]): Promise<void> {
  if (args.includes('--help') || args.includes('-h')) {
    return void process.stdout.write(command.usage)
  }
  try {
    process.exitCode = await command.run(args, process.env)
  } catch (error) {
    if (error instanceof UsageError) throw error
    fail(`${name}: ${error instanceof Error ? error.message : String(error)}`, 1)
  }
}

async function withUsage(usage: string, run: () => Promise<void>): Promise<void> {
  try {
    await run()
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    fail(`${error.message}\n\n${usage.trimEnd()}`, 2)
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

await main(process.argv.slice(2))
