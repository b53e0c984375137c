// Denies a path that climbs, or that two readers could read differently.
import { Denial } from '../denial.ts'
import { canonicalPath, requestTarget } from '../lib/path.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies a path that has no canonical form (contract section 5). */
export function denyPathTraversal(): Check {
  return (request, passage) => {
    passage.target = requestTarget(request.originalUrl)
    passage.path = canonicalPath(passage.target.path)
    if (passage.path === undefined) throw new Denial('path_traversal')
  }
}
