// What the gateway is compared with: Fastify and reply-from, and nothing else. UPSTREAM names the upstream; prints its port.
import replyFrom from '@fastify/reply-from'
import Fastify from 'fastify'

const app = Fastify()
await app.register(replyFrom, { base: process.env['UPSTREAM'] ?? '' })
app.get('/*', (_request, reply) => reply.from())
const url = await app.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 })
console.log(new URL(url).port)
