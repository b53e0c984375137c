// Guarantees that the path that is judged is the path that is sent, and that no path climbs or names a host.

import { isUtf8 } from 'node:buffer'

/** A request target, split into what the gateway looks at. */
export interface RequestTarget {
  /** The path as it came, still percent-encoded. Not judged yet: give it to {@link canonicalPath}. */
  readonly path: string
  /** The query without its `?`; `undefined` without a `?`, `''` when nothing follows it. */
  readonly query: string | undefined
}

/** A path that passed {@link canonicalPath}. */
export interface CanonicalPath {
  /** Decoded exactly once: matched against operations and sent to the STS as `request_path`. */
  readonly decoded: string
  /** {@link decoded}, encoded anew for the upstream; a `%2F` of the request is a `/` here. */
  readonly encoded: string
  /** As {@link encoded}, but a `%2F` or `%2f` of the request is kept as it came. */
  readonly encodedPreservingSlash: string
}

const ABSOLUTE_FORM = /^[A-Za-z][A-Za-z0-9+.-]*:\/\//

/**
 * Splits an HTTP/1.1 request target (`req.url`: the raw bytes as latin1) into path and query.
 *
 * An absolute-form target counts by its path and query alone; without a path it is `/` (RFC 9112
 * section 3.2). A target has no fragment: a `#` is a character like any other, so that it reaches
 * the upstream as `%23` and can cut nothing off there. `*`, and an authority with a backslash (which
 * some parsers take for the path's first slash), yield a path that {@link canonicalPath} refuses.
 */
export function requestTarget(url: string): RequestTarget {
  const mark = url.indexOf('?')
  const query = mark === -1 ? undefined : url.slice(mark + 1)
  const beforeQuery = mark === -1 ? url : url.slice(0, mark)
  if (beforeQuery.startsWith('/')) return { path: beforeQuery, query }
  const scheme = ABSOLUTE_FORM.exec(beforeQuery)
  if (scheme === null) return { path: beforeQuery, query }
  const authority = scheme[0].length
  const slash = beforeQuery.indexOf('/', authority)
  const path = slash === -1 ? '/' : beforeQuery.slice(slash)
  const host = slash === -1 ? beforeQuery.slice(authority) : beforeQuery.slice(authority, slash)
  return host.includes('\\') ? { path: beforeQuery, query } : { path, query }
}

// RFC 3986 section 3.3 pchar without pct-encoded, and the slash: what is sent as it is.
const NOT_PLAIN = /[^A-Za-z0-9\-._~!$&'()*+,;=:@/]/
// A path parameter does not make a dot segment a name: servers strip it before they resolve the dots.
const DOT_SEGMENT = /\/\.\.?(?:[/;]|$)/
// Unicode's Cc (C0, DEL and C1) and the backslash, which some servers take for a slash.
const FORBIDDEN = /[\u0000-\u001f\u007f-\u009f\\]/
const BEYOND_ASCII = /[^\u0000-\u007f]/
const BEYOND_BYTE = /[^\u0000-\u00ff]/
const ENCODED_SLASH = /%2f/i
const ENCODED_SLASHES = /(%2f)/i
const QUERY_OR_FRAGMENT = /[?#]/g

// Every decoding shortens the path by two characters at least, so 16 KiB of `%2525...` would take
// 8192 rounds (100 ms). Up to 2000 characters of it are decoded to the end; a longer one is refused.
const MAX_DECODED_CHARACTERS = 1 << 20

/**
 * Judges a request's path and gives the one form that is matched, exchanged and forwarded.
 *
 * Percent-encoding is decoded again and again until nothing changes. At every stage the path is
 * refused for a `.` or `..` segment (also with a path parameter: `..;x`), a backslash, a control
 * character (C0, DEL, C1), a percent sign that two hex digits do not follow, and bytes that are not
 * UTF-8. One that does not begin with `/` is refused too, and one nested so deeply that its
 * decodings add up to over 1,048,576 characters. Empty segments and a trailing slash are kept.
 *
 * @param path as {@link requestTarget} gives it: one character per byte.
 * @returns `undefined` when the path is refused (`path_traversal`). Source: contract section 5.
 */
export function canonicalPath(path: string): CanonicalPath | undefined {
  if (!path.startsWith('/')) return undefined
  if (!NOT_PLAIN.test(path)) {
    if (DOT_SEGMENT.test(path)) return undefined
    return { decoded: path, encoded: path, encodedPreservingSlash: path }
  }

  const received = fromBytes(path)
  if (received === undefined || isTraversal(received)) return undefined
  const decoded = decodeOnce(received)
  if (decoded === undefined || isTraversal(decoded)) return undefined

  let stage = decoded
  let budget = MAX_DECODED_CHARACTERS
  while (stage.includes('%')) {
    budget -= stage.length
    if (budget < 0) return undefined
    const next = decodeOnce(stage)
    if (next === undefined || isTraversal(next)) return undefined
    stage = next
  }

  const encoded = encode(decoded)
  return {
    decoded,
    encoded,
    encodedPreservingSlash: ENCODED_SLASH.test(received) ? encodePieces(received) : encoded,
  }
}

/**
 * The path of the upstream's request: the directive's path, exactly one slash, the request's path.
 *
 * A request for `/` is the directive's path unchanged. Only the two slashes that meet become one;
 * other empty segments stay. The result always begins with `/` and is a path alone: `//host/x` in
 * it is an empty segment, and must not be resolved against a URL as a reference.
 *
 * @param directivePath the path of the directive's URL, `''` or `/` when it has none.
 * @param requestPath {@link CanonicalPath.encoded} or {@link CanonicalPath.encodedPreservingSlash}.
 */
export function joinPath(directivePath: string, requestPath: string): string {
  const base = directivePath.startsWith('/') ? directivePath : `/${directivePath}`
  if (requestPath === '/' || requestPath === '') return base
  const head = base.endsWith('/') ? base : `${base}/`
  return head + (requestPath.startsWith('/') ? requestPath.slice(1) : requestPath)
}

function isTraversal(path: string): boolean {
  return FORBIDDEN.test(path) || DOT_SEGMENT.test(path)
}

function fromBytes(path: string): string | undefined {
  if (!BEYOND_ASCII.test(path)) return path
  if (BEYOND_BYTE.test(path)) return undefined
  const bytes = Buffer.from(path, 'latin1')
  return isUtf8(bytes) ? bytes.toString('utf8') : undefined
}

// decodeURIComponent refuses what the contract refuses: stray percent signs, overlong forms,
// surrogates, code points over U+10FFFF.
function decodeOnce(path: string): string | undefined {
  try {
    return decodeURIComponent(path)
  } catch {
    return undefined
  }
}

// encodeURI keeps exactly pchar and `/ ? #`, and writes upper-case hex.
function encode(decoded: string): string {
  return encodeURI(decoded).replace(QUERY_OR_FRAGMENT, character =>
    character === '?' ? '%3F' : '%23',
  )
}

// Every percent sign begins a valid triplet by now, so `%2f` cannot straddle two of them.
function encodePieces(received: string): string {
  return received
    .split(ENCODED_SLASHES)
    .map((piece, index) => (index % 2 === 1 ? piece : encode(decodeURIComponent(piece))))
    .join('')
}
