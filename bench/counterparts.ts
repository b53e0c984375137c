// What a gateway under measurement talks to, each a process of its own.
import { DEV_ISSUER } from '../dev/sts.ts'
import { KEYS } from '../test/gateway/harness.ts'
import { type Cleanup, startRedis, type TestRedis } from '../test/redis.ts'
import { startServer } from './processes.ts'

/** The resource that the STS routes to the upstream. */
export const RESOURCE = 'resource://bench'

/** Redis, STS and upstream. */
export interface Counterparts {
  readonly redis: TestRedis
  /** URL of the STS, where mandates for {@link RESOURCE} are minted too. */
  readonly sts: string
  readonly upstream: string
  /** Environment of a gateway, as strict as in production. */
  readonly env: Readonly<Record<string, string>>
}

/** Starts them; they end with the benchmark. */
export async function startCounterparts(ends: Cleanup): Promise<Counterparts> {
  const redis = await startRedis(ends)
  const { said: port } = await startServer(ends, 'streams-upstream.ts', {}, /^(\d+)$/)
  const upstream = `http://127.0.0.1:${port}`
  const { said: sts } = await startServer(
    ends,
    '../dev/sts-server.ts',
    { PORT: '0', RESOURCE, UPSTREAM_URL: upstream, GATEWAY_STS_HMAC_KEY: KEYS.sts },
    /(http:\S+)$/,
  )
  const env = {
    CARACAL_MODE: 'stable',
    STS_URL: sts,
    STS_ISSUER: DEV_ISSUER,
    REDIS_URL: redis.url,
    GATEWAY_STS_HMAC_KEY: KEYS.sts,
    STREAMS_HMAC_KEY: KEYS.streams,
    AUDIT_HMAC_KEY: KEYS.audit,
  }
  return { redis, sts, upstream, env }
}
