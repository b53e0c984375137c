// Denies what is no well-formed request although the HTTP parser let it through.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'

/** Most header fields of a request. Behind 2,000 of them Node no longer sees `Content-Length` (CVE-2026-58044). */
const MAX_HEADER_FIELDS = 100

/** Longest request target, in bytes. */
const MAX_TARGET_BYTES = 16 * 1024

/** What a `Host` may hold (RFC 3986 section 3.2), checked by character: it goes on as `X-Forwarded-Host`. */
const HOST = /^[A-Za-z0-9\-._~!$&'()*+,;=:%[\]]*$/

/** Denies too many header fields, a target that names no path, and framing or a host that is not one thing. */
export function denyMalformedRequest(): Check {
  return ({ raw, originalUrl }) => {
    const { rawHeaders, headers } = raw
    if (rawHeaders.length > MAX_HEADER_FIELDS * 2) {
      throw malformed(431, `more than ${MAX_HEADER_FIELDS} header fields`)
    }
    if (originalUrl.length > MAX_TARGET_BYTES) throw malformed(414, 'request target too long')
    if (originalUrl === '*') throw malformed(400, 'request target * names no resource')
    const hosts = occurrences(rawHeaders, 'host')
    if (hosts > 1 || (hosts === 0 && raw.httpVersion === '1.1')) {
      throw malformed(400, 'exactly one Host header is needed')
    }
    if (headers.host !== undefined && !HOST.test(headers.host)) {
      throw malformed(400, 'Host header is not a host')
    }
    const coding = headers['transfer-encoding']
    if (coding === undefined) return
    // The parser undoes `chunked` and nothing else; another coding would reach the upstream without its name.
    if (coding.toLowerCase() !== 'chunked') {
      throw malformed(400, 'transfer coding not supported, only chunked', UNFRAMED)
    }
    // RFC 9112 section 6.1: whoever speaks HTTP/1.0 before the gateway may have read another length.
    if (raw.httpVersion === '1.0') {
      throw malformed(400, 'no transfer coding in HTTP/1.0', UNFRAMED)
    }
  }
}

/** Nobody can tell where a request ends whose framing is not understood, nor where the next begins. */
const UNFRAMED = { connection: 'close' }

function malformed(
  status: number,
  description: string,
  headers: Readonly<Record<string, string>> = {},
): Denial {
  return new Denial('malformed_request', { status, description, headers })
}

function occurrences(rawHeaders: readonly string[], name: string): number {
  let count = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const given = rawHeaders[i] ?? ''
    if (given.length === name.length && given.toLowerCase() === name) count += 1
  }
  return count
}
