// A TCP proxy on loopback for tests, to cut connections and swallow what comes back.
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import type { Cleanup } from './redis.ts'

/** A proxy in front of one port of 127.0.0.1. */
export interface TcpProxy {
  readonly port: number
  /** Breaks every connection; new ones are broken at once until {@link TcpProxy.restore}. */
  cut(): void
  restore(): void
  /**
   * From now on passes requests on, but no answers. The promise resolves when the next answer has been
   * swallowed.
   */
  swallowAnswers(): Promise<void>
  /**
   * From now on keeps back what comes for connections that have never sent this text, and all that comes after it.
   * Returns what lets it go.
   */
  holdAnswers(unless: string): () => void
}

/** Starts a proxy to a port of 127.0.0.1; it ends with the test. */
export async function startTcpProxy(t: Cleanup, target: number): Promise<TcpProxy> {
  const sockets = new Set<Socket>()
  let broken = false
  let swallowed: (() => void) | undefined
  let held: { readonly unless: string; readonly answers: (() => void)[] } | undefined
  const server = createServer(client => {
    if (broken) return void client.destroy()
    const upstream = connect(target, '127.0.0.1')
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        upstream.destroy()
      })
    }
    let sent = ''
    client.on('data', chunk => {
      sent = (sent + chunk.toString('latin1')).slice(-65_536)
      upstream.write(chunk)
    })
    upstream.on('data', chunk => {
      if (swallowed) swallowed()
      else if (held && !sent.includes(held.unless)) held.answers.push(() => client.write(chunk))
      else client.write(chunk)
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const breakAll = () => {
    for (const socket of sockets) socket.destroy()
  }
  t.after(async () => {
    breakAll()
    server.close()
    await once(server, 'close')
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return {
    port: address.port,
    cut() {
      broken = true
      breakAll()
    },
    restore() {
      broken = false
      swallowed = undefined
    },
    swallowAnswers: () =>
      new Promise(resolve => {
        swallowed = resolve
      }),
    holdAnswers(unless) {
      const answers: (() => void)[] = []
      held = { unless, answers }
      return () => {
        held = undefined
        for (const pass of answers) pass()
      }
    },
  }
}
