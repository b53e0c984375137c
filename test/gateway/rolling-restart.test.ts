// Holds a rolling restart of two replicas behind a TCP balancer, under load, to lose no request.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { test } from 'node:test'
import { Pool } from 'undici'
import { lastFirst, type Scope } from '../cleanup.ts'
import { until } from '../until.ts'
import {
  call,
  type Gateway,
  listen,
  RESOURCE,
  type Stack,
  startGateway,
  startStack,
} from './harness.ts'

const PROBE_INTERVAL = 50
const CONNECTIONS = 12

/** Gives new connections to the replicas that are ready, in turn, and knows nothing of what goes through them. */
interface Balancer {
  readonly url: string
  readonly replicas: Set<Gateway>
  /** Connections that it could give to none. */
  readonly refused: number
}

async function startBalancer(t: Scope, first: readonly Gateway[]): Promise<Balancer> {
  const replicas = new Set(first)
  let ready = [...first]
  let refused = 0
  let turn = 0
  const sockets = new Set<Socket>()

  async function probe(): Promise<void> {
    const found = await Promise.all(
      [...replicas].map(async replica => {
        const answer = call(replica.url, '/ready', { resource: null })
        const { status } = await answer.catch(() => ({ status: 0 }))
        return status === 200 ? [replica] : []
      }),
    )
    ready = found.flat()
  }

  const server = createServer({ allowHalfOpen: true }, client => {
    turn += 1
    const replica = ready[turn % ready.length]
    if (replica === undefined) {
      refused += 1
      client.destroy()
      return
    }
    const upstream = connect({ port: replica.port, host: '127.0.0.1', allowHalfOpen: true })
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket)
      socket.on('error', () => other.destroy())
      socket.on('close', () => sockets.delete(socket))
      socket.pipe(other)
    }
  })
  const port = await listen(server)
  const probing = new AbortController()
  const probes = (async () => {
    while (!probing.signal.aborted) {
      await probe()
      await new Promise(resolve => setTimeout(resolve, PROBE_INTERVAL))
    }
  })()
  t.after(async () => {
    probing.abort()
    await probes
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return {
    url: `http://127.0.0.1:${port}`,
    replicas,
    get refused() {
      return refused
    },
  }
}

/** Requests without a pause, on connections that are kept for as long as the other side keeps them. */
class Load {
  /** Ids of the requests that were answered with 200. */
  readonly answered: string[] = []
  /** What else became of a request. */
  readonly other: string[] = []
  readonly #pool: Pool
  readonly #stack: Stack
  readonly #workers: Promise<void>[]
  #stopped = false

  constructor(stack: Stack, url: string) {
    this.#stack = stack
    this.#pool = new Pool(url, { connections: CONNECTIONS, pipelining: 1 })
    this.#workers = Array.from({ length: CONNECTIONS }, (_, worker) => this.#work(worker))
  }

  async more(count: number): Promise<void> {
    const from = this.answered.length
    await until(() => this.answered.length >= from + count || this.other.length > 0, 20_000)
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await Promise.all(this.#workers)
    if (!this.#pool.closed) await this.#pool.close()
  }

  async #work(worker: number): Promise<void> {
    for (let n = 0; !this.#stopped; n++) {
      const id = `r-${worker}-${n}`
      await this.#ask(id).catch((error: Error) => this.other.push(`${id}: ${error.message}`))
      // A caller that thinks: connections are idle now and then.
      if (n % 5 === worker % 5) await new Promise(resolve => setTimeout(resolve, worker * 10))
    }
  }

  async #ask(id: string): Promise<void> {
    const { statusCode, body } = await this.#pool.request({
      method: 'POST',
      path: `/orders/${id}`,
      headers: {
        authorization: `Bearer ${this.#stack.mint()}`,
        'x-caracal-resource': RESOURCE,
        'x-request-id': id,
      },
      body: id,
    })
    const text = await body.text()
    if (statusCode === 200) this.answered.push(id)
    else this.other.push(`${id}: ${statusCode} ${text}`)
  }
}

test(
  'the gateway loses no request when its replicas are restarted one after the other',
  lastFirst(async t => {
    const stack = await startStack(t, { env: { SHUTDOWN_DELAY: '500ms' } })
    const { upstream } = stack
    // Some are under way whenever a replica is told to stop.
    upstream.handler = (_request, response, body) => {
      void body.then(sent => setTimeout(() => response.end(sent), sent.length * 2))
    }
    const replicas = [stack.gateway, await startGateway(t, stack.env)]
    const balancer = await startBalancer(t, replicas)
    const load = new Load(stack, balancer.url)
    // A test that fails must not leave its callers behind.
    t.after(() => load.stop())
    await load.more(100)
    for (const old of replicas) {
      const ended = once(old.child, 'exit')
      old.child.kill('SIGTERM')
      await load.more(50)
      const [code] = await ended
      assert.equal(code, 0)
      balancer.replicas.delete(old)
      balancer.replicas.add(await startGateway(t, stack.env))
      await load.more(100)
    }
    await load.stop()

    assert.deepEqual(load.other, [])
    assert.equal(balancer.refused, 0)
    const asked = load.answered.toSorted()
    assert.equal(new Set(asked).size, asked.length)
    const seen = upstream.arrivals.map(({ url }) => url.slice('/orders/'.length))
    assert.deepEqual(seen.toSorted(), asked)
    await until(async () => (await stack.events()).length >= asked.length)
    const events = await stack.events()
    assert.deepEqual(events.map(event => event.request_id).toSorted(), asked)
    for (const event of events) assert.equal(event.evaluation_status, 'executed')
  }),
)
