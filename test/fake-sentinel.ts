// A sentinel that says what it is told to, for tests of what real ones say only for a moment.
import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import type { Cleanup } from './redis.ts'

/** A sentinel of one master, on loopback. */
export interface FakeSentinel {
  readonly port: number
  /** Questions that it was asked. */
  readonly asked: () => number
  /** What it says from now on; undefined: that it knows no such master. */
  says(master: { readonly port: number; readonly epoch: number } | undefined): void
  /** Breaks its connections and answers nothing, until it {@link FakeSentinel.says} something. */
  silence(): void
}

/** Starts a sentinel that knows no master yet; it ends with the test. */
export async function startFakeSentinel(t: Cleanup): Promise<FakeSentinel> {
  let master: { readonly port: number; readonly epoch: number } | undefined
  let silent = false
  let asked = 0
  const sockets = new Set<Socket>()
  const answer = (command: readonly string[]) => {
    if (/^client$/i.test(command[0] ?? '')) return '+OK\r\n'
    asked += 1
    const wantsAddress = /^get-master-addr-by-name$/i.test(command[1] ?? '')
    if (master === undefined)
      return wantsAddress ? '*-1\r\n' : '-ERR No such master with that name\r\n'
    return texts(
      wantsAddress
        ? ['127.0.0.1', `${master.port}`]
        : ['name', command[2] ?? '', 'config-epoch', `${master.epoch}`],
    )
  }
  const server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.on('close', () => sockets.delete(socket))
    if (silent) return void socket.destroy()
    let received = ''
    socket.setEncoding('latin1').on('data', (chunk: string) => {
      received += chunk
      for (;;) {
        const [command, length] = firstCommand(received)
        if (length === 0) return
        received = received.slice(length)
        socket.write(answer(command))
      }
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  const breakAll = () => {
    for (const socket of sockets) socket.destroy()
  }
  t.after(async () => {
    breakAll()
    server.close()
    await once(server, 'close')
  })
  return {
    port: address.port,
    asked: () => asked,
    says(next) {
      silent = false
      master = next
    },
    silence() {
      silent = true
      breakAll()
    },
  }
}

function texts(items: readonly string[]): string {
  return `*${items.length}\r\n${items.map(item => `$${item.length}\r\n${item}\r\n`).join('')}`
}

/** The first whole command of what was received, and its length; 0 when there is none yet. */
function firstCommand(received: string): readonly [command: readonly string[], length: number] {
  const count = /^\*(\d+)\r\n/.exec(received)
  if (count === null) return [[], 0]
  const command: string[] = []
  let at = count[0].length
  while (command.length < Number(count[1])) {
    const size = /^\$(\d+)\r\n/.exec(received.slice(at))
    if (size === null) return [[], 0]
    const start = at + size[0].length
    at = start + Number(size[1]) + 2
    if (received.length < at) return [[], 0]
    command.push(received.slice(start, at - 2))
  }
  return [command, at]
}
