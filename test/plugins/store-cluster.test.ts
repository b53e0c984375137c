// The store on a cluster: keys on every master, slots that move, nodes that hang or die.
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import Fastify, { type FastifyInstance } from 'fastify'
import store from '../../plugins/store.ts'
import { createCertificate } from '../certificate.ts'
import { startCluster } from '../cluster.ts'
import { freePort, startRedis, type TestRedis } from '../redis.ts'
import { startTcpProxy } from '../tcp-proxy.ts'
import { startTlsProxy } from '../tls-proxy.ts'
import { until } from '../until.ts'

const READ_TIMEOUT = 500
// Until the others call a node failed.
const NODE_TIMEOUT = ['--cluster-node-timeout', '1000']

async function gateway(
  t: TestContext,
  url: string,
  lines: string[] = [],
): Promise<FastifyInstance> {
  const app = Fastify({
    logger: { level: 'debug', stream: { write: line => void lines.push(line) } },
  })
  t.after(() => app.close())
  app.register(store, { url, dialTimeout: 3_000, readTimeout: READ_TIMEOUT })
  await app.ready()
  return app
}

const answers = (app: FastifyInstance) =>
  app.store.ping().then(
    () => true,
    () => false,
  )

async function setCalls(redis: TestRedis): Promise<number> {
  const stats = String(await redis.command('INFO', 'commandstats'))
  return Number(/cmdstat_set:calls=(\d+)/.exec(stats)?.[1] ?? 0)
}

/** From now on the server remembers all that it executes, for {@link claimsOf}. */
async function remember(redis: TestRedis): Promise<void> {
  await redis.command('CONFIG', 'SET', 'slowlog-max-len', 100_000)
  await redis.command('CONFIG', 'SET', 'slowlog-log-slower-than', 0)
}

/** How often a server has executed a claim of this key. A look at the store is a `SET` too, of another. */
async function claimsOf(redis: TestRedis, key: string): Promise<number> {
  const log: unknown = await redis.command('SLOWLOG', 'GET', -1)
  assert.ok(Array.isArray(log) && log.length > 0)
  const commands = log.map((entry: readonly unknown[]) => entry[3])
  return commands.filter(words => {
    assert.ok(Array.isArray(words))
    return String(words[0]).toUpperCase() === 'SET' && words[1] === key
  }).length
}

test('the gateway spreads claims over a cluster and reads its streams', async t => {
  const cluster = await startCluster(t, { password: 'p@ss' })
  const lines: string[] = []
  const apps = await Promise.all([gateway(t, cluster.url, lines), gateway(t, cluster.url, lines)])
  const [one, two] = apps
  // From the first moment on: no node is still being connected to.
  const keys = Array.from({ length: 300 }, (_, n) => `seen:jti:${n}`)
  const claims = await Promise.all(
    keys.flatMap(key => apps.map(app => app.store.claim(key, 'r', 60_000))),
  )
  assert.equal(claims.filter(Boolean).length, keys.length)
  for (const server of cluster.servers) {
    const size = Number(await server.command('DBSIZE'))
    assert.ok(size > 50, `${size}`)
  }

  assert.deepEqual(await one.store.append('s', [{ n: '1' }, { n: '2' }]), [undefined, undefined])
  const all = await two.store.range('s', '-', 10)
  assert.deepEqual(
    all.map(({ fields }) => fields),
    [{ n: '1' }, { n: '2' }],
  )
  const last = (await two.store.info('s'))?.lastId
  assert.equal(last, all[1]?.id)
  assert.equal((await two.store.info('s'))?.length, 2)
  const waiting = two.store.tail('s', last ?? '', 10, 2_000)
  await one.store.append('s', [{ n: '3' }])
  assert.deepEqual(
    (await waiting).map(({ fields }) => fields),
    [{ n: '3' }],
  )
  assert.ok(await answers(one))
  assert.doesNotMatch(lines.join(''), /p@ss/)
})

test('the gateway follows a slot that moves, and claims a key there once', async t => {
  const cluster = await startCluster(t)
  const app = await gateway(t, cluster.url)
  const from = await cluster.owner('s')
  const to = cluster.servers.find(server => server !== from) ?? from
  await app.store.append('s', [{ n: '1' }])
  const first = (await app.store.info('s'))?.lastId
  const before = await Promise.all(cluster.servers.map(setCalls))

  await cluster.move('s', to, async () => {
    // The key is absent from the slot that is leaving: its owner sends the claim on.
    assert.equal(await app.store.claim('{s}midway', 'r', 60_000), true)
    assert.equal(await app.store.claim('{s}midway', 'r', 60_000), false)
    assert.equal(await to.command('ASKING').then(() => to.command('EXISTS', '{s}midway')), 1)
  })
  const claims = ['{s}a', '{s}b', '{s}a'].map(key => app.store.claim(key, 'r', 60_000))
  assert.deepEqual(await Promise.all(claims), [true, true, false])
  const waiting = app.store.tail('s', first ?? '', 10, 2_000)
  assert.deepEqual(await app.store.append('s', [{ n: '2' }, { n: '3' }]), [undefined, undefined])
  const heard = (await waiting).map(({ fields }) => fields['n'])
  assert.equal(heard[0], '2')
  // Executed where the slot is, and counted nowhere else: a command that is sent on is no call.
  const after = await Promise.all(cluster.servers.map(setCalls))
  assert.equal(after.reduce((a, b) => a + b) - before.reduce((a, b) => a + b), 5)
})

