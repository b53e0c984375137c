// Denies a token that names no client.
import { Denial } from '../denial.ts'
import { isIdentifier } from '../lib/mandate.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies a `client_id` claim that is no identifier. */
export function denyMissingClient(): Check {
  return (_request, { presented }) => {
    if (!isIdentifier(presented?.claims['client_id'])) throw new Denial('missing_client')
  }
}
