/**
 * Every check, in order: cheapest and most certain first, the mandate spent last (contract section 2).
 *
 * The order is policy. Nothing behind a check runs before it, and a check that is not listed here does not run.
 */
import type { FastifyInstance } from 'fastify'
import type { Check as CheckName } from '../denial.ts'
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

/** A check, and the denials that it is there for, in their order. */
export interface Step {
  readonly run: Check
  readonly denies: readonly CheckName[]
}

const step = (run: Check, ...denies: CheckName[]): Step => ({ run, denies })

/** The checks that leave no mark, in order; they run as `onRequest` hooks. */
export function requestChecks(app: FastifyInstance, options: CheckOptions): Step[] {
  const { meters, bindings } = app
  const wouldDeny = (check: string) => meters.wouldDeny(check)
  return [
    step(app.overload.admit, 'overloaded'),
    step(denyMalformedRequest(), 'malformed_request'),
    step(denyStaleRevocations(app.revocations), 'revocation_state_unavailable'),
    step(denyWithoutEvidence(app.audit), 'evidence_unavailable'),
    step(denyMissingBearer(), 'missing_bearer'),
    step(denyOversizedBearer(), 'oversized_bearer'),
    step(denyMalformedBearer(), 'malformed_bearer'),
    step(denyExpiringBearer(options.now), 'expiring_bearer'),
    step(denyClientIdHeader(), 'client_id_header'),
    step(denyMissingResourceHeader(), 'missing_resource_header'),
    step(denyMissingZone(), 'missing_zone'),
    step(denyMissingClient(), 'missing_client'),
    step(denyPathTraversal(), 'path_traversal'),
    step(denyUnknownZone(bindings), 'unknown_zone'),
    step(denyInvalidSignature(app.jwks, app.stages), 'keys_unavailable', 'invalid_signature'),
    step(denyMandateUse(options.mandateUses), 'mandate_use'),
    step(denyMandateTarget(), 'mandate_target'),
    step(denyMissingTokenId(), 'missing_token_id'),
    step(denyRevoked(app.revocations), 'revoked'),
    // From the same moment on a revocation finds the request itself: no message can fall between.
    step(app.liveRequests.enter),
    step(denyUnboundResource(bindings), 'unbound_resource'),
    step(denyUndeclaredOperation(bindings, wouldDeny), 'undeclared_operation'),
    step(denyMissingScope(bindings, wouldDeny), 'missing_scope'),
    step(denyOpenCircuit(app.sts), 'sts_circuit_open'),
    step(denyTooLargeRequest(options.maxRequestBytes), 'request_too_large'),
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
