// The store on a master that sentinels elect: the right one, and no other for longer than a moment.
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import Fastify, { type FastifyInstance } from 'fastify'
import store from '../../plugins/store.ts'
import { createCertificate } from '../certificate.ts'
import { type FakeSentinel, startFakeSentinel } from '../fake-sentinel.ts'
import { freePort, startRedis, type TestRedis } from '../redis.ts'
import { startSentinel } from '../sentinel.ts'
import { startTlsProxy } from '../tls-proxy.ts'
import { until } from '../until.ts'

interface Options {
  readonly lines?: string[]
  readonly ca?: string
  readonly dialTimeout?: number
}

function gateway(t: TestContext, url: string, options: Options = {}): FastifyInstance {
  const { lines = [], ca, dialTimeout = 3_000 } = options
  const app = Fastify({
    logger: { level: 'debug', stream: { write: line => void lines.push(line) } },
  })
  t.after(() => app.close())
  app.register(store, { url, dialTimeout, readTimeout: 1_000, ca })
  return app
}

const urlOf = (...sentinels: readonly FakeSentinel[]) =>
  `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')}/caracal`

const claims = (app: FastifyInstance, key: string) =>
  app.store.claim(key, 'v', 60_000).catch(() => undefined)

/** Whether a claim reaches this server and no other. */
async function leadsTo(app: FastifyInstance, server: TestRedis): Promise<boolean> {
  const key = `probe-${Math.random()}`
  return (await claims(app, key)) === true && (await server.command('EXISTS', key)) === 1
}

/** Reads the stream `s` from its beginning until it holds this entry; gaps in between are errors that go by. */
async function hears(app: FastifyInstance, id: string): Promise<void> {
  await until(async () => {
    const entries = await app.store.tail('s', '0-0', 100, 2_000).catch(() => [])
    return entries.some(entry => entry.id === id)
  }, 20_000)
}

test('the gateway follows the master, with a password for it and one for the sentinels', async t => {
  const sentinel = await startSentinel(t, { password: 'p@ss', sentinelPassword: 's+ss' })
  const [first, second] = sentinel.servers
  const lines: string[] = []
  const app = gateway(t, sentinel.url, { lines })
  await app.ready()
  assert.ok(await leadsTo(app, first))
  await first.stop()
  await sentinel.promoted(second)
  await until(() => leadsTo(app, second), 10_000)
  await second.add('s', { n: '1' }, '1-0')
  await hears(app, '1-0')
  assert.doesNotMatch(lines.join(''), /p@ss|s\+ss/)
})

test('the gateway leaves a master that does not know that it was replaced', async t => {
  const [old, next] = await Promise.all([startRedis(t), startRedis(t)])
  const sentinel = await startFakeSentinel(t)
  sentinel.says({ port: old.port, epoch: 3 })
  const app = gateway(t, urlOf(sentinel))
  await app.ready()
  assert.ok(await leadsTo(app, old))
  const blocked = app.store.tail('s', '0-0', 10, 2_000).then(
    () => 'silence',
    () => 'broken',
  )
  sentinel.says({ port: next.port, epoch: 4 })
  assert.equal(await blocked, 'broken')
  await until(() => leadsTo(app, next))
  const heard = hears(app, '1-0')
  await next.add('s', { n: '1' }, '1-0')
  await heard
})

test('the gateway believes the sentinel that saw the last election', async t => {
  const [old, next] = await Promise.all([startRedis(t), startRedis(t)])
  const start = () => startFakeSentinel(t)
  const sentinels = await Promise.all([start(), start(), start()])
  const [stale, ...others] = sentinels
  stale.says({ port: old.port, epoch: 1 })
  for (const sentinel of others) sentinel.says({ port: next.port, epoch: 2 })
  const app = gateway(t, urlOf(...sentinels))
  await app.ready()
  assert.ok(await leadsTo(app, next))
  // What it knows is older than what the connection was made with.
  for (const sentinel of others) sentinel.silence()
  const asked = stale.asked()
  await until(() => stale.asked() >= asked + 6, 10_000)
  assert.ok(await leadsTo(app, next))
})

