/**
 * Holds the certificate that the gateway serves TLS with: one whole, sound pair at any time. A pair that turns unsound
 * leaves the last good one serving (contract section 9), and no connection notices the change.
 */
import { Server } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { keyPairProblems, readCertificates } from '../lib/key-pair.ts'
import { contentOf, type FileContent, fingerprint, watchFiles } from '../lib/watched-files.ts'

/** Options of the plugin. */
export interface CertificateOptions {
  /** Path of the PEM certificate chain, the leaf first (`TLS_CERT_FILE`). */
  readonly cert: string
  /** Path of its PEM private key (`TLS_KEY_FILE`). */
  readonly key: string
  /** Milliseconds between two looks at the files beside the watcher's; default 2000. */
  readonly pollInterval?: number | undefined
}

const MAX_BYTES = 1024 * 1024

interface Pair {
  /** Equal for equal content, and for the same reason why there is none. */
  readonly digest: string
  readonly readable: boolean
  /** A sentence each; empty for a sound pair. */
  readonly problems: readonly string[]
  readonly cert: string
  readonly key: string
}

async function certificate(app: FastifyInstance, options: CertificateOptions): Promise<void> {
  const { pollInterval = 2_000 } = options
  const files = [options.cert, options.key]
  const server = tlsServer(app)

  /** What the files say now. Never rejects. */
  async function pair(): Promise<Pair> {
    const [cert, key] = await Promise.all([
      contentOf(options.cert, MAX_BYTES),
      contentOf(options.key, MAX_BYTES),
    ])
    const texts = { cert: textOf(cert), key: textOf(key) }
    const problems = [...unreadable('TLS_CERT_FILE', cert), ...unreadable('TLS_KEY_FILE', key)]
    const readable = problems.length === 0
    for (const { of, rule } of keyPairProblems(texts.cert, texts.key)) {
      problems.push(`${of === 'cert' ? 'TLS_CERT_FILE' : 'TLS_KEY_FILE'} ${rule}`)
    }
    return {
      digest: `${cert.digest} ${key.digest}`,
      readable,
      problems,
      cert: texts.cert ?? '',
      key: texts.key ?? '',
    }
  }

  /** The leaf's end, in seconds of Unix time. */
  let expiry = 0
  function serve({ cert, key }: Pair): void {
    // Connections that stand keep what they were made with.
    server.setSecureContext({ cert, key, minVersion: 'TLSv1.2' })
    expiry = (readCertificates(cert)?.[0]?.validToDate.getTime() ?? 0) / 1000
  }

  const judged = await fingerprint(files)
  const first = await pair()
  if (first.problems.length > 0) throw new Error(first.problems.join('; '))
  serve(first)
  let good = first.digest
  let latest = first.digest

  /** Resolves to whether the files could be read, sound or not. */
  async function judge(): Promise<boolean> {
    const now = await pair()
    if (now.digest === latest) return now.readable
    latest = now.digest
    const { problems } = now
    if (problems.length > 0) {
      app.log.error(
        { files, problems },
        'the TLS certificate is not sound, the last good one serves',
      )
    } else if (now.digest !== good) {
      serve(now)
      good = now.digest
      app.log.info({ files, expires: new Date(expiry * 1000) }, 'TLS certificate loaded')
    }
    return now.readable
  }

  app.meters.gauge(
    'tls_certificate_expiry_timestamp_seconds',
    'End of the validity of the certificate that is served, in Unix time',
    () => expiry,
    'min',
  )
  app.meters.gauge(
    'tls_certificate_stale',
    'Whether the files of the certificate that is served hold another now that is not sound',
    () => Number(latest !== good),
    'max',
  )
  const watching = watchFiles({
    files,
    judged,
    pollInterval,
    judge,
    warn: (error, problem) => app.log.warn({ files, err: error }, `the TLS certificate ${problem}`),
  })
  app.addHook('onClose', () => watching.close())
}

function textOf(content: FileContent): string | undefined {
  return 'bytes' in content ? content.bytes.toString('latin1') : undefined
}

function unreadable(name: string, content: FileContent): string[] {
  return 'unreadable' in content ? [`${name} ${content.unreadable}`] : []
}

function tlsServer({ server }: FastifyInstance): Server {
  if (!(server instanceof Server)) throw new TypeError('the server must speak TLS')
  return server
}

export default fp(certificate, {
  name: 'certificate',
  fastify: '5.x',
  dependencies: ['metrics'],
})
