// Denies what the STS refuses or cannot answer, and keeps the answer of what it grants.
import type { FastifyRequest } from 'fastify'
import type { ExchangeRequest } from '../lib/exchange.ts'
import type { Check, Passage } from '../plugins/passage.ts'
import type { Stages } from '../plugins/stages.ts'
import type { Sts } from '../plugins/sts.ts'

/** The exchange of a request that has passed every check (contract section 4). */
export function exchangeOf(
  { mandate, resource, id, method }: FastifyRequest,
  passage: Passage,
): ExchangeRequest {
  return {
    zoneId: mandate.zoneId,
    clientId: mandate.clientId,
    token: passage.presented?.token ?? '',
    resource,
    method,
    path: passage.path?.decoded ?? '/',
    requestId: id,
  }
}

/** Exchanges the mandate; the STS plugin throws the denials named `sts_*` (contract section 4). */
export function exchangeMandate(sts: Sts, stages: Stages): Check {
  return async (request, passage) => {
    const exchange = exchangeOf(request, passage)
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
