// Denies a call that its resource does not declare.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies an operation that an enforced resource does not declare; an observed one only notes it. */
export function denyUndeclaredOperation(onWouldDeny: (check: string) => void): Check {
  return ({ method, resource, binding }, passage) => {
    if (binding === undefined || binding.enforcement === 'transport_uniform') return
    const path = passage.path?.decoded ?? ''
    passage.operation = binding.operation(method, path)
    if (passage.operation !== undefined) return
    if (binding.enforcement === 'enforced') {
      throw new Denial('undeclared_operation', {
        description: `operation ${method} ${path} is not declared for resource ${resource}`,
      })
    }
    passage.wouldDeny = 'undeclared_operation'
    onWouldDeny('undeclared_operation')
  }
}
