// A cluster of three masters for tests: processes on loopback, gone with the test.
import {
  type Cleanup,
  freePort,
  startRedis,
  type TestRedis,
  type TestRedisOptions,
} from './redis.ts'
import { until } from './until.ts'

const SLOTS = 16_384
const SIZE = 3

/** A running cluster. */
export interface TestCluster {
  /** `redis+cluster:` URL of one of its servers. */
  readonly url: string
  readonly servers: readonly TestRedis[]
  /** The server that a key belongs to. */
  owner(key: string): Promise<TestRedis>
  /** A key that belongs to this server. */
  keyOf(server: TestRedis): Promise<string>
  /** Moves the slot of a key, with all that is in it, to a server; `midway` runs before the slot changes hands. */
  move(key: string, to: TestRedis, midway?: () => Promise<void>): Promise<void>
}

/** Starts a cluster that takes commands. */
export async function startCluster(
  t: Cleanup,
  options: TestRedisOptions = {},
): Promise<TestCluster> {
  const servers: TestRedis[] = []
  for (let index = 0; index < SIZE; index++) {
    const bus = await freePort()
    const args = ['--cluster-enabled', 'yes', '--cluster-port', `${bus}`]
    args.push('--cluster-node-timeout', '5000', '--cluster-announce-ip', '127.0.0.1')
    const server = await startRedis(t, { ...options, args: [...args, ...(options.args ?? [])] })
    const share = (part: number) => Math.floor((SLOTS * part) / SIZE)
    await server.command('CLUSTER', 'SET-CONFIG-EPOCH', index + 1)
    await server.command('CLUSTER', 'ADDSLOTSRANGE', share(index), share(index + 1) - 1)
    servers.push(server)
    await servers[0]?.command('CLUSTER', 'MEET', '127.0.0.1', server.port, bus)
  }
  await until(async () => {
    const infos = await Promise.all(servers.map(server => server.command('CLUSTER', 'INFO')))
    return infos.every(info => String(info).includes('cluster_state:ok'))
  }, 30_000)

  const slotOf = async (key: string) => Number(await servers[0]?.command('CLUSTER', 'KEYSLOT', key))
  const idOf = async (server: TestRedis) => String(await server.command('CLUSTER', 'MYID'))
  const owner = async (key: string) => {
    for (const server of servers) {
      // Whoever has not got the slot says who has.
      const here = await server.command('EXISTS', key).catch(() => undefined)
      if (here !== undefined) return server
    }
    throw new Error('nobody has the slot')
  }
  const credentials = options.password ? `:${encodeURIComponent(options.password)}@` : ''
  return {
    url: `redis+cluster://${credentials}127.0.0.1:${servers[0]?.port}`,
    servers,
    owner,
    async keyOf(server) {
      for (;;) {
        const key = `key-${Math.random()}`
        if ((await owner(key)) === server) return key
      }
    },
    async move(key, to, midway) {
      const slot = await slotOf(key)
      const from = await owner(key)
      await to.command('CLUSTER', 'SETSLOT', slot, 'IMPORTING', await idOf(from))
      await from.command('CLUSTER', 'SETSLOT', slot, 'MIGRATING', await idOf(to))
      const found = await from.command('CLUSTER', 'GETKEYSINSLOT', slot, 1_000)
      const keys = Array.isArray(found) ? found.map(String) : []
      const auth = options.password ? ['AUTH', options.password] : []
      if (keys.length > 0) {
        const target = ['127.0.0.1', to.port, '', 0, 5_000]
        await from.command('MIGRATE', ...target, ...auth, 'KEYS', ...keys)
      }
      await midway?.()
      const id = await idOf(to)
      await to.command('CLUSTER', 'SETSLOT', slot, 'NODE', id)
      await from.command('CLUSTER', 'SETSLOT', slot, 'NODE', id)
    },
  }
}