test('the gateway keeps its connections while no sentinel answers, and says so once', async t => {
  const redis = await startRedis(t)
  const sentinel = await startFakeSentinel(t)
  sentinel.says({ port: redis.port, epoch: 0 })
  const lines: string[] = []
  const app = gateway(t, urlOf(sentinel), { lines })
  await app.ready()
  sentinel.silence()
  const warnings = () =>
    lines.filter(line => line.includes('a fail-over would go unnoticed')).length
  await until(() => warnings() > 0, 10_000)
  assert.ok(await leadsTo(app, redis))
  sentinel.says({ port: redis.port, epoch: 0 })
  await until(() => lines.some(line => line.includes('sentinels name a master again')), 10_000)
  assert.equal(warnings(), 1)
})

test('the gateway does not use a replica that a sentinel still calls the master', async t => {
  const master = await startRedis(t)
  const replica = await startRedis(t, { args: ['--replicaof', '127.0.0.1', `${master.port}`] })
  const sentinel = await startFakeSentinel(t)
  sentinel.says({ port: replica.port, epoch: 1 })
  await assert.rejects(
    async () => gateway(t, urlOf(sentinel), { dialTimeout: 700 }).ready(),
    /REDIS_URL.*700 ms.*is a replica/,
  )
  sentinel.says({ port: master.port, epoch: 2 })
  const app = gateway(t, urlOf(sentinel))
  await app.ready()
  assert.ok(await leadsTo(app, master))
})

test('the gateway does not start without a sentinel that knows the master, and says why', async t => {
  const sentinel = await startFakeSentinel(t)
  const absent = await freePort()
  const url = `redis+sentinel://:hunter2@127.0.0.1:${sentinel.port},127.0.0.1:${absent}/caracal?sentinelPassword=hunter3`
  const lines: string[] = []
  await assert.rejects(
    async () => gateway(t, url, { lines, dialTimeout: 700 }).ready(),
    (error: Error) => {
      assert.match(error.message, /REDIS_URL.*700 ms.*no sentinel names a master/)
      assert.match(error.message, /No such master/)
      assert.ok(error.message.includes(`127.0.0.1:${absent}: `))
      assert.doesNotMatch(`${error.stack}${lines.join('')}`, /hunter/)
      return true
    },
  )
})

test('the gateway waits for a sentinel whose answer is an address', async t => {
  const redis = await startRedis(t)
  const sentinel = await startFakeSentinel(t)
  sentinel.says({ port: 99_999, epoch: 1 })
  await assert.rejects(
    async () => gateway(t, urlOf(sentinel), { dialTimeout: 300 }).ready(),
    /unusable answer/,
  )
  const ready = gateway(t, urlOf(sentinel)).ready()
  const asked = sentinel.asked()
  await until(() => sentinel.asked() > asked)
  sentinel.says({ port: redis.port, epoch: 1 })
  await ready
})

test('the gateway speaks TLS to the sentinels and to the master', async t => {
  const redis = await startRedis(t)
  const sentinel = await startFakeSentinel(t)
  const certificate = createCertificate()
  sentinel.says({ port: await startTlsProxy(t, redis.port, certificate), epoch: 1 })
  const url = `rediss+sentinel://127.0.0.1:${await startTlsProxy(t, sentinel.port, certificate)}/caracal`
  const trusting = gateway(t, url, { ca: certificate.cert })
  await trusting.ready()
  assert.ok(await leadsTo(trusting, redis))
  const asked = sentinel.asked()
  await assert.rejects(async () => gateway(t, url, { dialTimeout: 700 }).ready(), /self-signed/)
  await trusting.close()
  assert.ok(sentinel.asked() - asked < 10)
})
