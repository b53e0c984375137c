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
}

/** Starts a proxy to a port of 127.0.0.1; it ends with the test. */
export async function startTcpProxy(t: Cleanup, target: number): Promise<TcpProxy> {
  const sockets = new Set<Socket>()
  let broken = false
  let swallowed: (() => void) | undefined
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
    client.on('data', chunk => upstream.write(chunk))
    upstream.on('data', chunk => {
      if (swallowed) swallowed()
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
  }
}
