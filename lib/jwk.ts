// Guarantees that nothing but an EC P-256 key published for ES256 ever verifies a mandate.

import { createPublicKey } from 'node:crypto'

/** How many ES256 keys of one set are looked at. A zone publishes one, or two during a rotation. */
export const MAX_KEYS = 100

/** A public key that may verify mandates, without any member that verification does not need. */
export interface VerificationJwk {
  readonly kty: 'EC'
  readonly crv: 'P-256'
  readonly alg: 'ES256'
  readonly kid: string
  /** Coordinates, 32 bytes each in base64url (RFC 7518 section 6.2.1). */
  readonly x: string
  readonly y: string
}

/** 32 bytes in base64url, without padding. */
const COORDINATE_LENGTH = 43

/**
 * The PEM text (SubjectPublicKeyInfo) of a JWK, when that JWK may verify mandates.
 *
 * @param value one member of a set's `keys`, of any shape
 * @returns undefined when the key is of another kind, or its point is not on the curve
 */
export function publicKeyPem(value: unknown): string | undefined {
  const jwk = verificationJwk(value)
  return jwk && toPem(jwk)
}

/**
 * The keys of a JWK set (RFC 7517 section 5) that may verify mandates, by `kid`.
 *
 * Every other member of the set is ignored. The first usable key of a `kid` wins; no more than
 * {@link MAX_KEYS} candidates are tried.
 *
 * @param document the parsed answer, of any shape
 * @returns undefined when the document is no JWK set at all
 */
export function usableKeys(document: unknown): Map<string, VerificationJwk> | undefined {
  if (!isObject(document) || !Array.isArray(document.keys)) return undefined
  const usable = new Map<string, VerificationJwk>()
  let tried = 0
  for (const value of document.keys) {
    const jwk = verificationJwk(value)
    if (jwk === undefined || usable.has(jwk.kid)) continue
    // Each try costs a point check, and the set is as long as its sender likes.
    if (++tried > MAX_KEYS) break
    if (toPem(jwk) !== undefined) usable.set(jwk.kid, jwk)
  }
  return usable
}

function verificationJwk(value: unknown): VerificationJwk | undefined {
  if (!isObject(value)) return undefined
  const { kty, crv, alg, use, kid, x, y } = value
  if (kty !== 'EC' || crv !== 'P-256' || alg !== 'ES256') return undefined
  if (use !== undefined && use !== 'sig') return undefined
  // get-jwks builds a URI component from the kid, which throws on a lone surrogate.
  if (typeof kid !== 'string' || !kid.isWellFormed()) return undefined
  if (!isCoordinate(x) || !isCoordinate(y)) return undefined
  return { kty, crv, alg, kid, x, y }
}

function toPem({ kty, crv, x, y }: VerificationJwk): string | undefined {
  try {
    const key = createPublicKey({ format: 'jwk', key: { kty, crv, x, y } })
    return key.export({ type: 'spki', format: 'pem' }).toString()
  } catch {
    return undefined
  }
}

function isCoordinate(value: unknown): value is string {
  return typeof value === 'string' && value.length === COORDINATE_LENGTH
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}
