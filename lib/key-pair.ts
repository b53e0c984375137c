/**
 * Guarantees that a certificate and a key that pass here are a pair that TLS can be spoken with.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto'
import { createSecureContext } from 'node:tls'

/** What is wrong with a pair: the rest of a sentence that begins with the name of one. Holds nothing of the texts. */
export interface KeyPairProblem {
  readonly of: 'cert' | 'key'
  readonly rule: string
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g

/** The certificates of a PEM text, at least one; `undefined` when it has none, or one that is no certificate. */
export function readCertificates(pem: string): X509Certificate[] | undefined {
  try {
    const certificates = pem.match(CERTIFICATE)?.map(block => new X509Certificate(block))
    // A block that is cut short would be passed over in silence.
    return certificates?.length === pem.split('-----BEGIN CERTIFICATE-----').length - 1
      ? certificates
      : undefined
  } catch {
    return undefined
  }
}

/**
 * What is wrong with a certificate chain and its private key, PEM each; nothing when TLS can be spoken with them.
 *
 * @param cert `undefined` when it is not to be had, so that the key is judged alone; so is `key`
 */
export function keyPairProblems(
  cert: string | undefined,
  key: string | undefined,
): KeyPairProblem[] {
  const leaf = cert === undefined ? undefined : readCertificates(cert)?.[0]
  const privateKey = key === undefined ? undefined : readPrivateKey(key)
  const problems: KeyPairProblem[] = []
  if (cert !== undefined && leaf === undefined) {
    problems.push({ of: 'cert', rule: 'must name a file of PEM certificates, the leaf first' })
  }
  if (key !== undefined && privateKey === undefined) {
    const rule = 'must name a file with a PEM private key that is not encrypted'
    problems.push({ of: 'key', rule })
  }
  if (leaf === undefined || privateKey === undefined) return problems
  if (!leaf.checkPrivateKey(privateKey)) {
    return [{ of: 'key', rule: 'must be the key of the first certificate' }]
  }
  try {
    createSecureContext({ cert, key })
    return []
  } catch (error) {
    // Too short a key, too weak a signature: what OpenSSL would not use.
    const code = error instanceof Error && 'code' in error ? ` (${String(error.code)})` : ''
    return [{ of: 'cert', rule: `must name a certificate that TLS can be spoken with${code}` }]
  }
}

function readPrivateKey(pem: string): KeyObject | undefined {
  try {
    return createPrivateKey(pem)
  } catch {
    return undefined
  }
}
