// TLS in front of a port of 127.0.0.1, for tests.
import { once } from 'node:events'
import { connect } from 'node:net'
import { pipeline } from 'node:stream'
import { createServer } from 'node:tls'
import type { TestCertificate } from './certificate.ts'
import type { Cleanup } from './redis.ts'

/** Starts a server that takes TLS and passes on what is inside; resolves to its port. It ends with the test. */
export async function startTlsProxy(
  t: Cleanup,
  target: number,
  { key, cert }: TestCertificate,
): Promise<number> {
  const server = createServer({ key, cert }, client => {
    pipeline(client, connect(target, '127.0.0.1'), client, () => undefined)
  }).listen(0, '127.0.0.1')
  server.on('tlsClientError', () => undefined)
  t.after(async () => void server.close())
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}
