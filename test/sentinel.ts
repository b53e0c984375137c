// A master, a replica and three sentinels for tests: processes on loopback, in a hurry, gone with the test.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import {
  type Cleanup,
  endServer,
  freePort,
  runServer,
  startRedis,
  type TestRedis,
  withFreshPort,
} from './redis.ts'
import { until } from './until.ts'

const NAME = 'caracal'

/** A master that sentinels watch. */
export interface TestSentinel {
  /** `redis+sentinel:` URL of all sentinels, credentials included. */
  readonly url: string
  /** The two servers; the first was the first master. */
  readonly servers: readonly [TestRedis, TestRedis]
  /** The server that the sentinels call the master. */
  master(): Promise<TestRedis>
  /** Resolves once all sentinels call this server the master, and it thinks so itself. */
  promoted(server: TestRedis): Promise<void>
  /** Resolves once this server follows the other one and has all that it has. */
  follows(server: TestRedis): Promise<void>
  /** Asks for an orderly fail-over and waits for its end; resolves to the new master. */
  failOver(): Promise<TestRedis>
}

/** Options of {@link startSentinel}. */
export interface TestSentinelOptions {
  /** The password of the two servers. */
  readonly password?: string
  /** The password of the sentinels. */
  readonly sentinelPassword?: string
}

/** Starts it all; resolves once the sentinels know each other and the replica, so that a fail-over can succeed. */
export async function startSentinel(
  t: Cleanup,
  options: TestSentinelOptions = {},
): Promise<TestSentinel> {
  const { password, sentinelPassword } = options
  const shared = [
    '--repl-diskless-sync-delay',
    '0',
    '--repl-ping-replica-period',
    '1',
    ...(password ? ['--masterauth', password] : []),
  ]
  const auth = password === undefined ? {} : { password }
  const first = await startRedis(t, { ...auth, args: shared })
  const second = await startRedis(t, {
    ...auth,
    args: [...shared, '--replicaof', '127.0.0.1', `${first.port}`],
  })
  const watch = [
    `sentinel monitor ${NAME} 127.0.0.1 ${first.port} 1`,
    `sentinel failover-timeout ${NAME} 5000`,
    ...(password ? [`sentinel auth-pass ${NAME} ${password}`] : []),
    ...(sentinelPassword
      ? [`requirepass ${sentinelPassword}`, `sentinel sentinel-pass ${sentinelPassword}`]
      : []),
  ]
  // One of them is first to miss the master, and the others vote for it: if all stood for election at once, none might win,
  // and they would wait before they try again.
  const run = (patience: number) => {
    const missing = `sentinel down-after-milliseconds ${NAME} ${patience}`
    return runSentinel(t, [...watch, missing], sentinelPassword)
  }
  const sentinels = await Promise.all([run(1_000), run(10_000), run(10_000)])
  const everyone = (question: (sentinel: Redis) => Promise<boolean>) =>
    until(async () => {
      const answers = await Promise.all(
        sentinels.map(({ client }) => question(client).catch(() => false)),
      )
      return answers.every(Boolean)
    }, 30_000)
  const follows = (server: TestRedis) =>
    until(async () => {
      const other = await replication(server === first ? second : first)
      const own = await replication(server)
      return (
        own.get('role') === 'slave' &&
        own.get('master_link_status') === 'up' &&
        Number(own.get('slave_repl_offset')) >= Number(other.get('master_repl_offset'))
      )
    }, 30_000)
  const servers = [first, second] as const
  const masterPort = async (sentinel: Redis) => {
    const address: unknown = await sentinel.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', NAME)
    return Array.isArray(address) ? Number(address[1]) : 0
  }
  const promoted = async (server: TestRedis) => {
    await everyone(async sentinel => (await masterPort(sentinel)) === server.port)
    await until(async () => (await replication(server)).get('role') === 'master')
  }

  await follows(second)
  await everyone(async sentinel => {
    const usable = String(await sentinel.call('SENTINEL', 'CKQUORUM', NAME))
    const replicas = String(await sentinel.call('SENTINEL', 'REPLICAS', NAME))
    return usable.startsWith('OK 3') && replicas.includes('master-link-status,ok')
  })

  const list = sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')
  const query = sentinelPassword ? `?sentinelPassword=${encodeURIComponent(sentinelPassword)}` : ''
  const credentials = password ? `:${encodeURIComponent(password)}@` : ''
  const master = async () => {
    const port = await masterPort(sentinels[0].client)
    return port === first.port ? first : second
  }
  return {
    url: `redis+sentinel://${credentials}${list}/${NAME}${query}`,
    servers,
    master,
    promoted,
    follows,
    async failOver() {
      const next = (await master()) === first ? second : first
      // A sentinel refuses while it is still busy with the last one.
      await until(async () => {
        const answer = await sentinels[0].client
          .call('SENTINEL', 'FAILOVER', NAME)
          .catch((error: Error) => error.message)
        return answer === 'OK'
      }, 30_000)
      await promoted(next)
      return next
    },
  }
}

async function replication(server: TestRedis): Promise<Map<string, string>> {
  const lines = String(await server.command('INFO', 'replication')).split('\r\n')
  return new Map(
    lines.map(line => {
      const [name = '', value = ''] = line.split(':')
      return [name, value]
    }),
  )
}

async function runSentinel(t: Cleanup, watch: readonly string[], password: string | undefined) {
  const dir = await mkdtemp(join(tmpdir(), 'gateway-sentinel-'))
  const file = join(dir, 'sentinel.conf')
  const { port, server } = await withFreshPort(async () => {
    const port = await freePort()
    const lines = [`port ${port}`, 'bind 127.0.0.1', `dir ${dir}`, ...watch]
    await writeFile(file, `${lines.join('\n')}\n`)
    return { port, server: await runServer([file, '--sentinel'], '+monitor') }
  })
  const client = new Redis({
    host: '127.0.0.1',
    port,
    ...(password !== undefined && { password }),
    protocol: 2,
    enableReadyCheck: false,
  })
  client.on('error', () => undefined)
  t.after(async () => {
    client.disconnect()
    await endServer(server)
    await rm(dir, { recursive: true, force: true })
  })
  // Sentinels take their time by default, and distrust a clock that a busy machine makes jump.
  const pace = {
    'info-period': 200,
    // Times five, it is how old a replica's INFO may be for it to be promoted; one a second comes while the master is down.
    'ping-period': 500,
    'ask-period': 100,
    // Times four, it is how long a promoted replica may be unheard of before it is demoted again.
    'publish-period': 1_000,
    'tilt-trigger': 60_000,
    'tilt-period': 100,
    'min-link-reconnect-period': 100,
  }
  await client.call('SENTINEL', 'DEBUG', ...Object.entries(pace).flat())
  return { port, client }
}
