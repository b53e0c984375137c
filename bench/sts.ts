// An STS that costs next to nothing, as a process of its own: it shares the machine with what is measured. It serves one
// zone's key and answers every signed exchange alike, judging nothing: that is what the tests' STS does. Prints its port.
//
// BENCH_KEY: a signing key as JSON; BENCH_RESOURCE and BENCH_UPSTREAM: what is routed where.
import { createServer } from 'node:http'
import { type SigningKey, signerOf } from './signer.ts'

const { env } = process
const resource = env['BENCH_RESOURCE'] ?? ''
const key: SigningKey = JSON.parse(env['BENCH_KEY'] ?? '')
const keys = JSON.stringify({ keys: [key.publicJwk] })
const accessToken = signerOf(key)(resource, { use: 'resource', aud: resource })
const grant = JSON.stringify({
  access_token: accessToken,
  token_type: 'Bearer',
  expires_in: 300,
  scope: 'bench:call',
  issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
  target_resources: [resource],
  upstreams: { [resource]: { url: env['BENCH_UPSTREAM'], auth_mode: 'caracal_jwt' } },
})
const unsigned = JSON.stringify({ error: 'invalid_client', error_description: 'not signed' })

const server = createServer((request, response) => {
  const signed = request.headers['x-caracal-gateway-signature'] !== undefined
  const exchange = request.method === 'POST'
  const body = exchange ? (signed ? grant : unsigned) : keys
  request.resume().on('end', () => {
    response.writeHead(exchange && !signed ? 401 : 200, {
      'content-type': 'application/json',
      'content-length': body.length,
    })
    response.end(body)
  })
})
server.keepAliveTimeout = 600_000
server.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 }, () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') console.log(address.port)
})
