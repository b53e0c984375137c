// REDIS_URL: one server, sentinels, a cluster, and what is none of them.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { parseRedisUrl } from '../../lib/redis-url.ts'

test('the function reads the URL of one server', () => {
  const plain = { kind: 'node', tls: false, host: 'redis', port: 6379, db: 0 }
  assert.deepEqual(parseRedisUrl('redis://redis'), plain)
  assert.deepEqual(parseRedisUrl('REDIS://redis:6379/0'), plain)
  assert.deepEqual(parseRedisUrl('redis://redis/?family=6'), plain)
  assert.deepEqual(parseRedisUrl('rediss://10.0.0.1:6380/15'), {
    ...plain,
    tls: true,
    host: '10.0.0.1',
    port: 6380,
    db: 15,
  })
  assert.deepEqual(parseRedisUrl('redis://us%3Aer:p%2F%25@w@[2001:db8::1]:1'), {
    ...plain,
    host: '2001:db8::1',
    port: 1,
    username: 'us:er',
    password: 'p/%@w',
  })
  assert.deepEqual(parseRedisUrl('redis://:pw@redis'), { ...plain, password: 'pw' })
  assert.deepEqual(parseRedisUrl('redis://:@redis'), plain)
})

test('the function reads the URL of sentinels', () => {
  const sentinels = [
    { host: 'h1', port: 26379 },
    { host: '::1', port: 5 },
  ]
  const plain = { kind: 'sentinel', tls: false, sentinels, name: 'my.master-1', db: 0 }
  assert.deepEqual(parseRedisUrl('redis+sentinel://h1,[::1]:5/my.master-1'), plain)
  assert.deepEqual(
    parseRedisUrl(
      'rediss+sentinel://:a@h1,[::1]:5/my.master-1/3?sentinelPassword=b%26+c&sentinelUsername=d',
    ),
    {
      ...plain,
      tls: true,
      password: 'a',
      db: 3,
      sentinelUsername: 'd',
      sentinelPassword: 'b&+c',
    },
  )
})

test('the function reads the URL of a cluster', () => {
  const nodes = [
    { host: 'h1', port: 6379 },
    { host: 'h2', port: 7000 },
  ]
  const plain = { kind: 'cluster', tls: false, nodes }
  assert.deepEqual(parseRedisUrl('redis+cluster://h1,h2:7000'), plain)
  assert.deepEqual(parseRedisUrl('rediss+cluster://u:p@h1,h2:7000/0'), {
    ...plain,
    tls: true,
    username: 'u',
    password: 'p',
  })
})

for (const url of [
  '',
  'redis',
  'redis:6379',
  'localhost:6379',
  'redis://',
  'redis:///0',
  'redis://:pw@',
  'redis://redis:6379/zero',
  'redis://redis:6379/0/1',
  'redis://redis:6379/-1',
  'redis://redis:99999',
  'redis://redis:0',
  'redis://redis:',
  'redis://:p#w@redis',
  'redis://:%zz@redis',
  'redis://a,b',
  'redis://a,b/name',
  'redis://re dis',
  'redis://[::1',
  'redis://[redis]',
  'redis+sentinel://h1,h2',
  'redis+sentinel://h1,h2/',
  'redis+sentinel://h1,,h2/name',
  'redis+sentinel://h1/name/x',
  'redis+sentinel://h1/name/1/2',
  'redis+sentinel://h1/na%20me',
  'redis+sentinel://h1/name?sentinelpassword=x',
  'redis+sentinel://h1/name?sentinelPassword=x&sentinelPassword=y',
  'redis+sentinel://h1/name?sentinelPassword=',
  'redis+sentinel://h1/name?sentinelPassword',
  'redis+sentinel://h1/name?toString=1',
  'redis+cluster://h1,h2/1',
  'redis+cluster://h1?db=1',
  'redis+unix://h1',
  'unix:///run/redis.sock',
  'http://redis',
  ' redis://redis',
  'redis://redis\n',
]) {
  test(`the function takes ${JSON.stringify(url)} for no URL of Redis`, () => {
    assert.equal(parseRedisUrl(url), undefined)
  })
}

test('the function never throws, and finds no host that is not in the text', () => {
  const piece = fc.oneof(
    fc.constantFrom('redis', 'rediss', '+sentinel', '+cluster', '://', ':', '@', '/', ',', '?'),
    fc.constantFrom('h', '[::1]', '%', '%40', '&', '=', '#', '1', 'sentinelPassword', '__proto__'),
    fc.string({ maxLength: 4 }),
  )
  const texts = fc.oneof(
    fc.string(),
    fc.array(piece, { maxLength: 16 }).map(pieces => pieces.join('')),
    fc.array(piece, { maxLength: 10 }).map(pieces => `redis+sentinel://${pieces.join('')}`),
  )
  fc.assert(
    fc.property(texts, text => {
      const address = parseRedisUrl(text)
      if (address === undefined) return
      const endpoints =
        address.kind === 'node'
          ? [address]
          : address.kind === 'sentinel'
            ? address.sentinels
            : address.nodes
      assert.ok(endpoints.length > 0)
      for (const { host, port } of endpoints) {
        assert.ok(text.includes(host) && host !== '' && port > 0 && port < 65_536)
      }
    }),
  )
})

test('the function gives back any credentials that were percent-encoded', () => {
  const part = fc.string({ unit: 'binary', minLength: 1 }).filter(text => text.isWellFormed())
  fc.assert(
    fc.property(part, part, part, (user, password, sentinel) => {
      const [u, p, s] = [user, password, sentinel].map(encodeURIComponent)
      const address = parseRedisUrl(`redis+sentinel://${u}:${p}@h/m?sentinelPassword=${s}`)
      assert.ok(address?.kind === 'sentinel')
      assert.equal(address.username, user)
      assert.equal(address.password, password)
      assert.equal(address.sentinelPassword, sentinel)
    }),
  )
})
