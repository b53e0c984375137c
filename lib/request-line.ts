/**
 * Reads what identifies a request before any check has run: its id, and the path that chooses its route.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { requestTarget } from './path.ts'

const REQUEST_ID = /^[\x21-\x7e]{1,128}$/

/** The caller's `X-Request-Id` when it is 1 to 128 printable characters without space, else a new UUID. */
export function requestIdOf(request: Pick<IncomingMessage, 'headers'>): string {
  const given = request.headers['x-request-id']
  return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID()
}

/**
 * A path that no route but the catch-all matches: for targets that a router cannot read. The checks judge the target
 * as it came (`request.originalUrl`), so that it is refused in the gateway's own words.
 */
const UNREADABLE = '/.'

/**
 * The URL by which a request is routed: its path and query, whatever form its target has (RFC 9112 section 3.2).
 *
 * @param url Node's `req.url`: the raw bytes as latin1
 */
export function routedUrl(url: string): string {
  if (url.startsWith('/') && !url.includes('%')) return url
  const { path, query } = requestTarget(url)
  if (!path.startsWith('/')) return UNREADABLE
  try {
    decodeURIComponent(path)
  } catch {
    return UNREADABLE
  }
  return query === undefined ? path : `${path}?${query}`
}

/** The paths that the gateway answers itself (contract section 1). */
export const OWN_PATHS: ReadonlySet<string> = new Set([
  '/health',
  '/ready',
  '/metrics',
  '/metrics.json',
  '/internal/revocations/reload',
])

/**
 * Whether a request is certain to be for the proxied routes. What the router has to decode first is not.
 *
 * @param url Node's `req.url`
 */
export function isProxiedUrl(url: string): boolean {
  if (!url.startsWith('/') || url.includes('%')) return false
  const query = url.indexOf('?')
  return !OWN_PATHS.has(query === -1 ? url : url.slice(0, query))
}
