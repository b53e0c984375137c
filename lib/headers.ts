/**
 * Guarantees that only end-to-end headers cross the gateway, in either direction (contract section 5).
 *
 * Requests are built from Node's raw header list, so that names keep their case and repeated fields stay apart.
 */

/** Hop-by-hop fields (RFC 9110 section 7.6.1), dropped in both directions. */
const HOP_BY_HOP = new Set([
  'connection',
  'proxy-connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

/** Fields of the caller that the gateway sets anew or that must not reach an upstream. */
const REPLACED_IN_REQUEST = new Set([
  'host',
  'content-length',
  'expect',
  'authorization',
  'forwarded',
  'x-real-ip',
  'x-request-id',
  'traceparent',
])

/** Fields that tell about the upstream, or send the caller away from the gateway. */
const DROPPED_IN_RESPONSE = new Set([
  'x-caracal-identity',
  'server',
  'x-powered-by',
  'x-aspnet-version',
  'x-aspnetmvc-version',
  'refresh',
  'x-request-id',
  'x-caracal-token-expires-in',
  // The gateway's own words: an upstream that spoke them could make an agent repeat a call.
  'x-caracal-dispatched',
  'x-caracal-revoked',
])

/** Names that a directive's `auth_header` must not take (contract section 5). */
const RESERVED = new Set([
  'host',
  'connection',
  'content-length',
  'content-type',
  'content-encoding',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'via',
  'expect',
  'keep-alive',
  'forwarded',
  'x-real-ip',
  'x-request-id',
  'traceparent',
  'tracestate',
  'baggage',
])

const FIELD_NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
const FIELD_VALUE = /^[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?$/

/** Whether `name` is a field name (RFC 9110 section 5.1). */
export function isFieldName(name: string): boolean {
  return FIELD_NAME.test(name)
}

/** Whether `value` is a non-empty field value without white space at its ends (RFC 9110 section 5.5). */
export function isFieldValue(value: string): boolean {
  return FIELD_VALUE.test(value)
}

/** A field's value as one text; lines that Node keeps apart are joined (RFC 9110 section 5.3). */
export function joinedLines(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value.join(', ') : value
}

/** Whether the gateway keeps a request header for itself, so that no directive may set it. */
export function isReservedHeader(name: string): boolean {
  const lower = name.toLowerCase()
  return (
    RESERVED.has(lower) ||
    lower.startsWith('proxy-') ||
    lower.startsWith('x-forwarded-') ||
    lower.startsWith('x-caracal-')
  )
}

/**
 * The lower-case names that `Connection` values list.
 *
 * @param raw flat list of names and values, as in Node's `rawHeaders`
 */
function connectionOptions(raw: readonly string[]): Set<string> | undefined {
  let named: Set<string> | undefined
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? ''
    if (name.length !== 10 || name.toLowerCase() !== 'connection') continue
    for (const option of (raw[i + 1] ?? '').split(',')) {
      const trimmed = option.trim().toLowerCase()
      if (trimmed !== '' && trimmed !== 'keep-alive' && trimmed !== 'close') {
        named ??= new Set()
        named.add(trimmed)
      }
    }
  }
  return named
}

/** A `baggage` value without the `caracal.*` entries (W3C Baggage section 3.2); `''` when none is left. */
export function foreignBaggage(value: string): string {
  if (!/caracal/i.test(value) && !value.includes('%')) return value
  return value
    .split(',')
    .filter(entry => {
      const key = entry.split(/[=;]/, 1)[0] ?? ''
      return !decodedLeniently(key).trim().toLowerCase().startsWith('caracal.')
    })
    .join(',')
    .trim()
}

/** As the most lenient of readers decode a key: a plus sign is a space, a stray percent sign itself. */
function decodedLeniently(text: string): string {
  return text
    .replaceAll('+', ' ')
    .replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
}

/** What {@link upstreamHeaders} needs beside the caller's own headers. */
export interface UpstreamHeaderInput {
  /** The caller's headers: flat list of names and values, as in Node's `rawHeaders`. */
  readonly raw: readonly string[]
  /** `Content-Length` to announce, in bytes; `undefined` when there is no body or it is chunked. */
  readonly contentLength: string | undefined
  /** Whether the caller's `traceparent` was valid and is passed on; its `tracestate` goes with it. */
  readonly keepTracestate: boolean
  /** Headers of the gateway's own: flat list of names and values. They replace the caller's. */
  readonly own: readonly string[]
}

/**
 * The headers for the upstream, as a flat list of names and values.
 *
 * The caller's `Connection` strips only what the caller sent: the gateway's own come afterwards.
 */
export function upstreamHeaders(input: UpstreamHeaderInput): string[] {
  const { raw, own } = input
  const named = connectionOptions(raw)
  const replaced = new Set<string>()
  for (let i = 0; i < own.length; i += 2) replaced.add((own[i] ?? '').toLowerCase())
  const headers: string[] = []
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? ''
    const lower = name.toLowerCase()
    if (
      HOP_BY_HOP.has(lower) ||
      REPLACED_IN_REQUEST.has(lower) ||
      replaced.has(lower) ||
      lower.startsWith('x-caracal-') ||
      lower.startsWith('x-forwarded-') ||
      named?.has(lower) ||
      (lower === 'tracestate' && !input.keepTracestate)
    ) {
      continue
    }
    let value = raw[i + 1] ?? ''
    if (lower === 'baggage') {
      value = foreignBaggage(value)
      if (value === '') continue
    }
    headers.push(name, value)
  }
  if (input.contentLength !== undefined) headers.push('Content-Length', input.contentLength)
  headers.push(...own)
  return headers
}

/** A response's headers by lower-case name; a repeated field keeps its lines apart. */
export type ResponseHeaders = Record<string, string | string[]>

/**
 * The headers of the upstream's answer that go on to the caller (contract section 5, "Response").
 *
 * @param raw flat list of names and values, latin1 text of the bytes that came
 * @param keepChallenge whether `WWW-Authenticate` stays: only when the gateway sent no credential
 */
export function responseHeaders(raw: readonly string[], keepChallenge: boolean): ResponseHeaders {
  const named = connectionOptions(raw)
  const headers: ResponseHeaders = {}
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const lower = (raw[i] ?? '').toLowerCase()
    const value = raw[i + 1] ?? ''
    if (
      HOP_BY_HOP.has(lower) ||
      DROPPED_IN_RESPONSE.has(lower) ||
      named?.has(lower) ||
      (lower === 'www-authenticate' && !keepChallenge) ||
      ((lower === 'location' || lower === 'content-location') && !isRelativeReference(value))
    ) {
      continue
    }
    const before = Object.hasOwn(headers, lower) ? headers[lower] : undefined
    // A field named `__proto__` vanishes here; Fastify, which keeps headers in an object too, could not carry it.
    if (before === undefined) headers[lower] = value
    else if (Array.isArray(before)) before.push(value)
    else headers[lower] = [before, value]
  }
  return headers
}

const PROBE_BASE = 'http://gateway.invalid'

/**
 * Whether a `Location` stays on the gateway: neither absolute, nor protocol-relative, nor unparsable.
 *
 * Judged as a browser would resolve it (WHATWG URL): a backslash counts as a slash, tabs and line
 * breaks vanish, so `\/host`, `/\t/host` and `java\nscript:` are not relative.
 */
export function isRelativeReference(value: string): boolean {
  if (value === '' || /[^\x21-\x7e\x80-\xff]/.test(value)) return false
  if (/^[A-Za-z][A-Za-z0-9+.-]*:/.test(value) || /^[/\\]{2}/.test(value)) return false
  return URL.canParse(value, PROBE_BASE) && new URL(value, PROBE_BASE).origin === PROBE_BASE
}
