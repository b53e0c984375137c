// Denies a directive's URL that is no safe destination, before anything is resolved or dialled.

import { isIP } from 'node:net'
import { addressClass } from './address.ts'
import { canonicalHostname, isForbiddenHostname, isHostname } from './hostname.ts'

/** A directive's URL, taken apart. */
export interface UpstreamUrl {
  /** `protocol//host`. */
  readonly origin: string
  readonly protocol: 'http:' | 'https:'
  /** Canonical name (lower case, ASCII, no trailing dot) or address; IPv6 in brackets. */
  readonly hostname: string
  /** 1 to 65535; the scheme's default where the URL has none. */
  readonly port: number
  /** What the `Host` header says: `hostname`, and `:port` unless it is the scheme's default. */
  readonly host: string
  /** As `URL` writes it: `/` when empty, dot segments resolved. */
  readonly path: string
  /** Without the `?`; `undefined` when there is none or it is empty. */
  readonly query: string | undefined
  /** The IP address, without brackets, when the host is one: `lookup` is not called for it. */
  readonly address: string | undefined
}

// URL strips tabs, newlines and spaces around, and takes a backslash for a slash: all are refused
// in the text. Also one that leaves out the slashes (`http:host`), an empty host, and any userinfo.
const UNSAFE_TEXT = /[\u0000-\u0020\u007f-\u009f\s\\]/
const HTTP_AUTHORITY = /^https?:\/\/([^/?#]+)/i

/**
 * Parses the URL of a directive; `undefined` means `unsafe_upstream`.
 *
 * Refused: a scheme other than `http` and `https`, userinfo (an empty one too), no host or a host
 * that is no host, a backslash, a control character or white space anywhere, port 0, the names of
 * metadata services, and an address that is always forbidden, in any notation. A fragment is
 * dropped. What the allowlist and `UPSTREAM_PRIVATE_NETWORKS` say is left to `createEgressPolicy`.
 * Source: contract section 7.
 */
export function parseUpstreamUrl(text: string): UpstreamUrl | undefined {
  if (UNSAFE_TEXT.test(text)) return undefined
  const authority = HTTP_AUTHORITY.exec(text)?.[1]
  if (authority === undefined || authority.includes('@')) return undefined
  const url = URL.parse(text)
  if (url === null || url.port === '0') return undefined
  const protocol = url.protocol === 'https:' ? 'https:' : 'http:'
  const name = canonicalHostname(url.hostname)
  const family = isIP(name)
  const safe =
    family === 0
      ? isHostname(name) && !isForbiddenHostname(name)
      : addressClass(name) !== 'forbidden'
  if (!safe) return undefined
  const hostname = family === 6 ? `[${name}]` : name
  const host = url.port === '' ? hostname : `${hostname}:${url.port}`
  return {
    origin: `${protocol}//${host}`,
    protocol,
    hostname,
    port: url.port === '' ? defaultPort(protocol) : Number(url.port),
    host,
    path: url.pathname,
    query: url.search === '' ? undefined : url.search.slice(1),
    address: family === 0 ? undefined : name,
  }
}

function defaultPort(protocol: 'http:' | 'https:'): number {
  return protocol === 'https:' ? 443 : 80
}
