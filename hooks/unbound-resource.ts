// Denies a resource that the mandate's zone does not have.
import { Denial } from '../denial.ts'
import type { Bindings } from '../lib/bindings.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies a resource without a binding, where a binding source is configured, and establishes the binding. */
export function denyUnboundResource(bindings: Bindings): Check {
  return ({ mandate, resource }, passage) => {
    if (!bindings.configured) return
    passage.binding = bindings.find(mandate.zoneId, resource)
    if (passage.binding === undefined) throw new Denial('unbound_resource')
  }
}
