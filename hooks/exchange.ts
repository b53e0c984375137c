// Denies what the STS refuses or cannot answer, and keeps the answer of what it grants.
import type { Check } from '../plugins/passage.ts'
import type { Stages } from '../plugins/stages.ts'
import type { Sts } from '../plugins/sts.ts'

/** Exchanges the mandate; the STS plugin throws the denials named `sts_*` (contract section 4). */
export function exchangeMandate(sts: Sts, stages: Stages): Check {
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
    const stage = stages.begin(passage, 'exchange')
    try {
      passage.exchange = await sts.exchange(exchange, cancel => {
        passage.cancelWait = cancel
      })
    } catch (error) {
      stage.fail(error)
      throw error
    }
    stage.end(200)
  }
}
