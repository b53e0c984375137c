// Denies a request without a bearer token.
import { Denial } from '../denial.ts'
import { bearerToken } from '../lib/bearer.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies an `Authorization` that is absent, of another scheme, or empty (RFC 6750 section 2.1). */
export function denyMissingBearer(): Check {
  return (request, passage) => {
    passage.bearer = bearerToken(request.raw.headers.authorization)
    if (passage.bearer === undefined) throw new Denial('missing_bearer')
  }
}
