// Slow callers, over TCP and over TLS: each is ended within its time, and not before.
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { head, startGateway, startStack, Wire } from '../gateway/harness.ts'
import { until } from '../until.ts'
import { open, pour, transports } from './slow-caller.ts'
import { answersIn, assertRefusal } from './wire.ts'

const SHORT = {
  READ_HEADER_TIMEOUT: '1s',
  READ_TIMEOUT: '2s',
  WRITE_TIMEOUT: '2s',
  IDLE_TIMEOUT: '1s',
  STREAM_IDLE_TIMEOUT: '5s',
  STS_TIMEOUT: '900ms',
  UPSTREAM_TIMEOUT: '1s',
}

const stack = await startStack({ after })
/** Paths of the requests whose answer the upstream could not send to its end. */
const broken = new Set<string>()
stack.upstream.handler = ({ url = '' }, response, body) => {
  response.once('close', () => {
    if (!response.writableFinished) broken.add(url)
  })
  if (url.startsWith('/endless')) pour(response)
  else if (url.startsWith('/idle')) {
    response.write('first ')
    setTimeout(() => response.end('last'), 3_500)
  } else {
    body.then(
      () => response.end('ok'),
      () => undefined,
    )
  }
}

for (const { name: transport, env } of await transports({ after })) {
  describe(`over ${transport} the gateway`, { concurrency: true }, async () => {
    const gateway = await startGateway({ after }, { ...stack.env, ...SHORT, ...env })

    for (const [name, trickle] of [
      ['stop', undefined],
      ['trickle in', 'X-A: b\r\n'],
    ] as const) {
      test(`ends a caller whose headers ${name}`, async () => {
        const wire = await open(gateway)
        const startedAt = performance.now()
        wire.send(head('GET /late', stack.mint()))
        const timer = setInterval(() => trickle && wire.send(trickle), 100)
        await wire.ended()
        clearInterval(timer)
        assert.ok(performance.now() - startedAt >= 900, 'not before its time')
        const [answer] = answersIn(wire.text).answers
        assertRefusal(answer, { status: 408, description: 'request headers timed out' })
      })
    }

    for (const [name, trickle] of [
      ['stops', undefined],
      ['trickles in', 'x'],
    ] as const) {
      test(`ends a caller whose body ${name}, and its upstream's request`, async () => {
        const path = `/late-${transport}-${name.length}`
        const wire = await open(gateway)
        const startedAt = performance.now()
        wire.send(`${head(`POST ${path}`, stack.mint(), 'Content-Length: 1000')}\r\nabc`)
        const timer = setInterval(() => trickle && wire.send(trickle), 100)
        await wire.ended()
        clearInterval(timer)
        assert.ok(performance.now() - startedAt >= 1_900, 'not before its time')
        const [answer] = answersIn(wire.text).answers
        assertRefusal(answer, {
          status: 408,
          description: 'request timeout',
          dispatched: 'unknown',
        })
        const arrival = stack.upstream.arrivals.find(({ url }) => url === path)
        await assert.rejects(arrival?.body ?? Promise.resolve())
      })
    }

    test('closes a connection that says nothing, and one that is idle', async () => {
      const [silent, idle] = [new Wire(gateway.port), await open(gateway)]
      idle.send('GET /health HTTP/1.1\r\nHost: a\r\n\r\n')
      await idle.receives(/"ok":true/)
      const idleAt = performance.now()
      await idle.ended()
      assert.ok(performance.now() - idleAt >= 900, 'not before its time')
      assert.equal(await silent.ended(), '')
    })

    test('breaks off a caller that takes no byte, and its upstream', async () => {
      const path = `/endless-${transport}`
      const requestId = `endless-${transport}`
      const wire = await open(gateway)
      wire.send(`${head(`GET ${path}`, stack.mint(), `X-Request-Id: ${requestId}`)}\r\n`)
      await wire.receives(/x{1000}/)
      wire.socket.pause()
      const pausedAt = performance.now()
      await until(() => broken.has(path), 10_000)
      assert.ok(performance.now() - pausedAt >= 1_900, 'not before its time')
      const [event] = await stack.eventsOf(requestId)
      assert.equal(event?.evaluation_status, 'upstream_error')
      assert.equal(event.metadata_json['error_kind'], 'response_copy_failed')
      assert.equal(event.metadata_json['gateway_status'], 200)
      const line = gateway.logs.find(({ reqId }) => reqId === requestId)
      assert.equal(line?.['msg'], 'caller took no byte within WRITE_TIMEOUT')
      // What the caller had not taken is no whole body either.
      wire.socket.resume()
      await wire.ended()
      assert.doesNotMatch(wire.text.slice(-10), /0\r\n\r\n/)
    })

    test('lets nobody take for whole what it broke off, however its end is told', async () => {
      const path = `/endless-old-${transport}`
      const wire = await open(gateway)
      const ends: string[] = []
      wire.socket.once('end', () => ends.push('end'))
      wire.socket.once('error', ({ message }) => ends.push(message))
      const request = `${head(`GET ${path}`, stack.mint())}\r\n`.replace('HTTP/1.1', 'HTTP/1.0')
      wire.send(request)
      await wire.receives(/x{1000}/)
      wire.socket.pause()
      await until(() => broken.has(path), 10_000)
      wire.socket.resume()
      await wire.ended()
      // Over TLS an end is orderly when it was announced, which `openssl` tells and Node does not.
      if (transport === 'TCP') assert.deepEqual(ends, ['read ECONNRESET'])
    })

    test('leaves a caller alone that takes its bytes slowly', async () => {
      const path = `/endless-slowly-${transport}`
      const wire = await open(gateway)
      const { socket } = wire
      let taken = 0
      // Bytes wait for it all the time, for longer than WRITE_TIMEOUT in all.
      socket.removeAllListeners('data').on('data', (chunk: Buffer) => {
        taken += chunk.length
        if (taken < 1024 * 1024) return
        taken = 0
        socket.pause()
        setTimeout(() => socket.resume(), 100)
      })
      wire.send(`${head(`GET ${path}`, stack.mint())}\r\n`)
      await new Promise(resolve => setTimeout(resolve, 4_000))
      assert.equal(wire.closed || broken.has(path), false)
      wire.close()
      await until(() => broken.has(path))
    })

    test('leaves a caller alone for whom no byte waits', async () => {
      const wire = await open(gateway)
      wire.send(`${head(`GET /idle-${transport}`, stack.mint())}\r\n`)
      assert.match(await wire.receives(/0\r\n\r\n/), /first .*last/s)
      wire.close()
    })
  })
}
