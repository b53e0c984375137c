/**
 * Guarantees that the address that was checked is the address that is dialled (contract section 7).
 *
 * Names are judged in the `lookup` that the connection itself uses, so that no second resolution can differ from the
 * first (DNS rebinding). undici calls no `lookup` for an address written in the URL: `permits` judges those before.
 */
import dns, { type LookupAddress } from 'node:dns'
import tls from 'node:tls'
import replyFrom from '@fastify/reply-from'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { LRUCache } from 'lru-cache'
import { Agent, type Dispatcher } from 'undici'
import { createEgressPolicy, type EgressPolicy } from '../lib/address.ts'
import { connector } from '../lib/connector.ts'
import type { ResponseHeaders } from '../lib/headers.ts'
import { parseUpstreamUrl, type UpstreamUrl } from '../lib/upstream-url.ts'

declare module 'fastify' {
  interface FastifyInstance {
    egress: Egress
  }
}

/** A directive's URL, judged as far as its text tells. */
export interface Destination {
  /** `undefined` when it is no safe destination. */
  readonly upstream: UpstreamUrl | undefined
  /** Whether it may be dialled: an address that may, or a name that may as long as its addresses may. */
  readonly permitted: boolean
}

/** Where requests may go, and how they get there. */
export interface Egress {
  /** What a directive's URL comes to. */
  destination(url: string): Destination
  /** A `rewriteRequestHeaders` result that makes reply-from hand over to `dispatch`. */
  carry(dispatch: Dispatch): Record<string, string>
}

/**
 * Sends an upstream request.
 *
 * @param dispatcher the one that dials only addresses that were checked
 * @param respond gives the answer back to reply-from
 */
export type Dispatch = (dispatcher: Dispatcher, respond: Respond) => void

/** Takes an upstream's answer, its headers already filtered. */
export type Respond = (
  error: null,
  response: { statusCode: number; headers: ResponseHeaders; body: { destroy(): unknown } },
) => void

/** A name whose addresses must not be dialled, or that has none. */
export class UnsafeAddress extends Error {
  constructor(hostname: string, options?: ErrorOptions) {
    super(`${hostname} does not resolve to addresses that may be dialled`, options)
    this.name = 'UnsafeAddress'
  }
}

/** Options of the egress plugin. */
export interface EgressOptions {
  readonly policy: EgressPolicy
  /** PEM certificates of private authorities, beside the well-known ones. */
  readonly ca?: string | undefined
  /** For a connection to stand, TLS included, in milliseconds. */
  readonly connectTimeout: number
}

/** Names are cached for at most 10 s. */
const NAME_TTL = 10_000
const MAX_NAMES = 1000
/** URLs whose verdict is kept: the same few come with every directive. */
const MAX_DESTINATIONS = 1000
/** Characters of a URL whose verdict is kept. */
const MAX_KEPT_URL = 2048

/** How a {@link Dispatch} travels: reply-from copies the headers object, symbols included. */
const CARRIED = Symbol('dispatch')

async function egress(app: FastifyInstance, options: EgressOptions): Promise<void> {
  const policy = createEgressPolicy(options.policy)
  const agent = new Agent({
    pipelining: 1,
    allowH2: false,
    connect: connector({
      allowH2: false,
      timeout: options.connectTimeout,
      rejectUnauthorized: true,
      lookup: checkedLookup(address => policy.permitsAddress(address)),
      ...(options.ca !== undefined && {
        // Made once: reading the well-known certificates anew for each connection takes milliseconds.
        secureContext: tls.createSecureContext({ ca: [...tls.rootCertificates, options.ca] }),
      }),
    }),
  })

  function judge(url: string): Destination {
    const upstream = parseUpstreamUrl(url)
    if (upstream === undefined) return { upstream, permitted: false }
    const { address, hostname } = upstream
    const permitted =
      policy.permitsHost(address ?? hostname) &&
      (address === undefined || policy.permitsAddress(address))
    return { upstream, permitted }
  }

  const destinations = new LRUCache<string, Destination>({ max: MAX_DESTINATIONS })

  app.decorate('egress', {
    destination(url) {
      const known = destinations.get(url)
      if (known !== undefined) return known
      const destination = judge(url)
      if (url.length <= MAX_KEPT_URL) destinations.set(url, destination)
      return destination
    },
    carry: dispatch => ({ [CARRIED]: dispatch }),
  } satisfies Egress)

  await app.register(replyFrom, {
    // reply-from's own undici path knows no abort, no first byte and no body on GET: the call dispatches itself.
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- of undici's `request` it calls this form alone
    undici: {
      request: (request: { headers: { [CARRIED]?: Dispatch } }, respond: Respond) => {
        request.headers[CARRIED]?.(agent, respond)
      },
    } as unknown as { request: Dispatcher['request'] },
    disableCache: true,
    disableRequestLogging: true,
    retryMethods: [],
    maxRetriesOn503: 0,
  })

  app.addHook('onClose', async () => {
    await agent.destroy()
  })
}

type LookupCallback = (
  error: NodeJS.ErrnoException | null,
  address: string | LookupAddress[],
  family?: number,
) => void

/** A `lookup` for `net.connect` that fails unless every address of the name may be dialled. */
function checkedLookup(permits: (address: string) => boolean) {
  const names = new LRUCache<string, Promise<LookupAddress[]>>({ max: MAX_NAMES, ttl: NAME_TTL })

  async function resolve(hostname: string): Promise<LookupAddress[]> {
    const addresses = await new Promise<LookupAddress[]>((resolved, reject) => {
      dns.lookup(hostname, { all: true }, (error, found) => {
        if (error === null) resolved(found)
        else reject(new UnsafeAddress(hostname, { cause: error }))
      })
    })
    if (addresses.length === 0 || !addresses.every(({ address }) => permits(address))) {
      throw new UnsafeAddress(hostname)
    }
    return addresses
  }

  return (hostname: string, options: { all?: boolean | undefined }, callback: LookupCallback) => {
    let found = names.get(hostname)
    if (found === undefined) {
      found = resolve(hostname)
      names.set(hostname, found)
      // A name that fails is asked anew: the zone may be mended, and a refusal costs nobody else anything.
      found.catch(() => names.delete(hostname))
    }
    found.then(
      addresses => {
        const [first] = addresses
        if (options.all === true || first === undefined) callback(null, addresses)
        else callback(null, first.address, first.family)
      },
      (error: Error) => callback(error, []),
    )
  }
}

export default fp(egress, { name: 'egress', fastify: '5.x' })
