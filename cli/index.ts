#!/usr/bin/env node
// Guarantees that an old Node and an unknown command end with one clear line, before anything is loaded.

import { readFileSync } from 'node:fs'
import { isSupportedNode, OLDEST_NODE } from '../lib/node-version.ts'
import { type Command, UsageError, usageOf } from './command.ts'
import { COMMANDS } from './commands.ts'

const width = Math.max(...COMMANDS.map(({ name }) => name.length))

const USAGE = `usage: caracal-gateway [command] [--help] [--version]

  ${'(none)'.padEnd(width)}  serve, configured by environment variables
${COMMANDS.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`).join('\n')}

  -h, --help       print this, or what a command takes
  -v, --version    print the version
`

async function main([name, ...args]: string[]): Promise<void> {
  if (!isSupportedNode(process.versions.node)) {
    return fail(`Node.js ${OLDEST_NODE} or newer is needed, this is ${process.version}`, 1)
  }
  if (name === undefined || name.startsWith('-')) {
    return withUsage(USAGE, () => withoutCommand(name === undefined ? [] : [name, ...args]))
  }
  const command = COMMANDS.find(known => known.name === name)
  if (command === undefined) return fail(`unknown command: ${name}\n\n${USAGE.trimEnd()}`, 2)
  await withUsage(usageOf(command), () => runCommand(command, args))
}

async function withoutCommand(args: string[]): Promise<void> {
  const [option, ...more] = args
  if (option === undefined) {
    const { serve } = await import('../server.ts')
    return serve(process.env)
  }
  if (more.length === 0 && (option === '--help' || option === '-h')) {
    return void process.stdout.write(USAGE)
  }
  if (more.length === 0 && (option === '--version' || option === '-v')) {
    return void process.stdout.write(`${packageVersion()}\n`)
  }
  throw new UsageError(`Unknown option '${option}'`)
}

async function runCommand(command: Command, args: string[]): Promise<void> {
  if (args.includes('--help') || args.includes('-h')) {
    return void process.stdout.write(usageOf(command))
  }
  try {
    process.exitCode = await command.run(args, process.env)
  } catch (error) {
    if (error instanceof UsageError) throw error
    fail(`${command.name}: ${error instanceof Error ? error.message : String(error)}`, 1)
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
