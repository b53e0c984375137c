// What several end-to-end tests need beside the stack.
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { hmacKey, signStreamEntry } from '../../lib/stream-signature.ts'
import type { Cleanup, TestRedis } from '../redis.ts'
import { type Gateway, KEYS } from './harness.ts'

/** Ends what a suite's tests share, last first; to be called in the suite's own function. */
export function suiteCleanup(): Cleanup {
  const started: (() => Promise<void>)[] = []
  after(async () => {
    for (const end of started.toReversed()) await end()
  })
  return { after: end => void started.push(end) }
}

/** A directory that goes with the test. */
export async function temporaryDirectory(t: Cleanup): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'gateway-test-'))
  t.after(() => rm(directory, { recursive: true, force: true }))
  return directory
}

/** Everything that lies under a directory, by its path in it. */
export function filesIn(directory: string): Map<string, string> {
  const names = readdirSync(directory, { recursive: true, encoding: 'utf8', withFileTypes: true })
  return new Map(
    names
      .filter(entry => entry.isFile())
      .map(({ parentPath, name }) => {
        const path = join(parentPath, name)
        return [path.slice(directory.length + 1), readFileSync(path, 'utf8')]
      }),
  )
}

/** Kills a gateway as the kernel would when memory runs out. */
export async function kill({ child, signal }: Gateway): Promise<void> {
  const ended = once(child, 'close')
  signal('SIGKILL')
  await ended
}

/** The stream that Caracal publishes revocations to. */
export const REVOCATIONS = 'caracal.sessions.revoke'

/** A message of {@link REVOCATIONS}, signed as Caracal signs it. */
export function signedRevocation(
  fields: Readonly<Record<string, string>>,
  key: string = KEYS.streams,
): Record<string, string> {
  return { ...fields, _sig: signStreamEntry(hmacKey('key', key), REVOCATIONS, fields) }
}

/** Publishes a revocation, signed as Caracal signs it; resolves to the message's id. */
export async function revoke(
  redis: TestRedis,
  fields: Readonly<Record<string, string>>,
  key: string = KEYS.streams,
): Promise<string> {
  return redis.add(REVOCATIONS, signedRevocation(fields, key))
}

/** The claims of a token, unverified. */
export function claimsOf(token: string): Record<string, unknown> {
  return JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())
}

/** Whether the gateway has logged a message that matches. */
export function hasLogged({ logs }: Gateway, pattern: RegExp): boolean {
  return logs.some(({ msg }) => typeof msg === 'string' && pattern.test(msg))
}
