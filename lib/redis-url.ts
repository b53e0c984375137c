// Guarantees that REDIS_URL means one thing wherever it is read, and that nothing but the address comes out of it.
import { isIP } from 'node:net'

/** Where one server listens. */
export interface Endpoint {
  /** A name or an address; IPv6 without brackets. */
  readonly host: string
  readonly port: number
}

interface Common {
  /** `rediss`: TLS to every server that is named or found, sentinels included. */
  readonly tls: boolean
  /** The user and the password of Redis itself, decoded. */
  readonly username?: string
  readonly password?: string
}

/** One server. */
export interface NodeAddress extends Common, Endpoint {
  readonly kind: 'node'
  readonly db: number
}

/** A master that sentinels know by name. */
export interface SentinelAddress extends Common {
  readonly kind: 'sentinel'
  readonly sentinels: readonly Endpoint[]
  readonly name: string
  readonly db: number
  /** What the sentinels themselves ask for, if they do. */
  readonly sentinelUsername?: string
  readonly sentinelPassword?: string
}

/** A cluster, by some of its servers. It has database 0 alone. */
export interface ClusterAddress extends Common {
  readonly kind: 'cluster'
  readonly nodes: readonly Endpoint[]
}

/** What a `REDIS_URL` names. Source: contract section 9. */
export type RedisAddress = NodeAddress | SentinelAddress | ClusterAddress

/** What `REDIS_URL` may look like, for those whose `REDIS_URL` does not. */
export const REDIS_URL_FORMS =
  'redis://host:port/database, redis+sentinel://host:port,host:port/name/database or redis+cluster://host:port,host:port ' +
  '(rediss for TLS), credentials percent-encoded; sentinels that ask for a password get it from ' +
  '?sentinelPassword= and ?sentinelUsername='

const URL_FORM =
  /^(rediss?)(\+sentinel|\+cluster)?:\/\/([^\s/?#]+)(?:\/([^\s?#]*))?(?:\?([^\s#]*))?$/i
const REDIS_PORT = 6379
const SENTINEL_PORT = 26379
const MASTER_NAME = /^[\w.-]+$/
const SENTINEL_OPTIONS = new Set(['sentinelUsername', 'sentinelPassword'])

/**
 * Reads a `REDIS_URL`; undefined when it is none. Parsed here, not by the client, where a query string could switch any
 * of its options: the query of one server's URL is passed over, a sentinel's may hold its two, a cluster has none.
 */
export function parseRedisUrl(text: string): RedisAddress | undefined {
  const match = URL_FORM.exec(text)
  if (match === null) return undefined
  const [, scheme = '', form = '', authority = '', path = '', query] = match
  // As in every URL, the last @ ends the credentials.
  const at = authority.lastIndexOf('@')
  const credentials = readCredentials(authority.slice(0, Math.max(0, at)))
  if (credentials === undefined) return undefined
  const common = { tls: scheme.toLowerCase() === 'rediss', ...credentials }
  const hosts = authority.slice(at + 1).split(',')

  switch (form.toLowerCase()) {
    case '+sentinel': {
      const sentinels = readEndpoints(hosts, SENTINEL_PORT)
      const [name = '', database = '', ...rest] = path.split('/')
      const db = readDatabase(database)
      const options = readSentinelOptions(query ?? '')
      if (!sentinels || !MASTER_NAME.test(name) || rest.length > 0) return undefined
      if (db === undefined || options === undefined) return undefined
      return { kind: 'sentinel', ...common, sentinels, name, db, ...options }
    }
    case '+cluster': {
      const nodes = readEndpoints(hosts, REDIS_PORT)
      if (!nodes || (path !== '' && path !== '0') || query !== undefined) return undefined
      return { kind: 'cluster', ...common, nodes }
    }
    default: {
      const [node, ...rest] = readEndpoints(hosts, REDIS_PORT) ?? []
      const db = readDatabase(path)
      if (node === undefined || rest.length > 0 || db === undefined) return undefined
      return { kind: 'node', ...common, ...node, db }
    }
  }
}

/** The passwords of an address, for those who must not print them. */
export function passwordsOf(address: RedisAddress): readonly string[] {
  const { password } = address
  const sentinelPassword = address.kind === 'sentinel' ? address.sentinelPassword : undefined
  return [password, sentinelPassword].filter(secret => secret !== undefined)
}

function readEndpoints(
  hosts: readonly string[],
  defaultPort: number,
): readonly Endpoint[] | undefined {
  const endpoints: Endpoint[] = []
  for (const text of hosts) {
    const [, bracketed, plain, digits] =
      /^(?:\[([^\]]+)\]|([\w.-]+))(?::(\d{1,5}))?$/.exec(text) ?? []
    const host = bracketed ?? plain
    const port = digits === undefined ? defaultPort : Number(digits)
    if (host === undefined || port < 1 || port > 65_535) return undefined
    if (bracketed !== undefined && isIP(bracketed) !== 6) return undefined
    endpoints.push({ host, port })
  }
  return endpoints
}

function readDatabase(text: string): number | undefined {
  return /^\d{0,9}$/.test(text) ? Number(text) : undefined
}

function readCredentials(text: string): Pick<Common, 'username' | 'password'> | undefined {
  const colon = text.indexOf(':')
  const username = decoded(colon < 0 ? text : text.slice(0, colon))
  const password = decoded(colon < 0 ? '' : text.slice(colon + 1))
  if (username === undefined || password === undefined) return undefined
  return { ...(username && { username }), ...(password && { password }) }
}

function readSentinelOptions(
  query: string,
): Pick<SentinelAddress, 'sentinelUsername' | 'sentinelPassword'> | undefined {
  const options: Record<string, string> = {}
  for (const pair of query === '' ? [] : query.split('&')) {
    const equals = pair.indexOf('=')
    const name = pair.slice(0, Math.max(0, equals))
    // Not URLSearchParams: there a + in a password is a space.
    const value = decoded(pair.slice(equals + 1))
    if (!SENTINEL_OPTIONS.has(name) || name in options || !value) return undefined
    options[name] = value
  }
  return options
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}
