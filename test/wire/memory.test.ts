// What strangers invent (tokens, zones, keys, resources, connections) leaves nothing behind in the process.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, test } from 'node:test'
import { ALONE, startStack, Wire } from '../gateway/harness.ts'
import { until } from '../until.ts'

const REQUESTS = 20_000
const WIRES = 8
/** Requests that are on their way on one connection at once. */
const WINDOW = 50
/** Bytes a request may leave behind: caches that are full by then keep their size. */
const PER_REQUEST = 100

const stack = await startStack(
  { after },
  // A debugger collects garbage on demand; without that a heap's size tells little.
  {
    env: {
      ...ALONE,
      NODE_OPTIONS: '--inspect=127.0.0.1:0',
      LOG_LEVEL: 'error',
      // A machine that is busy with other tests is no overload.
      MAX_EVENT_LOOP_DELAY: '1m',
    },
    sts: { record: false },
  },
)

/** The bytes in use after a collection, as the gateway's inspector tells them. */
async function heapInUse(): Promise<number> {
  await until(() => stack.gateway.output().includes('ws://'))
  const url = /ws:\/\/\S+/.exec(stack.gateway.output())?.[0]
  assert.ok(url)
  const socket = new WebSocket(url)
  const answers = new Map<number, PromiseWithResolvers<{ usedSize: number }>>()
  socket.addEventListener('message', ({ data }) => {
    const { id, result } = JSON.parse(String(data))
    answers.get(id)?.resolve(result)
  })
  await new Promise(resolve => socket.addEventListener('open', resolve, { once: true }))
  const ask = (id: number, method: string) => {
    const answer = Promise.withResolvers<{ usedSize: number }>()
    answers.set(id, answer)
    socket.send(JSON.stringify({ id, method }))
    return answer.promise
  }
  await ask(1, 'HeapProfiler.collectGarbage')
  await ask(2, 'HeapProfiler.collectGarbage')
  const { usedSize } = await ask(3, 'Runtime.getHeapUsage')
  socket.close()
  return usedSize
}

function segment(value: unknown): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url')
}

/** A token that nobody signed. */
function forged(zone: string, kid: string): string {
  const header = segment({ alg: 'ES256', typ: 'JWT', kid })
  const claims = segment({ zone_id: zone, client_id: `c-${kid}`, exp: 4_000_000_000, jti: kid })
  return `${header}.${claims}.${randomBytes(64).toString('base64url')}`
}

/** A request that is refused, unlike any other. */
function refused(i: number): string {
  const unique = randomBytes(12).toString('hex')
  const token = [
    () => `opaque-${unique}`,
    () => forged('zone-1', `kid-${unique}`),
    // Keys are fetched for a zone that is new, which takes its time.
    () => forged(i % 5 === 2 ? `zone-${unique}` : 'zone-1', `kid-${unique}`),
    () => stack.mint({ zone_id: `zone ${unique}` }),
  ][i % 4]?.()
  return [
    `${i % 3 === 0 ? 'POST' : 'GET'} /${unique}?${unique} HTTP/1.1`,
    'Host: gateway.test',
    `Authorization: Bearer ${token}`,
    `X-Caracal-Resource: resource://${unique}`,
    `X-Request-Id: ${unique}`,
    `X-${unique}: ${unique}`,
    ...(i % 3 === 0 ? ['Content-Length: 2', '', 'ab'] : ['', '']),
  ].join('\r\n')
}

async function refuseMany(count: number): Promise<void> {
  let next = 0
  await Promise.all(
    Array.from({ length: WIRES }, async () => {
      const wire = new Wire(stack.gateway.port)
      while (next < count) {
        const from = next
        next += WINDOW
        const batch = Array.from({ length: Math.min(WINDOW, count - from) }, (_, i) =>
          refused(from + i),
        )
        wire.received = Buffer.alloc(0)
        wire.send(batch.join(''))
        await until(() => wire.closed || refusals(wire) >= batch.length, 60_000)
        assert.equal(refusals(wire), batch.length, wire.text.slice(-300))
      }
      wire.close()
    }),
  )
}

function refusals(wire: Wire): number {
  return wire.text.match(/HTTP\/1\.1 40\d /g)?.length ?? 0
}

/** Connections that come, are refused or not even that, and go. */
async function comeAndGo(count: number): Promise<void> {
  for (let from = 0; from < count; from += WINDOW) {
    await Promise.all(
      Array.from({ length: WINDOW }, async (_, i) => {
        const wire = new Wire(stack.gateway.port)
        wire.send(['garbage\r\n\r\n', refused(i), 'GET / HT', refused(i).slice(0, -3)][i % 4] ?? '')
        if (i % 4 < 2) await until(() => wire.received.length > 0, 60_000)
        wire.socket.resetAndDestroy()
        await wire.ended(60_000)
      }),
    )
  }
}

test(`the gateway keeps nothing of ${REQUESTS} refused requests`, async t => {
  // Fills what is bounded: code, pools, a good part of the thousand zones that are remembered.
  await refuseMany(6_000)
  await comeAndGo(500)
  const before = await heapInUse()
  await refuseMany(REQUESTS)
  await comeAndGo(2_000)
  await until(async () => (await stack.metric('requests_in_flight')) === 0, 60_000)
  const grown = (await heapInUse()) - before
  t.diagnostic(`${Math.round(before / 1024)} KiB in use, ${Math.round(grown / 1024)} KiB more then`)
  assert.ok(grown < REQUESTS * PER_REQUEST, `grown by ${grown} bytes`)
  assert.equal((await stack.call('/unharmed')).status, 200)
})
