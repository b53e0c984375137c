// Puts one check, alone, in front of a route of a real Fastify, and tells what it does to a request.

import assert from 'node:assert/strict'
import Fastify from 'fastify'
import { Denial } from '../../denial.ts'
import type { PresentedToken } from '../../lib/bearer.ts'
import { type Bindings, bindingSet, type Enforcement } from '../../lib/bindings.ts'
import { type Mandate, mandateOf } from '../../lib/mandate.ts'
import { canonicalPath } from '../../lib/path.ts'
import { routedUrl } from '../../lib/request-line.ts'
import type { Stage } from '../../plugins/metrics.ts'
import passagePlugin, { type Check, hook, Passage } from '../../plugins/passage.ts'
import type { Stages } from '../../plugins/stages.ts'

/** A request as it comes to the check. */
export interface Given {
  readonly method?: 'GET' | 'POST'
  readonly url?: string
  readonly headers?: Readonly<Record<string, string>>
  /** In place of what `headers` make. */
  readonly rawHeaders?: readonly string[]
  readonly httpVersion?: string
  /** What the checks before have established. */
  readonly passage?: Partial<Omit<Passage, 'arrivedAt' | 'dispatched'>>
}

/** What became of it. */
export interface Verdict {
  /** The name of the check that denied, or `admitted`. */
  readonly check: string
  readonly denial: Denial | undefined
  readonly passage: Passage
}

/**
 * Runs a check; any error but a `Denial` fails the test, and so does a route that runs behind a denial.
 */
export async function judge(check: Check, given: Given = {}): Promise<Verdict> {
  const app = Fastify({ rewriteUrl: request => routedUrl(request.url ?? '/') })
  const passage = Object.assign(new Passage(), given.passage)
  let denial: Denial | undefined
  let ran = false
  await app.register(passagePlugin)
  app.setErrorHandler((error, _request, reply) => {
    if (!(error instanceof Denial)) throw error
    denial = error
    return reply.code(error.statusCode).send()
  })
  app.addHook('onRequest', (request, _reply, done) => {
    request.passage = passage
    if (given.rawHeaders !== undefined) request.raw.rawHeaders = [...given.rawHeaders]
    if (given.httpVersion !== undefined) request.raw.httpVersion = given.httpVersion
    done()
  })
  app.addHook(
    'onRequest',
    hook(check, () => undefined),
  )
  app.route({
    method: ['GET', 'POST'],
    url: '/*',
    handler: async () => {
      ran = true
      return 'ran'
    },
  })
  const { method = 'GET', url = '/', headers = {} } = given
  const answer = await app.inject({ method, url, headers })
  await app.close()
  assert.notEqual(answer.statusCode, 500, answer.body)
  assert.equal(ran, denial === undefined, 'the route must run exactly when nothing denies')
  return { check: denial?.check ?? 'admitted', denial, passage }
}

/** Stages that are begun with what ended them: `ended`, a status, or what went wrong. */
export function recordedStages(): Stages & { readonly record: [stage: Stage, end: unknown][] } {
  const record: [Stage, unknown][] = []
  return {
    record,
    begin: (_passage, stage) => ({
      trace: undefined,
      end: (status = 0) => record.push([stage, status || 'ended']),
      fail: error => record.push([stage, error]),
    }),
  }
}

/** A token as `readBearer` gives it. */
export function presented(
  claims: Readonly<Record<string, unknown>> = {},
  header: Readonly<Record<string, unknown>> = { alg: 'ES256', kid: 'k' },
): PresentedToken {
  const exp = typeof claims['exp'] === 'number' ? claims['exp'] : 1_790_000_000
  return { token: 'a.b.c', header, claims: { exp, ...claims }, exp }
}

/** A verified mandate with these claims laid over a usual one's. */
export function mandate(claims: Readonly<Record<string, unknown>> = {}): Mandate {
  const all = { zone_id: 'zone-1', client_id: 'client-1', jti: 'j-1', use: 'gateway', ...claims }
  return mandateOf(presented(all), all)
}

export const RESOURCE = 'resource://a'

/** One binding, of {@link RESOURCE} in zone-1. */
export function bindings(enforcement: Enforcement): Bindings {
  const operations = [
    { method: 'GET', path: '/v1/open', scope: '' },
    { method: 'GET', path: '/v1/invoices/:id', scope: 'billing:read' },
  ]
  const definition = { zone: 'zone-1', resource: RESOURCE, enforcement, operations }
  const set = bindingSet([{ ...definition, preserveEncodedSlash: false }])
  return {
    configured: true,
    hasZone: zone => set.hasZone(zone),
    find: (zone, resource) => set.find(zone, resource),
    reread: () => undefined,
    healthy: () => true,
    stale: false,
    size: set.size,
  }
}

/** No binding source at all. */
export const NO_BINDINGS: Bindings = {
  configured: false,
  hasZone: () => false,
  find: () => undefined,
  reread: () => undefined,
  healthy: () => true,
  stale: false,
  size: 0,
}

/** A request for a path of {@link RESOURCE}, enforced so; `undefined`: without a binding. */
export function boundRequest(
  enforcement: Enforcement | undefined,
  path: string,
  scope = '',
): Given {
  return {
    passage: {
      resource: RESOURCE,
      mandate: mandate({ scope }),
      path: canonicalPath(path),
      binding: enforcement && bindings(enforcement).find('zone-1', RESOURCE),
    },
  }
}