test('the gateway gives a hanging node one timeout, and never sends a claim again', async t => {
  const cluster = await startCluster(t, { args: NODE_TIMEOUT })
  const lines: string[] = []
  const app = await gateway(t, cluster.url, lines)
  const [hanging, healthy] = cluster.servers
  assert.ok(hanging && healthy)
  const lost = await cluster.keyOf(hanging)
  const fine = await cluster.keyOf(healthy)
  await remember(hanging)
  hanging.pause()
  t.after(() => hanging.resume())
  const start = performance.now()
  const claim = assert.rejects(app.store.claim(lost, 'r', 60_000))
  assert.equal(await app.store.claim(fine, 'r', 60_000), true)
  await claim
  assert.ok(performance.now() - start < READ_TIMEOUT + 400)
  // The others find out, and then nobody takes commands.
  await until(async () => !(await answers(app)), 10_000)
  hanging.resume()
  await until(() => answers(app), 10_000)
  await until(
    () =>
      app.store
        .claim(fine, 'r', 60_000)
        .then(() => true)
        .catch(() => false),
    10_000,
  )
  assert.equal(await hanging.command('EXISTS', lost), 1)
  assert.equal(await claimsOf(hanging, lost), 1)
  const failures = lines.filter(line => line.includes('redis cluster node failed"'))
  assert.ok(failures.length > 0 && failures.length < 10, `${failures.length}`)
})

test('the gateway never sends a claim again whose answer was lost on its way from a node', async t => {
  const cluster = await startCluster(t)
  const [node, other] = cluster.servers
  assert.ok(node && other)
  const key = await cluster.keyOf(node)
  const proxy = await startTcpProxy(t, node.port)
  await node.command('CONFIG', 'SET', 'cluster-announce-port', proxy.port)
  // As everybody tells it from now on.
  await until(async () =>
    JSON.stringify(await other.command('CLUSTER', 'SLOTS')).includes(`${proxy.port}`),
  )
  const app = await gateway(t, `redis+cluster://127.0.0.1:${other.port}`)
  const swallowed = proxy.swallowAnswers()
  const outcome = app.store.claim(key, 'r', 60_000).then(
    claimed => `answered ${claimed}`,
    () => 'rejected',
  )
  await swallowed
  proxy.cut()
  proxy.restore()
  assert.equal(await outcome, 'rejected')
  await until(() =>
    app.store.claim(key, 'r', 60_000).then(
      first => !first,
      () => false,
    ),
  )
  assert.equal(await node.command('GET', key), 'r')
})

test('the gateway fails at once while a node is down and recovers by itself', async t => {
  const cluster = await startCluster(t, { durable: true, args: NODE_TIMEOUT })
  const app = await gateway(t, cluster.url)
  const [node] = cluster.servers
  assert.ok(node)
  const key = await cluster.keyOf(node)
  assert.equal(await app.store.claim(key, 'r', 60_000), true)
  await node.stop()
  const refused = async () => {
    const start = performance.now()
    const outcome = await app.store.claim(key, 'r', 60_000).catch(() => 'refused')
    assert.equal(outcome, 'refused')
    return performance.now() - start
  }
  await refused()
  assert.ok((await refused()) < 300)
  await until(async () => !(await answers(app)), 10_000)
  assert.ok((await refused()) < 300)
  await node.restart()
  await until(
    () =>
      app.store
        .claim(key, 'r', 60_000)
        .then(first => !first)
        .catch(() => false),
    20_000,
  )
  await until(() => answers(app), 10_000)
})

test('the gateway speaks TLS to every node of a cluster', async t => {
  const cluster = await startCluster(t)
  const certificate = createCertificate()
  const key = 'seen:jti:1'
  const owner = await cluster.owner(key)
  const ports: number[] = []
  for (const server of cluster.servers) {
    const port = await startTlsProxy(t, server.port, certificate)
    await server.command('CONFIG', 'SET', 'cluster-announce-port', port)
    ports.push(port)
  }
  await until(async () => {
    const slots = JSON.stringify(await owner.command('CLUSTER', 'SLOTS'))
    return ports.every(port => slots.includes(`${port}`))
  })
  const app = Fastify()
  t.after(() => app.close())
  const url = `rediss+cluster://localhost:${ports[0]}`
  app.register(store, { url, ca: certificate.cert, dialTimeout: 3_000, readTimeout: READ_TIMEOUT })
  await app.ready()
  assert.equal(await app.store.claim(key, 'r', 60_000), true)
  assert.equal(await owner.command('GET', key), 'r')
})

test('the gateway does not start without a cluster, and says why', async t => {
  const [alone, locked] = await Promise.all([startRedis(t), startRedis(t, { password: 'pw' })])
  const start = (url: string) => async () => {
    const app = Fastify()
    t.after(() => app.close())
    app.register(store, { url, dialTimeout: 500, readTimeout: READ_TIMEOUT })
    await app.ready()
  }
  const port = await freePort()
  await assert.rejects(
    start(`redis+cluster://:hunter2@127.0.0.1:${port}`),
    (error: Error) =>
      /REDIS_URL.*500 ms.*ECONNREFUSED/.test(error.message) && !/hunter2/.test(`${error.stack}`),
  )
  await assert.rejects(start(`redis+cluster://127.0.0.1:${alone.port}`), /cluster support disabled/)
  await assert.rejects(
    start(`redis+cluster://:hunter2@127.0.0.1:${locked.port}`),
    (error: Error) => /WRONGPASS/.test(error.message) && !/hunter2/.test(`${error.stack}`),
  )
})
