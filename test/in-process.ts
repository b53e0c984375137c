// The gateway inside the test's own process, with its in-process store, a strict STS and a recording upstream.

import type { FastifyInstance } from 'fastify'
import { createGateway, loadConfig } from '../app.ts'
import { createDevSts, type Claims, type DevSts } from '../dev/sts.ts'
import { RESOURCE, startUpstream, type Upstream, ZONE } from './gateway/harness.ts'
import type { Cleanup } from './redis.ts'

/** What a gateway talks to. */
export interface World {
  readonly sts: DevSts
  readonly upstream: Upstream
  /** A mandate for {@link RESOURCE}, with these claims laid over it. */
  mint(claims?: Claims): string
}

/** Starts an STS and an upstream; they end with the test. */
export async function startWorld(t: Cleanup): Promise<World> {
  const upstream = await startUpstream(t)
  const sts = createDevSts({
    zones: [ZONE, 'zone-broken'],
    resources: { [RESOURCE]: { url: upstream.url, auth_mode: 'none' } },
    record: true,
  })
  await sts.listen(0)
  t.after(() => sts.close())
  const mint = (claims: Claims = {}) => sts.mint({ zone_id: ZONE, target: [RESOURCE], ...claims })
  return { sts, upstream, mint }
}

/** Starts a gateway that uses them; it ends with the test. */
export async function createTestGateway(
  t: Cleanup,
  world: World,
  env: Readonly<Record<string, string>> = {},
): Promise<FastifyInstance> {
  const app = await createGateway(
    loadConfig({ CARACAL_MODE: 'dev', LOG_LEVEL: 'silent', STS_URL: world.sts.url, ...env }),
  )
  t.after(() => app.close())
  await app.ready()
  return app
}
