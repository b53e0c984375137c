// A client that costs little beside what it measures: it writes bytes that were made ahead, and reads of an answer its
// status and where it ends.
import { connect, type Socket } from 'node:net'

/** Keeps connections to one server, one request at a time on each. */
export class RawClient {
  readonly #port: number
  readonly #idle: Connection[] = []
  readonly #all = new Set<Connection>()

  constructor(port: number) {
    this.#port = port
  }

  /** Sends a whole request. @returns the answer's status, once the answer is whole */
  async send(request: string): Promise<number> {
    const connection = this.#idle.pop() ?? this.#open()
    const status = await connection.send(request)
    if (connection.usable) this.#idle.push(connection)
    else this.#all.delete(connection)
    return status
  }

  close(): void {
    for (const connection of this.#all) connection.close()
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
