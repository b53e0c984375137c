// Processes that a benchmark starts beside the gateway, and talks to.
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Cleanup } from '../test/redis.ts'

/** A script of this folder that serves. */
export interface Server {
  readonly child: ChildProcess
  /** What its first line says. */
  readonly said: string
}

/** Starts a script of this folder; resolves to what its first line matches. */
export async function startServer(
  ends: Cleanup,
  script: string,
  env: Readonly<Record<string, string>>,
  pattern: RegExp,
): Promise<Server> {
  const child = spawn(process.execPath, [fileURLToPath(new URL(script, import.meta.url))], {
    env: { PATH: process.env['PATH'] ?? '', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  ends.after(() => stop(child))
  const [line] = await once(createInterface({ input: child.stdout }), 'line')
  const said = pattern.exec(String(line))?.[1]
  if (said === undefined) throw new Error(`${script} says: ${line}`)
  return { child, said }
}

/** A script of this folder that does what it is told, one message at a time. */
export interface Worker<Task, Result> {
  /** @throws Error when it broke off */
  give(task: Task): Promise<Result>
  stop(): Promise<void>
}

/** Starts a script of this folder. */
export function startWorker<Task extends object, Result>(
  ends: Cleanup,
  script: string,
): Worker<Task, Result> {
  const child = fork(new URL(script, import.meta.url))
  ends.after(() => stop(child))
  return {
    give(task) {
      return new Promise((resolve, reject) => {
        const onExit = () => reject(new Error(`${script} broke off`))
        child.once('exit', onExit)
        child.once('message', (result: Result) => {
          child.off('exit', onExit)
          resolve(result)
        })
        child.send(task)
      })
    },
    stop: () => stop(child),
  }
}

/** Ends a process in an orderly way, if it still runs. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill()
  await once(child, 'exit')
}
