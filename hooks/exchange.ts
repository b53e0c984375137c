// Denies what the STS refuses or cannot answer, and keeps the answer of what it grants.
import type { Check } from '../plugins/passage.ts'
import type { Sts } from '../plugins/sts.ts'

/**
 * Exchanges the mandate; the STS plugin throws the denials named `sts_*` (contract section 4).
 *
 * @param onSettled called when the exchange is over although the caller has gone: its evidence is due now
 */
export function exchangeMandate(sts: Sts, onSettled: Check): Check {
  return async (request, passage, reply) => {
    const { mandate, resource, id, method } = request
    passage.exchanging = true
    try {
      passage.exchange = await sts.exchange({
        zoneId: mandate.zoneId,
        clientId: mandate.clientId,
        token: passage.presented?.token ?? '',
        resource,
        method,
        path: passage.path?.decoded ?? '/',
        requestId: id,
      })
    } finally {
      passage.exchanging = false
      if (passage.closed) void onSettled(request, passage, reply)
    }
  }
}
