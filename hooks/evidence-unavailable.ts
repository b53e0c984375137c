// Denies every request that could leave no evidence.
import { Denial } from '../denial.ts'
import { joinedLines } from '../lib/headers.ts'
import { traceContext } from '../lib/trace.ts'
import type { Audit } from '../plugins/audit/index.ts'
import type { Evidence } from '../plugins/evidence.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies while audit evidence cannot be kept (contract section 8). */
export function denyWithoutEvidence(audit: Pick<Audit, 'accepting'>): Check {
  return () => {
    if (!audit.accepting()) throw new Denial('evidence_unavailable')
  }
}

/** Writes that the request is about to be dispatched, and denies it when that cannot be written. Comes last of all. */
export function denyWithoutIntent(evidence: Pick<Evidence, 'intend'>): Check {
  return (request, passage, reply) => {
    // Begun here: the intent tells the trace that the upstream will see.
    passage.trace =
      passage.spans?.trace ?? traceContext(joinedLines(request.raw.headers['traceparent']))
    return evidence.intend(request, passage, reply)
  }
}
