// Denies a destination, or a credential for it, that the STS should not have named.
import { Denial } from '../denial.ts'
import { DirectiveError, directiveFacts, directiveFor, parseDirective } from '../lib/directive.ts'
import type { Egress } from '../plugins/egress.ts'
import type { Check } from '../plugins/passage.ts'

/**
 * Denies `unrouted_resource`, `unsafe_upstream`, `credential_host` and `request_build_failed`, in this order, and
 * establishes the directive. A name's addresses are judged later, when it is dialled (contract section 7).
 */
export function denyUnsafeUpstream(egress: Egress): Check {
  return ({ resource }, passage) => {
    const { exchange } = passage
    const raw = exchange && directiveFor(exchange.upstreams, resource)
    if (raw === undefined) throw new Denial('unrouted_resource')
    const url = raw['url']
    const { upstream, permitted } = egress.destination(typeof url === 'string' ? url : '')
    passage.facts = directiveFacts(raw, upstream)
    try {
      const allowed = permitted ? upstream : undefined
      passage.directive = parseDirective(raw, exchange?.accessToken ?? '', allowed)
    } catch (cause) {
      if (cause instanceof DirectiveError) throw new Denial(cause.check, { cause })
      throw cause
    }
  }
}
