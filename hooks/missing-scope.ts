// Denies a mandate without the scope that the operation needs.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies a mandate that lacks the operation's scope; on an observed resource only notes it. */
export function denyMissingScope(onWouldDeny: (check: string) => void): Check {
  return ({ mandate, binding, operation }, passage) => {
    const scope = operation?.scope ?? ''
    if (scope === '' || mandate.scopes.has(scope)) return
    if (binding?.enforcement === 'enforced') {
      throw new Denial('missing_scope', { description: `scope ${scope} is missing` })
    }
    passage.wouldDeny = 'missing_scope'
    onWouldDeny('missing_scope')
  }
}
