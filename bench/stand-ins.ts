// Checks that do no work, under the names of those that do: a rung of the ladder runs the real ones as far as it goes, and
// these for the rest (`substitute.ts`). They establish what the route behind them needs.
import { denyWithoutIntent as writeIntent } from '../hooks/evidence-unavailable.ts'
import type { Step } from '../hooks/index.ts'
import { bearerToken, readBearer } from '../lib/bearer.ts'
import { type Directive, parseDirective } from '../lib/directive.ts'
import { type Mandate, mandateOf } from '../lib/mandate.ts'
import { canonicalPath, requestTarget } from '../lib/path.ts'
import { parseUpstreamUrl } from '../lib/upstream-url.ts'
import type { Check } from '../plugins/passage.ts'

export { denyWithoutEvidence } from '../hooks/evidence-unavailable.ts'

/** In place of the signature: every request has the first one's mandate. */
export function denyInvalidSignature(): Check {
  let mandate: Mandate | undefined
  return ({ raw }, passage) => {
    mandate ??= mandateIn(raw.headers.authorization)
    passage.mandate = mandate
  }
}

/** In place of the replay check: nothing is spent. */
export function denyReplayed(): Check {
  return () => undefined
}

/** In place of the exchange: nobody is asked. */
export function exchangeMandate(): Check {
  return () => undefined
}

/** In place of the egress check: one directive for all. */
export function denyUnsafeUpstream(): Check {
  let directive: Directive | undefined
  return ({ raw }, passage) => {
    directive ??= directiveWith(bearerToken(raw.headers.authorization) ?? '')
    passage.directive = directive
  }
}

/** In place of the intent: no evidence, which a request without an exchange does not leave. */
export function denyWithoutIntent(): Check {
  const withoutEvidence = writeIntent({ intend: () => undefined })
  return (request, passage, reply) => {
    passage.exchange = undefined
    return withoutEvidence(request, passage, reply)
  }
}

/** In place of all checks that leave no mark. */
export function requestChecks(): Step[] {
  const path = canonicalPath('/v1/x')
  const target = requestTarget('/v1/x')
  const establish: Check = (_request, passage) => {
    passage.target = target
    passage.path = path
  }
  return [denyInvalidSignature(), establish].map(run => ({ run, denies: [] }))
}

/** In place of the step that spends the mandate. */
export function spend(): Check {
  return denyReplayed()
}

/** In place of the steps that make an upstream request of it. */
export function exchangeChecks(): Check[] {
  return [denyUnsafeUpstream()]
}

/** In place of the last step before dispatch. */
export function intend(): Check {
  return denyWithoutIntent()
}

function mandateIn(authorization: string | undefined): Mandate {
  const presented = readBearer(bearerToken(authorization) ?? '')
  if (presented === undefined) throw new Error('the benchmark presents a mandate')
  return mandateOf(presented, presented.claims)
}

function directiveWith(token: string): Directive {
  const upstream = parseUpstreamUrl(process.env['BENCH_UPSTREAM'] ?? '')
  return parseDirective({ auth_mode: 'caracal_jwt' }, token, upstream)
}
