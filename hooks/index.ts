/**
 * Every check, in order: cheapest and most certain first, the mandate spent last (contract section 2).
 *
 * The order is policy. Nothing behind a check runs before it, and a check that is not listed here does not run.
 */
import type { FastifyInstance } from 'fastify'
import type { Check } from '../plugins/passage.ts'
import { denyClientIdHeader } from './client-id-header.ts'
import { denyWithoutEvidence, denyWithoutIntent } from './evidence-unavailable.ts'
import { exchangeMandate } from './exchange.ts'
import { denyExpiringBearer } from './expiring-bearer.ts'
import { denyInvalidSignature } from './invalid-signature.ts'
import { denyMalformedBearer } from './malformed-bearer.ts'
import { denyMalformedRequest } from './malformed-request.ts'
import { denyMandateTarget } from './mandate-target.ts'
import { denyMandateUse } from './mandate-use.ts'
import { denyMissingBearer } from './missing-bearer.ts'
import { denyMissingClient } from './missing-client.ts'
import { denyMissingResourceHeader } from './missing-resource-header.ts'
import { denyMissingScope } from './missing-scope.ts'
import { denyMissingTokenId } from './missing-token-id.ts'
import { denyMissingZone } from './missing-zone.ts'
import { denyOversizedBearer } from './oversized-bearer.ts'
import { denyPathTraversal } from './path-traversal.ts'
import { denyReplayed } from './replayed.ts'
import { denyTooLargeRequest } from './request-too-large.ts'
import { denyRevoked } from './revoked.ts'
import { denyStaleRevocations } from './revocation-state-unavailable.ts'
import { denyOpenCircuit } from './sts-circuit-open.ts'
import { denyUnboundResource } from './unbound-resource.ts'
import { denyUndeclaredOperation } from './undeclared-operation.ts'
import { denyUnknownZone } from './unknown-zone.ts'
import { denyUnsafeUpstream } from './unsafe-upstream.ts'

/** What the checks need of the configuration. */
export interface CheckOptions {
  readonly mandateUses: readonly string[]
  /** Bytes. */
  readonly maxRequestBytes: number
  readonly jtiFailOpen: boolean
  /** Unix time in milliseconds. */
  readonly now: () => number
}

/** The checks that leave no mark, in order; they run as `onRequest` hooks. */
export function requestChecks(app: FastifyInstance, options: CheckOptions): Check[] {
  const { meters, bindings } = app
  const wouldDeny = (check: string) => meters.wouldDeny(check)
  return [
    app.overload.admit,
    denyMalformedRequest(),
    denyStaleRevocations(app.revocations),
    denyWithoutEvidence(app.audit),
    denyMissingBearer(),
    denyOversizedBearer(),
    denyMalformedBearer(),
    denyExpiringBearer(options.now),
    denyClientIdHeader(),
    denyMissingResourceHeader(),
    denyMissingZone(),
    denyMissingClient(),
    denyPathTraversal(),
    denyUnknownZone(bindings),
    denyInvalidSignature(app.jwks, app.stages),
    denyMandateUse(options.mandateUses),
    denyMandateTarget(),
    denyMissingTokenId(),
    denyRevoked(app.revocations),
    // From the same moment on a revocation finds the request itself: no message can fall between.
    app.liveRequests.enter,
    denyUnboundResource(bindings),
    denyUndeclaredOperation(bindings, wouldDeny),
    denyMissingScope(bindings, wouldDeny),
    denyOpenCircuit(app.sts),
    denyTooLargeRequest(options.maxRequestBytes),
  ]
}

/** Spends the mandate; runs as a `preHandler` hook, after any team's `onRequest` and `preValidation` hooks. */
export function spend(app: FastifyInstance, options: CheckOptions): Check {
  const { stages } = app
  return denyReplayed(app.replay, { failOpen: options.jtiFailOpen, now: options.now, stages })
}

/** What makes an upstream request of what was spent, in order; `preHandler` hooks, before any team's own. */
export function exchangeChecks(app: FastifyInstance): Check[] {
  return [exchangeMandate(app.sts, app.stages), denyUnsafeUpstream(app.egress)]
}

/** The last step before dispatch; a `preHandler` hook, after any team's own. */
export function intend(app: FastifyInstance): Check {
  return denyWithoutIntent(app.evidence)
}
