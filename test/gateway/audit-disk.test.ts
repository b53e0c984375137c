// Holds the gateway to dispatch nothing that it cannot prove, under load, whatever becomes of its disk, and to account for
// all that an upstream saw (contract section 8).
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { mkdir, readdir, rm, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { promisify } from 'node:util'
import { lastFirst, type Scope } from '../cleanup.ts'
import { until } from '../until.ts'
import { type Gateway, type Stack, startGateway, startStack, WORKERS } from './harness.ts'
import {
  type Account,
  assertAccounted,
  assertNothingLeft,
  assertSettled,
  assertTidy,
  figuresOf,
  Load,
  PATIENT,
  reasonOf,
  work,
} from './load.ts'
import { hasLogged, kill, temporaryDirectory } from './support.ts'

const LONG = 30_000
const UNPROVABLE = '503 audit evidence unavailable'
const run = promisify(execFile)

/** A directory whose disk can be filled. */
interface Disk {
  readonly directory: string
  fill(gateway: Gateway): Promise<void>
  relieve(gateway: Gateway): Promise<void>
}

/** Fails for a user who may not mount. */
async function smallDisk(t: Scope): Promise<Disk> {
  const mount = await temporaryDirectory(t)
  await run('mount', ['-t', 'tmpfs', '-o', 'size=8m,mode=0700', 'tmpfs', mount])
  t.after(async () => void (await run('umount', [mount])))
  const filler = join(mount, 'filler')
  return {
    directory: join(mount, 'replay'),
    async fill() {
      const file = createWriteStream(filler)
      const full = new Promise(resolve => file.on('error', resolve))
      const block = Buffer.alloc(4_096)
      while (!file.destroyed) await new Promise(written => file.write(block, written))
      await full
    },
    relieve: () => unlink(filler),
  }
}

/** The system lets no file grow beyond a limit, which stands for a disk without room. */
async function limitedFiles(t: Scope): Promise<Disk> {
  const limit = async ({ servers }: Gateway, bytes: string) => {
    for (const pid of servers()) {
      await run('prlimit', ['--pid', String(pid), `--fsize=${bytes}:unlimited`])
    }
  }
  return {
    directory: join(await temporaryDirectory(t), 'replay'),
    fill: gateway => limit(gateway, '100'),
    relieve: gateway => limit(gateway, 'unlimited'),
  }
}

async function start(directory: string, t: Scope): Promise<{ stack: Stack; load: Load }> {
  const env = { ...PATIENT, AUDIT_REPLAY_DIR: directory }
  const stack = await startStack(t, { env, redis: { durable: true } })
  work(stack)
  return { stack, load: new Load(t, stack) }
}

async function reaches(gateway: Gateway, reason: string | undefined): Promise<void> {
  await until(async () => (await reasonOf(gateway)) === reason, LONG)
}

/** What holds once all is well again. */
async function assertRecovered(
  t: Scope,
  stack: Stack,
  directory: string,
  load: Load,
): Promise<Account> {
  await load.more('200', 100)
  await load.stop()
  await assertSettled(stack.gateway)
  const account = await assertAccounted(t, stack, { loads: [load] })
  assert.equal(load.count('broken'), 0)
  await assertNothingLeft(directory, [stack.gateway])
  return account
}

const DISKS = { 'a small disk': smallDisk, 'a limit on the size of files': limitedFiles }

for (const [what, make] of Object.entries(DISKS)) {
  describe(`on a disk that fills up under load (${what}), the gateway`, () => {
    test(
      'refuses while it can write no intent, and recovers',
      lastFirst(async t => {
        const disk = await make(t).catch((error: Error) => t.skip(error.message))
        if (disk === undefined) return
        const { stack, load } = await start(disk.directory, t)
        const { gateway } = stack
        await load.more('200', 200)
        await disk.fill(gateway)
        const full = performance.now()
        await load.more(UNPROVABLE, 100)
        await reaches(gateway, 'audit_replay_unavailable')
        await load.more(UNPROVABLE, 100)
        const meanwhile = load.between(full, performance.now())
        await disk.relieve(gateway)
        const { duplicated } = await assertRecovered(t, stack, disk.directory, load)
        assert.equal(duplicated, 0)
        // Another worker may find room for a while.
        if (WORKERS > 1) delete meanwhile['200']
        assert.deepEqual(Object.keys(meanwhile), [UNPROVABLE])
        assert.ok(hasLogged(gateway, /^audit replay directory cannot be used/))
        assert.ok(hasLogged(gateway, /^audit replay directory can be used again/))
      }),
    )

    test(
      'loses nothing while Redis is away too, and sends what it has once Redis is back',
      lastFirst(async t => {
        const disk = await make(t).catch((error: Error) => t.skip(error.message))
        if (disk === undefined) return
        const { stack, load } = await start(disk.directory, t)
        const { gateway, redis } = stack
        await load.more('200', 200)
        await redis.stop()
        await until(async () => ((await figuresOf(gateway))['audit_persisted'] ?? 0) > 0, LONG)
        await disk.fill(gateway)
        await load.more(UNPROVABLE, 100)
        await reaches(gateway, 'redis_unreachable')
        const away = performance.now()
        await load.more(UNPROVABLE, 100)
        await redis.restart()
        // With no room on the disk yet.
        await until(async () => ((await figuresOf(gateway))['audit_drained'] ?? 0) > 0, LONG)
        await reaches(gateway, 'audit_replay_unavailable')
        const meanwhile = load.between(away, performance.now())
        await disk.relieve(gateway)
        await assertRecovered(t, stack, disk.directory, load)
        assert.deepEqual(Object.keys(meanwhile), [UNPROVABLE])
      }),
    )
  })
}

test(
  'the gateway starts on a disk that was full when it was killed, and sends what it left there',
  lastFirst(async t => {
    const disk = await smallDisk(t).catch((error: Error) => t.skip(error.message))
    if (disk === undefined) return
    const { stack, load } = await start(disk.directory, t)
    await load.more('200', 200)
    await disk.fill(stack.gateway)
    await load.more(UNPROVABLE, 100)
    await kill(stack.gateway)
    await load.stop()
    const next = await startGateway(t, stack.env)
    await assertTidy(disk.directory, 1)
    await assertSettled(next)
    await assertAccounted(t, stack, { loads: [load], killed: true })
    await disk.relieve(next)
    await assertNothingLeft(disk.directory, [next])
  }),
)

test(
  'the gateway outlives its directory: removed under load, replaced by a file, and made again',
  lastFirst(async t => {
    const directory = join(await temporaryDirectory(t), 'replay')
    const { stack, load } = await start(directory, t)
    const { gateway } = stack
    await load.more('200', 200)
    await rm(directory, { recursive: true, force: true, maxRetries: 10 })
    await until(() => hasLogged(gateway, /^audit journal has gone/), LONG)
    await load.more('200', 200)

    // It may be made again between the two steps.
    await until(async () => {
      await rm(directory, { recursive: true, force: true, maxRetries: 10 })
      return writeFile(directory, '').then(
        () => true,
        () => false,
      )
    }, LONG)
    await load.more(UNPROVABLE, 100)
    await reaches(gateway, 'audit_replay_unavailable')
    const gone = performance.now()
    await load.more(UNPROVABLE, 100)
    const meanwhile = load.between(gone, performance.now())
    await unlink(directory)
    await load.more('200', 100)
    await reaches(gateway, undefined)

    await rm(directory, { recursive: true, force: true, maxRetries: 10 })
    await mkdir(directory, { recursive: true })
    await until(async () => (await readdir(directory)).length > 0, LONG)
    const { duplicated } = await assertRecovered(t, stack, directory, load)
    assert.equal(duplicated, 0)
    // Another worker may see it a second later.
    if (WORKERS > 1) delete meanwhile['200']
    assert.deepEqual(Object.keys(meanwhile), [UNPROVABLE])
  }),
)
