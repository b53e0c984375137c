// Holds the spans that wait for a collector to their bound, and counts what becomes of each.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { describe, it, type TestContext } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { TracerProvider } from '@opentelemetry/sdk-trace'
import type { FastifyBaseLogger } from 'fastify'
import type { CounterName } from '../../../plugins/metrics.ts'
import { SpanQueue } from '../../../plugins/tracing/span-queue.ts'
import { startCollector } from '../../collector.ts'
import { freePort } from '../../redis.ts'
import { until } from '../../until.ts'

const MAX_WAITING = 4096

type Log = Pick<FastifyBaseLogger, 'info' | 'warn'>

function queueTo(url: string, headers = {}) {
  const counted = { trace_spans_sent: 0, trace_spans_dropped: 0 }
  const logged: [line: unknown, message: string | undefined][] = []
  const log: Log = {
    warn: (line: unknown, message?: string) => void logged.push([line, message]),
    info: (message: unknown) => void logged.push([undefined, String(message)]),
  }
  const queue = new SpanQueue(
    {
      count(name: CounterName, by = 1) {
        if (name === 'trace_spans_sent' || name === 'trace_spans_dropped') counted[name] += by
      },
    },
    log,
    url,
    headers,
  )
  const tracer = new TracerProvider({ spanProcessors: [queue] }).getTracer('test')
  const send = (count: number) => {
    for (let i = 0; i < count; i += 1) tracer.startSpan('span').end()
  }
  return { queue, send, counted, logged }
}

async function within(milliseconds: number, work: Promise<unknown>): Promise<void> {
  const startedAt = performance.now()
  await work
  const took = performance.now() - startedAt
  assert.ok(took < milliseconds, `took ${Math.round(took)} ms`)
}

/** A port on which connections hang: nobody accepts them, and no more may wait for that. */
async function unacceptingPort(t: TestContext): Promise<number | undefined> {
  const script =
    'const server = require("node:net").createServer().listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => console.log(server.address().port))'
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.after(() => void child.kill('SIGKILL'))
  const [line] = await once(child.stdout, 'data')
  child.kill('SIGSTOP')
  for (let n = 0; n < 8; n += 1) {
    const socket = connect(Number(line), '127.0.0.1').on('error', () => undefined)
    t.after(() => void socket.destroy())
    if (!(await Promise.race([once(socket, 'connect'), pause(500)]))) return Number(line)
  }
  return undefined
}

describe('the spans of a gateway', { concurrency: true }, () => {
  it('leave by themselves, and the last ones when it closes', async t => {
    const collector = await startCollector(t)
    const { queue, send, counted, logged } = queueTo(collector.url)
    send(3)
    await until(() => counted.trace_spans_sent === 3, 10_000)
    send(MAX_WAITING)
    await queue.close(10_000)
    assert.equal(collector.spans.length, MAX_WAITING + 3)
    assert.deepEqual(counted, { trace_spans_sent: MAX_WAITING + 3, trace_spans_dropped: 0 })
    assert.deepEqual(logged, [])
  })

  it('are dropped beyond a bound while the collector hangs, and given up in time', async t => {
    const collector = await startCollector(t)
    collector.answer = () => {}
    const { queue, send, counted, logged } = queueTo(collector.url)
    send(MAX_WAITING + 900)
    assert.deepEqual(counted, { trace_spans_sent: 0, trace_spans_dropped: 900 })
    await within(2_000, queue.close(200))
    assert.deepEqual(logged.at(-1)?.[1], 'traces are given up')
  })

  it('are dropped when the collector refuses them, which is told once, and when it is over', async t => {
    const collector = await startCollector(t)
    collector.answer = response => {
      response.statusCode = 400
      response.end('canary')
    }
    const { queue, send, counted, logged } = queueTo(collector.url, { authorization: 'canary' })
    for (const count of [512, 1024]) {
      send(512)
      await until(() => counted.trace_spans_dropped === count)
    }
    assert.deepEqual(
      logged.map(([, message]) => message),
      ['traces cannot be sent'],
    )
    assert.doesNotMatch(JSON.stringify(logged), /canary/)
    collector.answer = response => response.end()
    send(512)
    await until(() => counted.trace_spans_sent === 512)
    assert.equal(logged.at(-1)?.[1], 'traces are sent again')
    await queue.close(1_000)
  })

  it('are dropped when the collector cannot be connected to, however long that hangs', async t => {
    const port = await unacceptingPort(t)
    if (port === undefined) return t.skip('every connection is taken here')
    const { queue, send, counted } = queueTo(`http://127.0.0.1:${port}`)
    // As many as leave at once.
    send(256)
    await until(() => counted.trace_spans_dropped === 256, 30_000)
    send(1)
    await within(2_000, queue.close(200))
  })

  it('wait for a collector that is away, and are given up in time', async () => {
    const { queue, send, counted } = queueTo(`http://127.0.0.1:${await freePort()}`)
    send(600)
    await within(2_000, queue.close(200))
    assert.equal(counted.trace_spans_sent, 0)
  })
})
