// Guarantees that a connection leads to the master that the sentinels elected last: before it is used, and while it is.
import { createConnection, isIP, type Socket } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { AbstractConnector } from 'ioredis'
import type { Endpoint } from '../../lib/redis-url.ts'
import { retryDelay, type TlsOptions } from './options.ts'
import type { Master, Sentinels } from './sentinels.ts'

/** A connector for the client: each connection goes to the master, and breaks when another is elected. */
export function masterConnector(
  sentinels: Sentinels,
  tls: TlsOptions | undefined,
): new () => AbstractConnector {
  return class MasterConnector extends AbstractConnector {
    #master: Master | undefined
    #report: ((type: string, error: Error) => void) | undefined

    constructor() {
      super(0)
      sentinels.onLocated(master => {
        if (this.#master === undefined || master.epoch <= this.#master.epoch) return
        if (sameEndpoint(master, this.#master)) return
        this.stream.destroy(new Error('another server is the master now'))
      })
    }

    override async connect(report: (type: string, error: Error) => void): Promise<Socket> {
      this.connecting = true
      this.#report = report
      // The client gives up for good when this rejects, which it may only once it was told to.
      for (let attempt = 1; ; attempt++) {
        try {
          const master = await sentinels.locate()
          if (!this.connecting) break
          this.stream = this.#dial(master)
          this.#master = master
          return this.stream
        } catch (error) {
          if (!this.connecting) break
          report('error', error instanceof Error ? error : new Error('unknown error'))
        }
        await pause(retryDelay(attempt), undefined, { ref: false })
      }
      throw new Error('Connection is closed.')
    }

    /** Whether the server thinks as the sentinels do: one that has just been demoted does not. */
    override check(info: { readonly role?: string }): boolean {
      if (info.role === undefined || info.role === 'master') return true
      this.#report?.('error', new Error('the server that sentinels name is a replica'))
      return false
    }

    // At once: a server that hangs would keep a connection that waits for its goodbye.
    override disconnect(): void {
      this.connecting = false
      // Not there yet before the first master was found.
      const stream: Socket | undefined = this.stream
      stream?.destroy()
    }

    #dial({ host, port }: Master): Socket {
      const socket =
        tls === undefined
          ? createConnection({ host, port })
          : connectTls({ ...tls, host, port, ...(isIP(host) === 0 && { servername: host }) })
      socket.once('error', error => {
        this.firstError = error
      })
      return socket
    }
  }
}

function sameEndpoint(a: Endpoint, b: Endpoint): boolean {
  return a.host === b.host && a.port === b.port
}
