// Denies every request while nobody knows what has been revoked.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'
import type { Revocations } from '../plugins/revocations/index.ts'

/** Denies while the revocation state is not fresh (contract section 6). */
export function denyStaleRevocations(revocations: Pick<Revocations, 'isFresh'>): Check {
  return () => {
    if (!revocations.isFresh()) throw new Denial('revocation_state_unavailable')
  }
}
