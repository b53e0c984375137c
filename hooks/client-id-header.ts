// Denies a caller that says who it is beside its token.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies any `X-Caracal-Client-ID`, an empty one included. */
export function denyClientIdHeader(): Check {
  return ({ raw }) => {
    if (raw.headers['x-caracal-client-id'] !== undefined) throw new Denial('client_id_header')
  }
}
