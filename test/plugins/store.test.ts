// The store on a real Redis: up, down, hanging, losing answers.
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { inspect } from 'node:util'
import Fastify, { type FastifyInstance } from 'fastify'
import replay from '../../plugins/replay.ts'
import store, { type Store } from '../../plugins/store.ts'
import { createCertificate } from '../certificate.ts'
import { freePort, startRedis, type TestRedis } from '../redis.ts'
import { startTcpProxy } from '../tcp-proxy.ts'
import { startTlsProxy } from '../tls-proxy.ts'
import { until } from '../until.ts'

const READ_TIMEOUT = 300

function gateway(t: TestContext, url: string, lines: string[] = []): FastifyInstance {
  const app = Fastify({
    logger: { level: 'debug', stream: { write: line => void lines.push(line) } },
  })
  t.after(() => app.close())
  app.register(store, { url, dialTimeout: 1_000, readTimeout: READ_TIMEOUT })
  app.register(replay)
  return app
}

const answers = (store: Store) =>
  store.info('s').then(
    () => true,
    () => false,
  )

async function milliseconds(work: Promise<unknown>): Promise<number> {
  const start = performance.now()
  await assert.rejects(work)
  return performance.now() - start
}

async function setCalls(redis: TestRedis): Promise<number> {
  const stats = String(await redis.command('INFO', 'commandstats'))
  return Number(/cmdstat_set:calls=(\d+)/.exec(stats)?.[1] ?? 0)
}

test('the gateway admits one of 200 concurrent uses of a token', async t => {
  const redis = await startRedis(t)
  const [one, two] = [gateway(t, redis.url), gateway(t, redis.url)]
  await Promise.all([one.ready(), two.ready()])
  const claims = Array.from({ length: 200 }, (_, n) =>
    (n % 2 ? one : two).replay.claim('jti-1', `request-${n}`, 60_000),
  )
  const first = (await Promise.all(claims)).flatMap((claimed, n) => (claimed ? [n] : []))
  assert.equal(first.length, 1)
  assert.equal(await redis.command('GET', 'seen:jti:jti-1'), `request-${first[0]}`)
  const left = Number(await redis.command('PTTL', 'seen:jti:jti-1'))
  assert.ok(left > 50_000 && left <= 60_000, `${left}`)
})

test('the gateway keeps a claim at least as long as its token lives', async t => {
  const redis = await startRedis(t)
  const app = gateway(t, redis.url)
  await app.ready()
  assert.equal(await app.replay.claim('late', 'r', -5), true)
  assert.equal(await app.replay.claim('fraction', 'r', 40_000.2), true)
  assert.equal(await app.replay.claim('forever', 'r', 253402300799_000), true)
  const ttl = Number(await redis.command('PTTL', 'seen:jti:fraction'))
  assert.ok(ttl > 30_000 && ttl <= 40_001)
  await assert.rejects(app.replay.claim('nan', 'r', Number.NaN), TypeError)
  await assert.rejects(app.replay.claim('', 'r', 1_000), TypeError)
  await until(() => app.replay.claim('late', 'r', 1))
})

test('the gateway fails at once while Redis is down and recovers by itself', async t => {
  const redis = await startRedis(t)
  const lines: string[] = []
  const app = gateway(t, redis.url, lines)
  await app.ready()
  await redis.stop()
  await until(async () => !(await answers(app.store)))
  assert.ok((await milliseconds(app.replay.claim('a', 'r', 60_000))) < 100)
  assert.ok((await milliseconds(app.store.ping())) < 100)
  const results = await app.store.append('s', [{ a: '1' }, { a: '2' }])
  assert.ok(results.length === 2 && results.every(error => error instanceof Error))
  await redis.restart()
  await until(() => answers(app.store), 2_000)
  // The refused claim was not kept back and sent later.
  assert.equal(await app.replay.claim('a', 'r', 60_000), true)
  assert.ok(lines.some(line => line.includes('redis connection restored')))
})

test('the gateway waits no longer than the read timeout for a Redis that hangs', async t => {
  const redis = await startRedis(t)
  const app = gateway(t, redis.url)
  await app.ready()
  redis.pause()
  const first = milliseconds(app.replay.claim('first', 'r', 60_000))
  await new Promise(resolve => setTimeout(resolve, 100))
  // Queued behind the first; must not wait for it and then once more as long.
  const second = milliseconds(app.replay.claim('second', 'r', 60_000))
  const batch = app.store.append('s', [{ a: '1' }])
  assert.ok((await first) < READ_TIMEOUT + 150, 'first')
  assert.ok((await second) < READ_TIMEOUT + 150, 'second')
  assert.ok((await batch)[0] instanceof Error)
  assert.ok((await milliseconds(app.store.ping())) < READ_TIMEOUT + 150, 'later')
  redis.resume()
  await until(() => answers(app.store), 3_000)
  assert.equal(await app.replay.claim('third', 'r', 60_000), true)
})

