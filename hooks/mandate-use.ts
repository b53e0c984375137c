// Denies a token that was not made for a gateway.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies a `use` claim that `MANDATE_USES` does not accept. */
export function denyMandateUse(accepted: readonly string[]): Check {
  return ({ mandate }) => {
    if (!accepted.includes(mandate.use)) throw new Denial('mandate_use')
  }
}
