// A client that costs little beside what it measures: it writes bytes that were made ahead, and reads of an answer its
// status and where it ends.
import { connect, type Socket } from 'node:net'

/** Requests at a time while connections are opened. */
const OPENERS = 32

/** Keeps connections to one server, one request at a time on each. */
export class RawClient {
  readonly #port: number
  readonly #most: number
  readonly #idle: Connection[] = []
  readonly #all = new Set<Connection>()
  readonly #queue: ((connection: Connection) => void)[] = []

  /** @param most connections; a request for which none is free waits: whoever calls a gateway has a pool of them */
  constructor(port: number, most = Infinity) {
    this.#port = port
    this.#most = most
  }

  /** Opens all connections, and waits until the server has taken them: it accepts one in a turn of its loop. */
  async open(request: string): Promise<void> {
    const connections: Connection[] = []
    const opener = async () => {
      while (this.#all.size < this.#most) {
        const connection = this.#open()
        await connection.send(request)
        connections.push(connection)
      }
    }
    await Promise.all(Array.from({ length: OPENERS }, opener))
    this.#idle.push(...connections)
  }

  /** Sends a whole request. @returns the answer's status, once the answer is whole */
  async send(request: string): Promise<number> {
    const connection = await this.#free()
    const status = await connection.send(request)
    const next = this.#queue.shift()
    if (!connection.usable) this.#all.delete(connection)
    if (next !== undefined) next(connection.usable ? connection : this.#open())
    else if (connection.usable) this.#idle.push(connection)
    return status
  }

  close(): void {
    for (const connection of this.#all) connection.close()
  }

  #free(): Connection | Promise<Connection> {
    const idle = this.#idle.pop()
    if (idle !== undefined) return idle
    if (this.#all.size < this.#most) return this.#open()
    return new Promise(resolve => this.#queue.push(resolve))
  }

  #open(): Connection {
    const connection = new Connection(this.#port)
    this.#all.add(connection)
    return connection
  }
}

class Connection {
  usable = true
  readonly #socket: Socket
  #received = ''
  #waiting: PromiseWithResolvers<number> | undefined

  constructor(port: number) {
    this.#socket = connect({ port, host: '127.0.0.1', noDelay: true })
    this.#socket.setEncoding('latin1')
    this.#socket.on('data', (text: string) => this.#read(text))
    this.#socket.on('error', error => this.#end(error))
    this.#socket.on('close', () => this.#end(new Error('the server closed the connection')))
  }

  send(request: string): Promise<number> {
    this.#waiting = Promise.withResolvers<number>()
    this.#socket.write(request, 'latin1')
    return this.#waiting.promise
  }

  close(): void {
    this.#socket.destroy()
  }

  #read(text: string): void {
    this.#received += text
    const head = this.#received.indexOf('\r\n\r\n')
    if (head === -1 || !this.#whole(head)) return
    const status = Number(this.#received.slice(9, 12))
    if (/\r\nconnection: close\r\n/i.test(this.#received.slice(0, head + 2))) this.#end()
    this.#received = ''
    this.#waiting?.resolve(status)
    this.#waiting = undefined
  }

  #whole(head: number): boolean {
    const length = /\r\ncontent-length: (\d+)/i.exec(this.#received.slice(0, head))?.[1]
    if (length !== undefined) return this.#received.length >= head + 4 + Number(length)
    return this.#received.endsWith('\r\n0\r\n\r\n')
  }

  #end(error?: Error): void {
    this.usable = false
    this.#socket.destroy()
    if (error !== undefined) this.#waiting?.reject(error)
  }
}
