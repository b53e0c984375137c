// What it shows: beside the end-to-end tests, what the plugin refuses at the start, and that a poll alone is enough.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { connect } from 'node:tls'
import Fastify from 'fastify'
import certificate from '../../plugins/certificate.ts'
import metrics from '../../plugins/metrics.ts'
import { createCertificate, type TestCertificate } from '../certificate.ts'
import { until } from '../until.ts'

async function directory(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'certificate-'))
  t.after(() => rm(path, { recursive: true, force: true }))
  return path
}

async function pairIn(path: string, { cert, key }: TestCertificate) {
  const files = { cert: join(path, 'tls.crt'), key: join(path, 'tls.key') }
  await Promise.all([writeFile(files.cert, cert), writeFile(files.key, key)])
  return files
}

test('the gateway notices a pair that no watcher tells of', async t => {
  const [mount, store] = [await directory(t), await directory(t)]
  const [one, two] = [createCertificate(), createCertificate()]
  await pairIn(store, one)
  // The directory that is watched holds links alone, and does not change.
  const files = { cert: join(mount, 'tls.crt'), key: join(mount, 'tls.key') }
  await symlink(join(store, 'tls.crt'), files.cert)
  await symlink(join(store, 'tls.key'), files.key)
  const app = Fastify({ https: {} })
  t.after(() => app.close())
  await app.register(metrics)
  await app.register(certificate, { ...files, pollInterval: 20 })
  const port = Number(new URL(await app.listen({ port: 0, host: '127.0.0.1' })).port)
  const shows = async ({ cert }: TestCertificate) => {
    const socket = connect({ port, host: '127.0.0.1', ca: cert })
    return once(socket, 'secureConnect')
      .then(
        () => true,
        () => false,
      )
      .finally(() => socket.destroy())
  }
  assert.equal(await shows(one), true)
  const next = await pairIn(await directory(t), two)
  await rename(next.key, join(store, 'tls.key'))
  await rename(next.cert, join(store, 'tls.crt'))
  await until(() => shows(two), 10_000)
})

test('the gateway does not start with a pair that is not sound, and says what is wrong with it', async t => {
  const files = await pairIn(await directory(t), createCertificate())
  await writeFile(files.key, createCertificate().key)
  const app = Fastify({ https: {} })
  t.after(() => app.close())
  await app.register(metrics)
  await assert.rejects(
    async () => app.register(certificate, files),
    /^Error: TLS_KEY_FILE must be the key of the first certificate$/,
  )
})

test('the gateway has no certificate to serve where it serves no TLS', async t => {
  const files = await pairIn(await directory(t), createCertificate())
  const app = Fastify()
  t.after(() => app.close())
  await app.register(metrics)
  await assert.rejects(async () => app.register(certificate, files), /must speak TLS/)
})
