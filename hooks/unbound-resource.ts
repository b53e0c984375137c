// Denies a resource that the mandate's zone does not have.
import type { FastifyRequest } from 'fastify'
import { Denial } from '../denial.ts'
import type { Bindings } from '../lib/bindings.ts'
import type { Check, Passage } from '../plugins/passage.ts'
import { afterReread } from './reread.ts'

/** Denies a resource without a binding, where a binding source is configured, and establishes the binding. */
export function denyUnboundResource(bindings: Bindings): Check {
  return (request, passage) => {
    if (!bindings.configured) return
    const denial = judgeBinding(bindings, request, passage)
    if (denial === undefined) return
    const { mandate, resource } = request
    return afterReread(denial, bindings.reread(mandate.zoneId, resource), () =>
      judgeBinding(bindings, request, passage),
    )
  }
}

/** Establishes the binding of a request; a denial when there is none. */
export function judgeBinding(
  bindings: Bindings,
  { mandate, resource }: FastifyRequest,
  passage: Passage,
): Denial | undefined {
  passage.binding = bindings.find(mandate.zoneId, resource)
  return passage.binding === undefined ? new Denial('unbound_resource') : undefined
}
