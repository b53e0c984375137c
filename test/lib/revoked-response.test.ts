// Holds the end of a revoked response to saying what it is, whatever came before it.
import assert from 'node:assert/strict'
import { createServer, type RequestListener } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { connect } from 'node:net'
import { describe, it } from 'node:test'
import { connect as connectTls } from 'node:tls'
import * as fc from 'fast-check'
import { endRevoked, revokedEvent } from '../../lib/revoked-response.ts'
import { createCertificate } from '../certificate.ts'
import { listen } from '../gateway/harness.ts'

const FACTS = { error: 'invalid_token', requestId: 'r"1' }

interface Dispatched {
  readonly event: string
  readonly data: string
}

/** The events that a stream makes its reader dispatch (HTML standard, section 9.2.6). */
function eventsIn(stream: string): Dispatched[] {
  const events: Dispatched[] = []
  let event = ''
  let data: string[] = []
  const lines = stream.split(/\r\n|\n|\r/)
  // What no line end follows is no line.
  lines.pop()
  for (const line of lines) {
    if (line === '') {
      if (data.length > 0) events.push({ event, data: data.join('\n') })
      event = ''
      data = []
      continue
    }
    const [, field, value = ''] = /^([^:]*):? ?(.*)$/s.exec(line) ?? []
    if (field === 'event') event = value
    if (field === 'data') data.push(value)
  }
  return events
}

const ended = (stream: string) => stream + revokedEvent(Buffer.from(stream, 'latin1').at(-1), FACTS)

describe('revokedEvent', () => {
  it('is an event by itself between two events, and in an empty stream', () => {
    const own = { event: 'caracal-revoked', data: JSON.stringify(FACTS) }
    assert.deepEqual(eventsIn(ended('')), [own])
    for (const end of ['\n\n', '\r\r', '\r\n\r\n', '\n\r\n']) {
      assert.deepEqual(eventsIn(ended(`data: 1${end}`)), [{ event: '', data: '1' }, own])
    }
  })

  it('makes nobody act on half an event, wherever the stream broke off', () => {
    const piece = fc.constantFrom(
      '\n',
      '\r',
      '\r\n',
      'data: ',
      'event: ',
      ':',
      'id: 1',
      'x',
      ' ',
      '',
    )
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), pieces => {
        const stream = pieces.join('')
        const before = eventsIn(stream)
        const after = eventsIn(ended(stream))
        assert.deepEqual(after.slice(0, -1), before)
        const last = after.at(-1)
        assert.equal(last?.event, 'caracal-revoked')
        assert.equal(last.data.split('\n').at(-1), JSON.stringify(FACTS))
      }),
      { numRuns: 2_000 },
    )
  })
})

describe('endRevoked', () => {
  const { key, cert } = createCertificate()

  for (const tls of [false, true]) {
    it(`breaks off what ends with its connection${tls ? ', on TLS as well' : ''}`, async t => {
      const serve: RequestListener = (_request, response) => {
        response.write('part one', () => endRevoked(response, undefined, () => undefined))
      }
      const server = tls ? createTlsServer({ key, cert }, serve) : createServer(serve)
      t.after(() => server.close())
      const port = await listen(server)
      const socket = tls
        ? connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false })
        : connect(port, '127.0.0.1')
      let text = ''
      let failure: NodeJS.ErrnoException | undefined
      socket.on('data', chunk => (text += String(chunk)))
      socket.on('error', error => {
        failure = error
      })
      socket.write('GET / HTTP/1.0\r\n\r\n')
      // Not `once`, which would reject.
      await new Promise<void>(resolve => socket.on('close', () => resolve()))
      assert.ok(text.endsWith('\r\n\r\npart one'), text)
      assert.equal(failure?.code, tls ? undefined : 'ECONNRESET')
    })
  }

  it('waits a second for a caller that does not read, and tells what it did not take', async t => {
    const size = 32 * 1024 * 1024
    const unsent = Promise.withResolvers<number>()
    const server = createServer((_request, response) => {
      response.write(Buffer.alloc(size))
      endRevoked(response, undefined, unsent.resolve)
    })
    t.after(() => server.close())
    const socket = connect(await listen(server), '127.0.0.1')
    t.after(() => socket.destroy())
    socket.pause()
    socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    const startedAt = performance.now()
    const bytes = await unsent.promise
    assert.ok(bytes > 0 && bytes <= size + 1_024, String(bytes))
    assert.ok(performance.now() - startedAt > 900)
  })
})
