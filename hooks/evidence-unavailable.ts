// Denies every request that could leave no evidence.
import { Denial } from '../denial.ts'
import type { Audit } from '../plugins/audit.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies while audit evidence cannot be kept (contract section 8). */
export function denyWithoutEvidence(audit: Audit): Check {
  return () => {
    if (!audit.accepting()) throw new Denial('evidence_unavailable')
  }
}
