// Denies at once what the STS could not answer now, and leaves the mandate usable.
import type { Check } from '../plugins/passage.ts'
import type { Sts } from '../plugins/sts.ts'

/** Denies while the STS circuit is open, or half-open with its probe under way (contract section 4). */
export function denyOpenCircuit(sts: Sts): Check {
  return () => {
    const denial = sts.refusal()
    if (denial !== undefined) throw denial
  }
}
