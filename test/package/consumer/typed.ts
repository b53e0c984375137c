// A plugin and a service of somebody else's in TypeScript: what the package's types must allow, without a cast, and what
// they must not. Compiled and run by `embed.test.ts` in a project that has the package installed.

import {
  type Binding,
  type BindingSource,
  type Check,
  type Config,
  ConfigError,
  createGateway,
  DENIALS,
  Denial,
  loadConfig,
  type Mandate,
  type Operation,
} from 'caracal-gateway'
import type { FastifyInstance, FastifyRequest } from 'fastify'

declare module 'caracal-gateway' {
  interface MandateClaims {
    tenant?: string
  }
}

const operation: Operation = { method: 'GET', path: '/hello', scope: '' }

/** A source of one binding. */
const source: BindingSource = {
  hasZone: zone => zone === 'zone-1',
  find(zone, resource): Binding | undefined {
    if (zone !== 'zone-1') return undefined
    return {
      zone,
      resource,
      enforcement: 'enforced',
      preserveEncodedSlash: false,
      operation: (method, path) =>
        method === operation.method && path === operation.path ? operation : undefined,
    }
  },
  healthy: () => true,
  stale: false,
  size: 1,
}

/** What a team's check reads of a request. */
export function check(request: FastifyRequest): void {
  const mandate: Mandate = request.mandate
  const tenant: string | undefined = mandate.claims.tenant
  if (tenant === undefined && request.operation?.scope !== '') {
    throw new Denial({
      check: 'tenant',
      status: 403,
      error: 'access_denied',
      description: 'tenant',
    })
  }
  // @ts-expect-error -- a mandate cannot be replaced
  request.mandate = mandate
}

// @ts-expect-error -- no such check
const unknown: Check = 'no_such_check'

const { MANDATE = '', RESOURCE = '' } = process.env
const config: Config = loadConfig(process.env)

/** Never called. */
export function change(): void {
  // @ts-expect-error -- a configuration is read-only
  config.port = 1
}

const app: FastifyInstance = await createGateway(config)
app.bindings.use(source)
const headers = { authorization: `Bearer ${MANDATE}`, 'x-caracal-resource': RESOURCE }
const refused = await app.inject({ method: 'DELETE', url: '/hello', headers })
const passed = await app.inject({ url: '/hello', headers })
await app.close()

const status: 401 = DENIALS.replayed.status
process.stdout.write(
  JSON.stringify({
    refused: refused.json(),
    passed: passed.statusCode,
    status,
    name: new ConfigError(['PORT']).name,
    unknown,
  }),
)
