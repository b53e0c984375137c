// An upstream, as a process of its own: `/idle` is an event stream that says nothing after its first event, `/busy` one
// that says something every five seconds; `/held` is never answered; `/bytes/N` is N bytes. All else is read and
// answered with two bytes of text, whose type it says as APIs do. Prints its port.
import { createServer, type ServerResponse } from 'node:http'

const BUSY_INTERVAL = 5_000
const CHUNK = Buffer.alloc(64 * 1024, 0x61)

const server = createServer((request, response) => {
  const { url = '', method } = request
  if (url === '/held') return
  if (url.startsWith('/bytes/')) return sendBytes(response, Number(url.slice(7)))
  if (method !== 'GET') return void request.resume().on('end', () => sendText(response))
  if (url !== '/idle' && url !== '/busy') return sendText(response)
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.write('data: open\n\n')
  if (url === '/idle') return
  const timer = setInterval(() => response.write('data: tick\n\n'), BUSY_INTERVAL)
  response.once('close', () => clearInterval(timer))
})
server.keepAliveTimeout = 600_000
server.requestTimeout = 0
server.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 }, () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') console.log(address.port)
})

function sendText(response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'text/plain' }).end('ok')
}

function sendBytes(response: ServerResponse, count: number): void {
  response.writeHead(200, { 'content-length': count })
  let left = count
  const more = () => {
    while (left > 0) {
      const chunk = left < CHUNK.length ? CHUNK.subarray(0, left) : CHUNK
      left -= chunk.length
      if (!response.write(chunk)) return
    }
    response.end()
  }
  response.on('drain', more)
  more()
}
