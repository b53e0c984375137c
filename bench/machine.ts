// The machine and the versions that figures belong to. It says nothing that names the machine.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { availableParallelism, cpus, release, totalmem } from 'node:os'
import { findNginx } from './nginx.ts'

/** What figures depend on beside the code. */
export interface Machine {
  readonly processor: string
  readonly cores: number
  readonly memoryGib: number
  readonly kernel: string
  /** Versions of what runs; nginx is undefined where it is not installed. */
  readonly versions: Readonly<Record<string, string | undefined>>
}

/** This machine. */
export function thisMachine(): Machine {
  return {
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryGib: Math.round(totalmem() / 1024 ** 3),
    kernel: release().replace(/-.*/, ''),
    versions: {
      node: process.versions.node,
      fastify: installed('fastify'),
      'reply-from': installed('@fastify/reply-from'),
      undici: installed('undici'),
      redis: redisVersion(),
      nginx: findNginx()?.version,
    },
  }
}

function installed(name: string): string {
  const file = new URL(`../node_modules/${name}/package.json`, import.meta.url)
  const { version }: { version: string } = JSON.parse(readFileSync(file, 'utf8'))
  return version
}

function redisVersion(): string {
  const program = process.env['REDIS_SERVER'] || 'redis-server'
  const { stdout } = spawnSync(program, ['--version'], { encoding: 'utf8' })
  return /v=(\S+)/.exec(stdout)?.[1] ?? 'unknown'
}