test('the gateway leaves a server that has become a replica, once, and comes back', async t => {
  const redis = await startRedis(t)
  const app = gateway(t, redis.url)
  await app.ready()
  const warnings: Error[] = []
  const onWarning = (warning: Error) => void warnings.push(warning)
  process.on('warning', onWarning)
  t.after(() => process.off('warning', onWarning))
  const accepted = async () => Number(/total_connections_received:(\d+)/.exec(await info())?.[1])
  const info = async () => String(await redis.command('INFO', 'stats'))
  const before = await accepted()
  // A master that never answers: what the server holds stays.
  await redis.command('REPLICAOF', '127.0.0.1', await freePort())
  const entries = Array.from({ length: 100 }, (_, n) => ({ n: `${n}` }))
  const refused = await app.store.append('s', entries)
  assert.ok(refused.every(error => error instanceof Error))
  assert.match(String(refused[0]), /READONLY/)
  await until(() => answers(app.store))
  assert.equal(await accepted(), before + 1)
  await assert.rejects(app.store.ping(), /READONLY/, 'it answers, but takes no writes')
  await redis.command('REPLICAOF', 'NO', 'ONE')
  await until(() =>
    app.store.ping().then(
      () => true,
      () => false,
    ),
  )
  assert.deepEqual(
    await app.store.append('s', entries),
    entries.map(() => undefined),
  )
  assert.equal((await redis.entries('s')).length, entries.length)
  assert.deepEqual(warnings, [])
})

test('the gateway never sends a claim again whose answer was lost', async t => {
  const redis = await startRedis(t)
  const proxy = await startTcpProxy(t, redis.port)
  const app = gateway(t, `redis://127.0.0.1:${proxy.port}`)
  await app.ready()
  const swallowed = proxy.swallowAnswers()
  const claim = app.replay.claim('a', 'r', 60_000)
  const outcome = claim.then(
    claimed => `answered ${claimed}`,
    () => 'rejected',
  )
  await swallowed
  proxy.cut()
  proxy.restore()
  // Resolving false would call the first and only use of the token a replay.
  assert.equal(await outcome, 'rejected')
  await until(() => answers(app.store))
  assert.equal(await redis.command('EXISTS', 'seen:jti:a'), 1)
  assert.equal(await setCalls(redis), 1)
})

test('the gateway does not start without Redis and does not print the password', async t => {
  const lines: string[] = []
  const app = gateway(t, `redis://user:hunter2@127.0.0.1:${await freePort()}/0`, lines)
  const start = performance.now()
  await assert.rejects(
    async () => app.ready(),
    (error: Error) => {
      assert.match(error.message, /REDIS_URL.*1000 ms.*ECONNREFUSED/)
      assert.doesNotMatch(`${error.stack} ${lines.join()}`, /hunter2/)
      return true
    },
  )
  assert.ok(performance.now() - start < 2_000)
})

test('the gateway does not start with a wrong password, and says so at once', async t => {
  const redis = await startRedis(t, { password: 'correct horse' })
  const app = gateway(t, `redis://:hunter2@127.0.0.1:${redis.port}`)
  const start = performance.now()
  await assert.rejects(
    async () => app.ready(),
    (error: Error) => /WRONGPASS/.test(error.message) && !error.message.includes('hunter2'),
  )
  assert.ok(performance.now() - start < 700)
})

test('the gateway logs in with a password and uses the database of the URL', async t => {
  const redis = await startRedis(t, { password: 's3cr%2F' })
  const app = gateway(t, `redis://:s3cr%252F@127.0.0.1:${redis.port}/3`)
  await app.ready()
  assert.equal(await app.store.claim('k', 'v', 60_000), true)
  await redis.command('SELECT', 3)
  assert.equal(await redis.command('GET', 'k'), 'v')
})

test('the gateway waits for a Redis that starts a moment later', async t => {
  const redis = await startRedis(t)
  await redis.stop()
  const app = gateway(t, redis.url)
  const ready = app.ready()
  await redis.restart()
  await ready
  assert.equal(await answers(app.store), true)
})

