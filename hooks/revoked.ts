// Denies a mandate whose session, agent or delegation was revoked.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'
import type { Revocations } from '../plugins/revocations/index.ts'

/** Denies a mandate one of whose anchors is revoked (contract section 6). */
export function denyRevoked(revocations: Pick<Revocations, 'isRevoked'>): Check {
  return ({ mandate }) => {
    if (revocations.isRevoked(mandate.anchors)) throw new Denial('revoked')
  }
}
