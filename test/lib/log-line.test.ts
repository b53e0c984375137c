// Holds a log line to plain data, and to no token, credential or query string, whoever logs it.
import assert from 'node:assert/strict'
import { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import { describe, test } from 'node:test'
import { loggable, loggableLine } from '../../lib/log-line.ts'
import { createLogger } from '../../lib/logger.ts'
import { Secret } from '../../lib/secret.ts'

const TOKEN = `eyJhbGciOiJFUzI1NiJ9.${Buffer.from('{"sub":"canary"}').toString('base64url')}.c2lnbmF0dXJl`

function incoming(): IncomingMessage {
  const request = new IncomingMessage(new Socket())
  request.url = '/path?canary=1'
  request.method = 'GET'
  request.headers = { authorization: `Bearer ${TOKEN}` }
  request.rawHeaders = ['Authorization', `Bearer ${TOKEN}`]
  return request
}

describe('loggable', () => {
  test('keeps data as it is', () => {
    const facts = { a: 1, b: 'text', c: true, d: null, e: [1, { f: 'g' }], h: { i: { j: 'k' } } }
    assert.deepEqual(loggable(facts), facts)
    assert.deepEqual(loggable({ at: new Date(0), gone: undefined }), {
      at: '1970-01-01T00:00:00.000Z',
    })
    assert.deepEqual(loggable(null), {})
  })

  test('names what is no data', () => {
    const request = incoming()
    assert.deepEqual(
      loggable({
        request,
        response: new ServerResponse(request),
        socket: request.socket,
        bytes: Buffer.from(TOKEN),
        secret_key: new Secret('canary'),
        map: new Map([['token', TOKEN]]),
        nested: { deep: [request] },
      }),
      {
        request: '[IncomingMessage]',
        response: '[ServerResponse]',
        socket: '[Socket]',
        bytes: '[Buffer]',
        secret_key: '[Secret]',
        map: '[Map]',
        nested: { deep: ['[IncomingMessage]'] },
      },
    )
  })

  test('leaves out members that hold a secret by their name, at any depth', () => {
    for (const name of [
      'headers',
      'Authorization',
      'token',
      'access_token',
      'body',
      'query',
      'Cookie',
    ]) {
      assert.deepEqual(
        loggable({ [name]: 'canary', kept: { [name]: ['canary'] } }),
        { kept: {} },
        name,
      )
    }
  })

  test('makes an error of what is one, wherever it stands, and nothing of what else stands as `err`', () => {
    const error = Object.assign(new Error('failed'), { headers: { a: 'canary' }, code: 'E_NO' })
    for (const logged of [loggable({ err: error })['err'], loggable({ cause: error })['cause']]) {
      assert.deepEqual(Object.keys(logged ?? {}), ['type', 'code', 'message', 'stack'])
    }
    assert.deepEqual(loggable({ err: 'canary' }), {
      err: { type: 'string', message: 'not an error object' },
    })
  })

  test('has an end, however large or round what is logged', () => {
    const round: Record<string, unknown> = { text: 'x'.repeat(100_000) }
    round['self'] = round
    round['list'] = Array.from({ length: 1_000 }, () => 1)
    round['err'] = new Error('x'.repeat(100_000))
    assert.ok(JSON.stringify(loggable(round)).length < 100_000)
  })
})

describe('loggableLine', () => {
  for (const text of [
    TOKEN,
    TOKEN.slice(0, 40),
    `Bearer ${TOKEN}`,
    `a\n${TOKEN}`,
    `("${TOKEN}")`,
    'Authorization: Basic dXNlcjpjYW5hcnk=',
    'in the "/path?canary=1" (GET) route',
    'https://host/path?canary',
  ]) {
    test(`takes the secret out of ${JSON.stringify(text)}`, () => {
      const line = JSON.stringify({ msg: text, after: 'kept' })
      const told = loggableLine(line)
      assert.doesNotMatch(told, /canary|Y2FuYXJ5|jYW5hcn|YW5hcnki|eyJ/)
      assert.equal(JSON.parse(told).after, 'kept')
    })
  }

  test('leaves all else alone', () => {
    const line = `${JSON.stringify({ msg: 'why? because', a: 'eyJ', url: 'https://a/b', n: 1 })}\n`
    assert.equal(loggableLine(line), line)
  })

  test('takes no long time over a long text', () => {
    for (const text of [
      'eyJ'.repeat(50_000),
      'eyJaaaaaaaa.'.repeat(10_000),
      '?'.repeat(100_000),
      'Bearer '.repeat(20_000),
    ]) {
      const startedAt = performance.now()
      loggableLine(text)
      assert.ok(performance.now() - startedAt < 500, text.slice(0, 20))
    }
  })
})

test('the log tells nothing of a request, however it is logged', () => {
  const lines: string[] = []
  const logger = createLogger('info', { write: line => void lines.push(line) })
  const request = incoming()
  const error = Object.assign(new Error(`cannot GET ${request.url}`), { request })
  logger.info(request)
  logger.info({ req: request })
  logger.info({ ...request.headers, headers: request.headers })
  logger.error(error)
  logger.error({ err: error }, 'failed: %s', TOKEN)
  logger.child({ req: request, token: TOKEN }).warn(`cannot GET ${request.url}`)
  logger.info({ text: 'a\r\n{"level":60,"msg":"forged"}' }, 'b\r\nforged')
  assert.equal(lines.length, 7)
  for (const line of lines) {
    assert.equal(typeof JSON.parse(line).level, 'number')
    assert.equal(line.indexOf('\n'), line.length - 1)
    assert.doesNotMatch(line, /canary|eyJ|\r/)
  }
})
