// Guarantees that a mandate verifies only under a key that its zone publishes at the STS, and that
// no stranger's zone or kid makes the gateway hold or fetch more than its limits.

import { createVerifier } from 'fast-jwt'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import buildGetJwks from 'get-jwks'
import { LRUCache } from 'lru-cache'
import { Agent } from 'undici'
import { Denial } from '../denial.ts'
import { MAX_KEYS, publicKeyPem } from '../lib/jwk.ts'
import { KeySetAnswer } from '../lib/key-set-answer.ts'
import { stackless } from '../lib/stackless.ts'
import { type FetchReason, ZoneKeySet } from '../lib/zone-key-set.ts'

/** Verifies a token and returns its claims; whatever it throws means an invalid signature. */
export type Verifier = (token: string) => Record<string, unknown>

/** The zones' keys, as `app.jwks`. */
export interface KeySets {
  /**
   * The verifier of a zone's key: at once when the key is known, else when the zone has told.
   *
   * @returns undefined when the zone answers and has no such key
   * @throws (rejects) `Denial('keys_unavailable')` when the zone's keys cannot be had
   */
  verifier(zone: string, kid: string): Verifier | undefined | Promise<Verifier | undefined>
}

/** Options of the plugin. */
export interface JwksOptions {
  /** `STS_URL`, without a trailing slash. */
  readonly stsUrl: string
  /** Longest time of one fetch, from name look-up to the last byte, in milliseconds. */
  readonly timeout: number
  /** What `iss` must be; without it `iss` is not looked at. */
  readonly issuer?: string | undefined
  /** PEM certificates that the STS's is verified against, instead of the system's. */
  readonly ca?: string | undefined
  /** PEM chain that is shown to an STS that asks for one; goes together with `key`. */
  readonly cert?: string | undefined
  /** PEM private key of `cert`. */
  readonly key?: string | undefined
  /** Called after each fetch (`jwks_refetch_total{reason}`). Must not throw. */
  readonly onFetch?: (reason: FetchReason, ok: boolean) => void
  /** Milliseconds of a clock that is never set back. */
  readonly clock?: () => number
  /** A number from 0 to 1 (1 excluded), for the jitter of waits. */
  readonly random?: () => number
  /** How many zones are held; the least recently used goes. Default 1000. */
  readonly maxZones?: number
}

declare module 'fastify' {
  interface FastifyInstance {
    readonly jwks: KeySets
  }
}

/** Contract section 3. */
const MAX_BYTES = 256 * 1024

async function jwks(app: FastifyInstance, options: JwksOptions): Promise<void> {
  const { stsUrl, timeout, issuer, ca, cert, key, onFetch, maxZones = 1000 } = options
  const { clock = () => performance.now(), random = Math.random } = options
  if (!/^https?:$/.test(URL.parse(stsUrl)?.protocol ?? '')) {
    throw new TypeError('stsUrl must be an absolute http or https URL')
  }
  if (!(timeout > 0)) throw new TypeError('timeout must be a positive number of milliseconds')
  // fast-jwt takes an empty issuer for none.
  if (issuer === '') throw new TypeError('issuer must be left out or not be empty')
  const agent = new Agent({
    connect: { timeout, rejectUnauthorized: true, ca, cert, key },
    headersTimeout: timeout,
    bodyTimeout: timeout,
    maxResponseSize: MAX_BYTES,
    // No connection is kept: fetches are minutes apart, and one that the STS closes as it is used
    // again would count as a failure.
    pipelining: 0,
  })

  // get-jwks fetches and selects, behind a dispatcher that caps and vets the answer and keeps it,
  // so that one fetch answers for every kid. Alone it would fetch for each kid, serve stale keys
  // and stumble over foreign ones; so an instance lives for one fetch, and its caches end with it.
  async function fetchVerifiers(zone: string, asked: string): Promise<Map<string, Verifier>> {
    const answer = new KeySetAnswer()
    // An object to the compiler: get-jwks declares the dispatcher of another version of undici.
    const behind: object = { dispatcher: agent.compose(answer.intercept) }
    const { getJwk } = buildGetJwks({
      jwksPath: `.well-known/jwks.json?zone_id=${encodeURIComponent(zone)}`,
      max: MAX_KEYS,
      fetchOptions: {
        ...behind,
        redirect: 'manual',
        signal: AbortSignal.timeout(timeout),
        headers: { accept: 'application/json', 'accept-encoding': 'identity' },
      },
    })
    const select = (kid: string) => getJwk({ domain: stsUrl, alg: 'ES256', kid })
    await select(asked).catch((cause: unknown) => {
      // That the set lacks this kid is an answer like any other.
      if (answer.kids === undefined) throw cause
    })
    const verifiers = new Map<string, Verifier>()
    for (const kid of answer.kids ?? []) {
      const pem = publicKeyPem(await select(kid))
      if (pem !== undefined) verifiers.set(kid, verifierOf(pem, issuer))
    }
    return verifiers
  }

  const zones = new LRUCache<string, ZoneKeySet<Verifier>>({ max: maxZones })

  app.decorate('jwks', {
    verifier(zone, kid) {
      // No usable key has such a kid, and get-jwks cannot be asked for one: it would look like a
      // failed fetch, and any stranger could send the zone into its wait.
      if (!kid.isWellFormed()) return undefined
      let keys = zones.get(zone)
      if (keys === undefined) {
        keys = new ZoneKeySet({
          clock,
          random,
          onFetch,
          unavailable: cause => new Denial('keys_unavailable', { cause }),
          fetch: asked =>
            fetchVerifiers(zone, asked).catch((cause: unknown) => {
              app.log.warn({ zone, err: cause }, "the zone's signing keys cannot be fetched")
              throw cause
            }),
        })
        zones.set(zone, keys)
      }
      return keys.find(kid)
    },
  } satisfies KeySets)

  app.addHook('onClose', async () => {
    await agent.destroy()
  })
}

interface Complete {
  readonly header: Record<string, unknown>
  readonly payload: Record<string, unknown>
}

/** One verifier per key, made when the key is first used. */
function verifierOf(key: string, issuer: string | undefined): Verifier {
  let verify: ((token: string) => Complete) | undefined
  return token => {
    verify ??= createVerifier({
      key,
      algorithms: ['ES256'],
      cache: false,
      complete: true,
      clockTolerance: 0,
      requiredClaims: issuer === undefined ? [] : ['iss'],
      ...(issuer !== undefined && { allowedIss: issuer }),
    })
    // Node.js throws and catches two errors within each check of a signature (`npm run bench:pieces`).
    const { header, payload } = stackless(verify, token)
    // No extension is understood here, so any `crit` is a refusal (RFC 7515 section 4.1.11);
    // fast-jwt passes over one that is null, empty, false or 0.
    if (Object.hasOwn(header, 'crit')) throw new Error('the crit header must be absent')
    return payload
  }
}

export default fp(jwks, { name: 'jwks', fastify: '5.x' })
