// A service of somebody else's: its own routes, and the gateway behind all others. Run by `embed.test.ts` in a project
// that has the package installed.

import Fastify from 'fastify'
import { ConfigError, createGateway, Denial, loadConfig } from 'caracal-gateway'

const gateway = await createGateway(loadConfig(process.env))
await gateway.ready()

const app = Fastify()
app.removeAllContentTypeParsers()
// The gateway reads the body itself, as it comes.
app.addContentTypeParser('*', (_request, _payload, done) => done(null))
app.get('/own', async () => ({ own: true }))
app.all('/*', (request, reply) => {
  reply.hijack()
  gateway.routing(request.raw, reply.raw)
})
app.addHook('onClose', () => gateway.close())

const injected = await gateway.inject({
  url: '/hello',
  headers: {
    authorization: `Bearer ${process.env.MANDATE}`,
    'x-caracal-resource': process.env.RESOURCE,
  },
})
const address = await app.listen({ port: 0, host: '127.0.0.1' })
const problems = (() => {
  try {
    loadConfig({})
    return []
  } catch (error) {
    return error instanceof ConfigError ? error.problems : [String(error)]
  }
})()
process.send({
  address,
  injected: { status: injected.statusCode, body: injected.body },
  check: new Denial('replayed').check,
  problems,
})
process.once('message', () => void app.close().then(() => process.disconnect()))
