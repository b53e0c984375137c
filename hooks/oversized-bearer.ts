// Denies a token too large to be worth reading.
import { Denial } from '../denial.ts'
import { MAX_BEARER_BYTES } from '../lib/bearer.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies a bearer token over 4096 bytes; a header is latin1 text, so its length is its bytes. */
export function denyOversizedBearer(): Check {
  return (_request, { bearer = '' }) => {
    if (bearer.length > MAX_BEARER_BYTES) throw new Denial('oversized_bearer')
  }
}
