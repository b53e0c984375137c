// Mandates that a benchmark signs itself, ahead of the time that is measured.
import {
  createPrivateKey,
  generateKeyPairSync,
  type JsonWebKey,
  randomUUID,
  sign,
} from 'node:crypto'
import { DEV_ISSUER } from '../dev/sts.ts'

/** The zone of all mandates. */
export const ZONE = 'zone-bench'
/** The scope of all mandates. */
export const SCOPE = 'bench:call'

/** A zone's key, in a form that goes to another process. */
export interface SigningKey {
  readonly kid: string
  readonly publicJwk: JsonWebKey
  readonly privateJwk: JsonWebKey
}

/** Seconds: longer than any benchmark. */
const LIFETIME = 2 * 60 * 60

/** A new key. */
export function createSigningKey(): SigningKey {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const kid = randomUUID()
  return {
    kid,
    publicJwk: { ...publicKey.export({ format: 'jwk' }), kid, alg: 'ES256', use: 'sig' },
    privateJwk: privateKey.export({ format: 'jwk' }),
  }
}

/** Signs a mandate for a resource, as the STS would mint it, with these claims laid over it. */
export type Sign = (resource: string, claims?: Readonly<Record<string, unknown>>) => string

/** What signs with a key. */
export function signerOf({ kid, privateJwk }: SigningKey): Sign {
  const key = createPrivateKey({ format: 'jwk', key: privateJwk })
  const head = encoded({ alg: 'ES256', kid, typ: 'JWT' })
  return (resource, claims) => {
    const issuedAt = Math.floor(Date.now() / 1_000)
    const session = randomUUID()
    const payload = encoded({
      iss: DEV_ISSUER,
      aud: DEV_ISSUER,
      sub: 'bench-user',
      sub_type: 'user',
      iat: issuedAt,
      exp: issuedAt + LIFETIME,
      jti: randomUUID(),
      zone_id: ZONE,
      client_id: 'bench-client',
      sid: session,
      root_sid: session,
      use: 'gateway',
      scope: SCOPE,
      target: [resource],
      ...claims,
    })
    const signed = `${head}.${payload}`
    const signature = sign('sha256', Buffer.from(signed), { key, dsaEncoding: 'ieee-p1363' })
    return `${signed}.${signature.toString('base64url')}`
  }
}

function encoded(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url')
}
