// Denies a token that names no zone.
import { Denial } from '../denial.ts'
import { isIdentifier } from '../lib/mandate.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies a `zone_id` claim that is no identifier. */
export function denyMissingZone(): Check {
  return (_request, { presented }) => {
    if (!isIdentifier(presented?.claims['zone_id'])) throw new Denial('missing_zone')
  }
}
