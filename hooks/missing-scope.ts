// Denies a mandate without the scope that the operation needs.
import type { FastifyRequest } from 'fastify'
import { Denial } from '../denial.ts'
import type { Bindings } from '../lib/bindings.ts'
import type { Check, Passage } from '../plugins/passage.ts'
import { afterReread } from './reread.ts'
import { judgeBinding } from './unbound-resource.ts'
import { judgeOperation } from './undeclared-operation.ts'

/** Denies a mandate that lacks the operation's scope; on an observed resource only notes it. */
export function denyMissingScope(bindings: Bindings, onWouldDeny: (check: string) => void): Check {
  return (request, passage) => {
    const denial = judgeScope(request, passage, onWouldDeny)
    if (denial === undefined) return
    const { mandate, resource } = request
    // Another scope may be needed now, but the call may also be declared, or the resource bound, no longer.
    return afterReread(
      denial,
      bindings.reread(mandate.zoneId, resource),
      () =>
        judgeBinding(bindings, request, passage) ??
        judgeOperation(request, passage, onWouldDeny) ??
        judgeScope(request, passage, onWouldDeny),
    )
  }
}

function judgeScope(
  { mandate, binding, operation }: FastifyRequest,
  passage: Passage,
  onWouldDeny: (check: string) => void,
): Denial | undefined {
  const scope = operation?.scope ?? ''
  if (scope === '' || mandate.scopes.has(scope)) return undefined
  if (binding?.enforcement === 'enforced') {
    return new Denial('missing_scope', { description: `scope ${scope} is missing` })
  }
  passage.wouldDeny = 'missing_scope'
  onWouldDeny('missing_scope')
  return undefined
}
