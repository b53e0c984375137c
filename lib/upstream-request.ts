/**
 * Builds what goes to the upstream from what came, what was judged, and what the directive says (contract section 5).
 */
import type { IncomingMessage } from 'node:http'
import type { AddedHeaders } from './added-headers.ts'
import type { Directive } from './directive.ts'
import { clientAddress, clientScheme, type ProxyTrust } from './forwarded.ts'
import { joinedLines, upstreamHeaders } from './headers.ts'
import { type CanonicalPath, joinPath, type RequestTarget } from './path.ts'
import { mergeQuery } from './query.ts'
import type { TraceContext } from './trace.ts'

/** What an upstream request is made of. */
export interface UpstreamRequestInput {
  readonly raw: IncomingMessage
  readonly requestId: string
  readonly target: RequestTarget
  readonly path: CanonicalPath
  readonly directive: Directive
  readonly preserveEncodedSlash: boolean
  readonly trace: TraceContext
  readonly trust: ProxyTrust
  /** What plugins have set. */
  readonly added?: AddedHeaders | undefined
}

/** Path and query for the upstream. */
export function upstreamTarget(input: UpstreamRequestInput): string {
  const { directive, path, target } = input
  const { upstream, queryCredential } = directive
  const encoded = input.preserveEncodedSlash ? path.encodedPreservingSlash : path.encoded
  const query = mergeQuery(target.query, upstream.query, queryCredential)
  const joined = joinPath(upstream.path, encoded)
  return query === '' ? joined : `${joined}?${query}`
}

/** Headers for the upstream: flat list of names and values. */
export function upstreamRequestHeaders(input: UpstreamRequestInput): string[] {
  const { raw, trace, trust, directive } = input
  const { headers, socket } = raw
  const peer = socket.remoteAddress ?? ''
  const scheme = 'encrypted' in socket && socket.encrypted === true ? 'https' : 'http'
  const own = [
    'Host',
    directive.upstream.host,
    'X-Request-Id',
    input.requestId,
    'traceparent',
    trace.traceparent,
    'X-Forwarded-For',
    clientAddress(peer, joinedLines(headers['x-forwarded-for']), trust),
    'X-Forwarded-Proto',
    clientScheme(scheme, peer, joinedLines(headers['x-forwarded-proto']), trust),
  ]
  if (headers.host !== undefined) own.push('X-Forwarded-Host', headers.host)
  if (input.added !== undefined) own.push(...input.added.except(directive.headers))
  own.push(...directive.headers)
  return upstreamHeaders({
    raw: raw.rawHeaders,
    contentLength: headers['content-length'],
    keepTracestate: trace.inherited,
    own,
  })
}
