// Makes self-signed certificates for TLS tests, so that no private key lies in the repository.

import { generateKeyPairSync, randomBytes, sign } from 'node:crypto'
import { isIPv4 } from 'node:net'

/** A private key and its self-signed certificate, PEM; the certificate is its own authority. */
export interface TestCertificate {
  readonly key: string
  readonly cert: string
}

const NOT_BEFORE = '200101000000Z'
const EXPIRED = '210101000000Z'
const FAR_AWAY = '491231235959Z'

/**
 * A self-signed certificate, EC P-256 unless `rsaBits` is given.
 *
 * @param names DNS names and IPv4 addresses of the server
 */
export function createCertificate(
  names: readonly string[] = ['localhost', '127.0.0.1'],
  options: { readonly expired?: boolean; readonly rsaBits?: number } = {},
): TestCertificate {
  const { rsaBits } = options
  const { privateKey, publicKey } =
    rsaBits === undefined
      ? generateKeyPairSync('ec', { namedCurve: 'P-256' })
      : generateKeyPairSync('rsa', { modulusLength: rsaBits })
  const algorithm =
    rsaBits === undefined
      ? sequence(oid('2a8648ce3d040302')) // ecdsa-with-SHA256
      : sequence(oid('2a864886f70d01010b'), Buffer.of(5, 0)) // sha256WithRSAEncryption
  const commonName = der(0x0c, Buffer.from(names[0] ?? 'localhost'))
  const name = sequence(der(0x31, sequence(oid('550403'), commonName)))
  const notAfter = options.expired ? EXPIRED : FAR_AWAY
  const tbs = sequence(
    der(0xa0, integer(Buffer.of(2))), // version 3
    integer(Buffer.concat([Buffer.of(1), randomBytes(8)])),
    algorithm,
    name,
    sequence(utcTime(NOT_BEFORE), utcTime(notAfter)),
    name,
    publicKey.export({ format: 'der', type: 'spki' }),
    der(0xa3, sequence(basicConstraints(), subjectAltName(names))),
  )
  const signature = sign('sha256', tbs, privateKey)
  const certificate = sequence(tbs, algorithm, der(0x03, Buffer.of(0), signature))
  const base64 = certificate.toString('base64').match(/.{1,64}/g) ?? []
  return {
    key: privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
    cert: `-----BEGIN CERTIFICATE-----\n${base64.join('\n')}\n-----END CERTIFICATE-----\n`,
  }
}

function basicConstraints(): Buffer {
  const isAuthority = sequence(der(0x01, Buffer.of(0xff)))
  return sequence(oid('551d13'), der(0x04, isAuthority))
}

function subjectAltName(names: readonly string[]): Buffer {
  const entries = names.map(name =>
    isIPv4(name)
      ? der(0x87, Buffer.from(name.split('.').map(Number)))
      : der(0x82, Buffer.from(name)),
  )
  return sequence(oid('551d11'), der(0x04, sequence(...entries)))
}

/** One DER element: tag, length, contents. */
function der(tag: number, ...contents: readonly Buffer[]): Buffer {
  const content = Buffer.concat(contents)
  const { length } = content
  const head =
    length < 0x80
      ? [tag, length]
      : length < 0x100
        ? [tag, 0x81, length]
        : [tag, 0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.from(head), content])
}

const sequence = (...contents: readonly Buffer[]) => der(0x30, ...contents)
const integer = (bytes: Buffer) => der(0x02, bytes)
const oid = (hex: string) => der(0x06, Buffer.from(hex, 'hex'))
const utcTime = (text: string) => der(0x17, Buffer.from(text))
