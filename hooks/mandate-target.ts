// Denies a mandate that was made for other resources.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies a `target` claim that lacks the resource. */
export function denyMandateTarget(): Check {
  return ({ mandate, resource }) => {
    if (mandate.target !== undefined && !mandate.target.includes(resource)) {
      throw new Denial('mandate_target')
    }
  }
}
