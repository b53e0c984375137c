// What the gateway is compared with: Fastify and reply-from, and nothing else; without UPSTREAM a reply of Fastify's own.
// Prints its port.
import replyFrom from '@fastify/reply-from'
import Fastify from 'fastify'

const upstream = process.env['UPSTREAM']
const app = Fastify()
// Bodies go through as they come, whatever they are.
app.removeAllContentTypeParsers()
app.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
if (upstream === undefined) app.get('/*', (_request, reply) => reply.send('ok'))
else {
  // Its 128 connections at most would be its streams at most.
  await app.register(replyFrom, { base: upstream, undici: { connections: 20_000 } })
  app.all('/*', (_request, reply) => reply.from())
}
const url = await app.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 })
console.log(new URL(url).port)
