// Denies a mandate that could not be told from its own replay.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies a mandate without a `jti`. */
export function denyMissingTokenId(): Check {
  return ({ mandate }) => {
    if (mandate.jti === '') throw new Denial('missing_token_id')
  }
}
