// An upstream of event streams, as a process of its own: `/idle` says nothing after its first event, `/busy` says
// something every five seconds; `/held` is never answered. Prints its port.
import { createServer } from 'node:http'

const BUSY_INTERVAL = 5_000

const server = createServer((request, response) => {
  if (request.url === '/held') return
  if (request.url !== '/idle' && request.url !== '/busy') return void response.end('ok')
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.write('data: open\n\n')
  if (request.url === '/idle') return
  const timer = setInterval(() => response.write('data: tick\n\n'), BUSY_INTERVAL)
  response.once('close', () => clearInterval(timer))
})
server.keepAliveTimeout = 600_000
server.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 }, () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') console.log(address.port)
})