for (const url of ['http://h', 'redis://', 'redis://h/x', 'redis://:hunter2@h:99999', 'hunter2']) {
  test(`the gateway refuses a Redis URL like ${url.replace('hunter2', '***')}`, async t => {
    await assert.rejects(
      async () => gateway(t, url).ready(),
      (error: Error) =>
        /REDIS_URL/.test(error.message) && !/hunter2/.test(`${error.stack}${String(error.cause)}`),
    )
  })
}

test('the gateway warns of a Redis that evicts, also where CONFIG is refused', async t => {
  const evicting = await startRedis(t, {
    args: [
      '--maxmemory',
      '100mb',
      '--maxmemory-policy',
      'allkeys-lru',
      '--rename-command',
      'CONFIG',
      '',
    ],
  })
  const keeping = await startRedis(t)
  const warned: string[] = []
  const silent: string[] = []
  await gateway(t, evicting.url, warned).ready()
  await gateway(t, keeping.url, silent).ready()
  assert.ok(warned.some(line => /"level":40.*allkeys-lru.*noeviction/.test(line)))
  assert.ok(silent.every(line => !/noeviction/.test(line)))
})

test('the gateway hands on no arguments of a command with its error', async t => {
  const redis = await startRedis(t)
  const app = gateway(t, redis.url)
  await app.ready()
  await redis.command('SET', 's', 'no stream')
  const [error] = await app.store.append('s', [{ data: 'evidence' }])
  assert.match(error?.message ?? '', /WRONGTYPE/)
  assert.doesNotMatch(inspect(error), /evidence/)
  await assert.rejects(app.store.range('s', '-', 1), rejected => !('command' in Object(rejected)))
})

test('the gateway verifies the certificate of rediss, with the authority it is given', async t => {
  const redis = await startRedis(t)
  const certificate = createCertificate()
  const url = `rediss://127.0.0.1:${await startTlsProxy(t, redis.port, certificate)}`

  const trusting = Fastify()
  t.after(() => trusting.close())
  trusting.register(store, {
    url,
    ca: certificate.cert,
    dialTimeout: 1_000,
    readTimeout: READ_TIMEOUT,
  })
  await trusting.ready()
  assert.equal(await answers(trusting.store), true)

  const strange = Fastify()
  t.after(() => strange.close())
  strange.register(store, { url, dialTimeout: 300, readTimeout: READ_TIMEOUT })
  await assert.rejects(async () => strange.ready(), /DEPTH_ZERO_SELF_SIGNED_CERT/)
})

test('the gateway reads a stream in pages, from behind an id, and waits at its end', async t => {
  const redis = await startRedis(t)
  const app = gateway(t, redis.url)
  await app.ready()
  assert.equal(await app.store.info('s'), undefined)
  assert.deepEqual(await app.store.range('s', '-', 10), [])
  for (const n of [1, 2, 3]) await redis.add('s', { n: `${n}`, __proto__x: 'y' }, `${n}-0`)
  const all = await app.store.range('s', '-', 10)
  assert.deepEqual(all[0], { id: '1-0', fields: { n: '1', __proto__x: 'y' } })
  assert.deepEqual(
    (await app.store.range('s', '(1-0', 1)).map(entry => entry.id),
    ['2-0'],
  )
  assert.equal((await app.store.info('s'))?.lastId, '3-0')
  assert.deepEqual(await app.store.tail('s', '3-0', 10, 20), [])
  const waiting = app.store.tail('s', '3-0', 10, 2_000)
  await redis.add('s', { n: '4' }, '4-0')
  assert.deepEqual(await waiting, [{ id: '4-0', fields: { n: '4' } }])
})

test('the gateway asks what a stream has held and holds', async t => {
  const redis = await startRedis(t)
  const app = gateway(t, redis.url)
  await app.ready()
  assert.equal(await app.store.info('s'), undefined)
  for (const id of ['1-0', '2-0', '3-0']) await redis.add('s', { a: 'b' }, id)
  await redis.command('XTRIM', 's', 'MAXLEN', 2)
  await redis.command('XDEL', 's', '3-0')
  assert.deepEqual(await app.store.info('s'), {
    length: 1,
    firstId: '2-0',
    lastId: '2-0',
    lastGeneratedId: '3-0',
    entriesAdded: 3,
  })
  await redis.command('XDEL', 's', '2-0')
  const empty = await app.store.info('s')
  assert.deepEqual([empty?.length, empty?.firstId, empty?.lastId], [0, undefined, undefined])
})
