// Denies what the STS refuses or cannot answer, and keeps the answer of what it grants.
import type { Check } from '../plugins/passage.ts'
import type { Sts } from '../plugins/sts.ts'

/** Exchanges the mandate; the STS plugin throws the denials named `sts_*` (contract section 4). */
export function exchangeMandate(sts: Sts): Check {
  return async ({ mandate, resource, id, method }, passage) => {
    const exchange = {
      zoneId: mandate.zoneId,
      clientId: mandate.clientId,
      token: passage.presented?.token ?? '',
      resource,
      method,
      path: passage.path?.decoded ?? '/',
      requestId: id,
    }
    passage.exchange = await sts.exchange(exchange, passage.signal)
  }
}
