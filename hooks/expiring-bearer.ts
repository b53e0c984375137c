// Denies a token that could expire while its request is under way.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'

/** Seconds that a mandate must have left on arrival. */
const PRE_FLIGHT_SECONDS = 35

/** Denies a token whose `exp` is past, or less than 35 s away. */
export function denyExpiringBearer(now: () => number): Check {
  return (_request, { presented }) => {
    if (presented === undefined || presented.exp * 1000 - now() < PRE_FLIGHT_SECONDS * 1000) {
      throw new Denial('expiring_bearer')
    }
  }
}
