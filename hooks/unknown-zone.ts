// Denies a zone that no binding names, before its keys would be fetched: a stranger's zone costs no request to the STS.
import { Denial } from '../denial.ts'
import type { Bindings } from '../lib/bindings.ts'
import type { Check } from '../plugins/passage.ts'
import { afterReread } from './reread.ts'

/** Denies a zone without a binding where a binding source is configured. */
export function denyUnknownZone(bindings: Bindings): Check {
  return (_request, { presented }) => {
    if (!bindings.configured) return
    const zone = presented?.claims['zone_id']
    if (typeof zone !== 'string') throw new Denial('unknown_zone')
    if (bindings.hasZone(zone)) return
    const denial = new Denial('unknown_zone')
    return afterReread(denial, bindings.reread(zone), () =>
      bindings.hasZone(zone) ? undefined : denial,
    )
  }
}
