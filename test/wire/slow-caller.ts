// What tests of slow callers share: a certificate to serve with, a connection on TCP or TLS, an answer without an end.
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import type { ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import { createCertificate } from '../certificate.ts'
import { type Gateway, Wire } from '../gateway/harness.ts'
import type { Cleanup } from '../redis.ts'

/** The two ways to the gateway, and the environment of one that serves each. */
export async function transports(
  t: Cleanup,
): Promise<readonly { name: 'TCP' | 'TLS'; env: Readonly<Record<string, string>> }[]> {
  const { cert, key } = createCertificate()
  const folder = await mkdtemp(join(tmpdir(), 'gateway-slow-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  const files = { TLS_CERT_FILE: join(folder, 'tls.crt'), TLS_KEY_FILE: join(folder, 'tls.key') }
  await Promise.all([writeFile(files.TLS_CERT_FILE, cert), writeFile(files.TLS_KEY_FILE, key)])
  return [
    { name: 'TCP', env: {} },
    { name: 'TLS', env: files },
  ]
}

/** A new connection to a gateway, on TLS if that serves it; resolves once it stands. */
export async function open({ url, port }: Gateway): Promise<Wire> {
  if (url.startsWith('https')) {
    const socket = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false })
    await once(socket, 'secureConnect')
    return new Wire(port, socket)
  }
  const wire = new Wire(port)
  await once(wire.socket, 'connect')
  return wire
}

const CHUNK = Buffer.alloc(64 * 1024, 'x')

/** Writes without an end, as long as somebody takes it. */
export function pour(response: ServerResponse): void {
  while (!response.destroyed && response.write(CHUNK));
  response.once('drain', () => pour(response))
}
