// Denies a call that its resource does not declare.
import type { FastifyRequest } from 'fastify'
import { Denial } from '../denial.ts'
import type { Bindings } from '../lib/bindings.ts'
import type { Check, Passage } from '../plugins/passage.ts'
import { afterReread } from './reread.ts'
import { judgeBinding } from './unbound-resource.ts'

/** Denies an operation that an enforced resource does not declare; an observed one only notes it. */
export function denyUndeclaredOperation(
  bindings: Bindings,
  onWouldDeny: (check: string) => void,
): Check {
  return (request, passage) => {
    const denial = judgeOperation(request, passage, onWouldDeny)
    if (denial === undefined) return
    const { mandate, resource } = request
    return afterReread(
      denial,
      bindings.reread(mandate.zoneId, resource),
      () =>
        judgeBinding(bindings, request, passage) ?? judgeOperation(request, passage, onWouldDeny),
    )
  }
}

/** Establishes the operation of a request by its binding; a denial when it is not declared. */
export function judgeOperation(
  { method, resource, binding }: FastifyRequest,
  passage: Passage,
  onWouldDeny: (check: string) => void,
): Denial | undefined {
  passage.operation = undefined
  if (binding === undefined || binding.enforcement === 'transport_uniform') return undefined
  const path = passage.path?.decoded ?? ''
  passage.operation = binding.operation(method, path)
  if (passage.operation !== undefined) return undefined
  if (binding.enforcement === 'enforced') {
    return new Denial('undeclared_operation', {
      description: `operation ${method} ${path} is not declared for resource ${resource}`,
    })
  }
  passage.wouldDeny = 'undeclared_operation'
  onWouldDeny('undeclared_operation')
  return undefined
}
