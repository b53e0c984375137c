/**
 * Reads what a bearer token claims, before anything of it is trusted (contract section 2).
 */
import { isUtf8 } from 'node:buffer'
import { isRecord } from './exchange.ts'

/** Longest bearer token, in bytes. */
export const MAX_BEARER_BYTES = 4096

/** Latest `exp`: 9999-12-31T23:59:59Z, the last second that RFC 3339 can write. */
const MAX_EXP = 253_402_300_799

/** A token as presented: its parts, none of them verified. */
export interface PresentedToken {
  /** The token itself. Never logged. */
  readonly token: string
  readonly header: Readonly<Record<string, unknown>>
  readonly claims: Readonly<Record<string, unknown>>
  /** Claim `exp`, unix seconds, an integer in range. */
  readonly exp: number
}

/**
 * The token of an `Authorization` header, or `undefined` when there is none: absent, another scheme, empty.
 */
export function bearerToken(authorization: string | undefined): string | undefined {
  if (authorization === undefined || authorization.length < 8) return undefined
  if (authorization.charCodeAt(6) !== 0x20) return undefined
  if (authorization.slice(0, 6).toLowerCase() !== 'bearer') return undefined
  const token = authorization.slice(7).trim()
  return token === '' ? undefined : token
}

/**
 * Splits and reads a compact JWS (RFC 7515 section 7.1), or returns `undefined` when it is malformed: not three
 * parts, header or payload no JSON object in UTF-8, or `exp` no integer from 1 to the year 9999.
 *
 * A repeated JSON name counts as its last value here and in the verified claims alike: both come from `JSON.parse`.
 */
export function readBearer(token: string): PresentedToken | undefined {
  const first = token.indexOf('.')
  const second = token.indexOf('.', first + 1)
  if (first <= 0 || second === -1 || token.indexOf('.', second + 1) !== -1) return undefined
  const header = jsonObject(token.slice(0, first))
  if (header === undefined) return undefined
  const claims = jsonObject(token.slice(first + 1, second))
  if (claims === undefined) return undefined
  const exp = claims['exp']
  if (typeof exp !== 'number' || !Number.isInteger(exp) || exp < 1 || exp > MAX_EXP) {
    return undefined
  }
  return { token, header, claims, exp }
}

function jsonObject(segment: string): Record<string, unknown> | undefined {
  if (!isBase64Url(segment)) return undefined
  const bytes = Buffer.from(segment, 'base64url')
  if (!isUtf8(bytes)) return undefined
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'))
    return isRecord(value) ? value : undefined
  } catch {
    return undefined
  }
}

/** Node decodes leniently: it skips what is not base64url, so that two different texts would read alike. */
function isBase64Url(segment: string): boolean {
  for (let i = 0; i < segment.length; i++) {
    const code = segment.charCodeAt(i)
    const allowed =
      (code >= 0x61 && code <= 0x7a) ||
      (code >= 0x41 && code <= 0x5a) ||
      (code >= 0x30 && code <= 0x39) ||
      code === 0x2d ||
      code === 0x5f
    if (!allowed) return false
  }
  return segment.length % 4 !== 1
}
