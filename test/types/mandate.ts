// What a team's code may do with a request, as the compiler sees it: read what was granted, and replace nothing.

import type { FastifyRequest } from 'fastify'
import type { Mandate } from '../../lib/mandate.ts'
// For its augmentation of Fastify's types.
import '../../plugins/passage.ts'

declare module 'caracal-gateway' {
  interface MandateClaims {
    readonly tenant?: string
  }
}

export function reads(request: FastifyRequest): [string, string, string | undefined] {
  const { mandate, resource, binding, operation } = request
  const zone: string = mandate.zoneId
  const granted: boolean = mandate.scopes.has(operation?.scope ?? '')
  return [zone, resource, granted ? binding?.zone : mandate.claims.tenant]
}

export function replaces(request: FastifyRequest, mandate: Mandate): void {
  // @ts-expect-error -- the mandate is what was verified
  request.mandate = mandate
  // @ts-expect-error -- so is the resource
  request.resource = 'resource://other'
  // @ts-expect-error -- and the binding
  request.binding = undefined
  // @ts-expect-error -- and the operation
  request.operation = undefined
  // @ts-expect-error -- its parts neither
  request.mandate.zoneId = 'zone-2'
  // @ts-expect-error -- nor its claims
  request.mandate.claims['sub'] = 'somebody'
  // @ts-expect-error -- nor a team's own claim
  request.mandate.claims.tenant = 'other'
  // @ts-expect-error -- a scope cannot be added
  request.mandate.scopes.add('admin')
  // @ts-expect-error -- a target cannot be added
  request.mandate.target?.push('resource://other')
  // @ts-expect-error -- an anchor cannot be taken away
  request.mandate.anchors.sid = 'other'
  // @ts-expect-error -- a binding is the operator's
  if (request.binding !== undefined) request.binding.enforcement = 'observe'
}

export function misreads(request: FastifyRequest): void {
  // @ts-expect-error -- a claim that nobody declared is unknown
  const sub: string = request.mandate.claims['sub']
  // @ts-expect-error -- there is no binding without a source
  const { zone } = request.binding
  void [sub, zone]
}
