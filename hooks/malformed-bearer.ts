// Denies a token that is no JWT with an expiry.
import { Denial } from '../denial.ts'
import { readBearer } from '../lib/bearer.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies what is no compact JWS over a JSON object with an integer `exp`. */
export function denyMalformedBearer(): Check {
  return (_request, passage) => {
    passage.presented = readBearer(passage.bearer ?? '')
    if (passage.presented === undefined) throw new Denial('malformed_bearer')
  }
}
