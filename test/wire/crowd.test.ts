// A crowd of slow callers harms nobody: others are served as if there were none, and memory is bounded.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, test } from 'node:test'
import {
  call,
  type Gateway,
  head,
  startGateway,
  startStack,
  type Wire,
} from '../gateway/harness.ts'
import { stalled, until } from '../until.ts'
import { open, pour, transports } from './slow-caller.ts'

/** How many slow callers there are at once, a multiple of 20; 2,000 take longer than a run of all tests should. */
const CROWD = Number(process.env['SLOW_CALLERS'] ?? 500)

const stack = await startStack({ after })
stack.upstream.handler = ({ url = '' }, response, body) => {
  if (url.startsWith('/endless')) pour(response)
  else {
    body.then(
      () => response.end('ok'),
      () => undefined,
    )
  }
}

for (const { name: transport, env } of await transports({ after })) {
  test(`over ${transport} the gateway serves others beside ${CROWD} slow callers`, async t => {
    const timers: NodeJS.Timeout[] = []
    // Before the gateway ends, whose memory they look at.
    t.after(() => {
      for (const timer of timers) clearInterval(timer)
    })
    const gateway = await startGateway(
      { after: t.after.bind(t) },
      {
        ...stack.env,
        ...env,
        READ_HEADER_TIMEOUT: '60s',
        READ_TIMEOUT: '90s',
        WRITE_TIMEOUT: '60s',
        IDLE_TIMEOUT: '60s',
      },
    )
    const isOfCrowd = ({ url }: { url: string }) => url.includes('/crowd-')
    const arrived = () => stack.upstream.arrivals.filter(isOfCrowd).length - arrivedBefore
    const arrivedBefore = stack.upstream.arrivals.filter(isOfCrowd).length
    const crowd: Wire[] = []
    t.after(() => {
      for (const wire of crowd) wire.close()
    })
    const ask = () => call(gateway.url, '/others', { token: stack.mint() })
    let peak = 0
    const look = () => {
      peak = Math.max(peak, residentMebibytes(gateway))
    }
    timers.push(setInterval(look, 50))

    const waits: number[] = []
    const enough = new AbortController()
    const others = (async () => {
      while (!enough.signal.aborted) {
        const askedAt = performance.now()
        const { status } = await ask()
        assert.equal(status, 200)
        waits.push(performance.now() - askedAt)
      }
    })()
    for (let n = 0; n < CROWD; n++) {
      const wire = await open(gateway)
      crowd.push(wire)
      const [kind, path] = [n % 4, `/crowd-${n}`]
      if (kind === 0) wire.send(head(`GET ${path}`, stack.mint()))
      else if (kind === 1) {
        wire.send(`${head(`POST ${path}`, stack.mint(), 'Content-Length: 1000')}\r\nabc`)
      } else if (kind === 2) {
        wire.send(`${head(`GET /endless${path}`, stack.mint())}\r\n`)
        wire.socket.pause()
      } else wire.send('GET /health HTTP/1.1\r\nHost: a\r\n\r\n')
      // Not all at once: that would be a matter of MAX_IN_FLIGHT.
      if (n % 20 === 19) await until(() => arrived() === (n + 1) / 2, 20_000)
    }
    const trickle = () => {
      for (const [n, wire] of crowd.entries()) {
        if (n % 4 === 0) wire.send('X-A: b\r\n')
        else if (n % 4 === 1) wire.send('x')
      }
    }
    timers.push(setInterval(trickle, 1_000))
    // Until everything that can be buffered is.
    await stalled(() => Math.round(peak), 20_000)
    const before = waits.length
    await until(() => waits.length >= before + 50, 20_000)
    enough.abort()
    await others
    waits.sort((a, b) => a - b)
    const median = waits[Math.floor(waits.length / 2)] ?? Infinity
    t.diagnostic(
      `median ${median.toFixed(1)} ms, longest ${waits.at(-1)?.toFixed(1)} ms, peak ${peak.toFixed(1)} MiB`,
    )
    assert.ok(median < 250, `a median of ${median} ms`)
    // Contract section 15: 180 MiB with 200 requests in flight. Half of these callers have one; each beyond 200 may hold
    // what three reads of its upstream hold. TLS holds more of its own for every connection.
    const perConnection = transport === 'TLS' ? 100 : 0
    const bound = 180 + ((CROWD / 2 - 200) * 200 + CROWD * perConnection) / 1024
    assert.ok(peak < bound, `${peak} MiB, more than ${bound}`)
    assert.ok(crowd.every(({ closed }) => !closed))
  })
}

/** Of the largest of its processes. */
function residentMebibytes({ servers }: Gateway): number {
  const sizes = servers().map(pid => {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024
  })
  return Math.max(...sizes)
}
