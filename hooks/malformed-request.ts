// Denies what is no well-formed request although the HTTP parser let it through.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'

/** Most header fields of a request. Behind 2,000 of them Node no longer sees `Content-Length` (CVE-2026-58044). */
const MAX_HEADER_FIELDS = 100

/** Longest request target, in bytes. */
const MAX_TARGET_BYTES = 16 * 1024

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
    const coding = headers['transfer-encoding']
    // The parser undoes `chunked` and nothing else; another coding would reach the upstream without its name.
    if (coding !== undefined && coding.toLowerCase() !== 'chunked') {
      throw malformed(400, 'transfer coding not supported, only chunked')
    }
  }
}

function malformed(status: number, description: string): Denial {
  return new Denial('malformed_request', { status, description })
}

function occurrences(rawHeaders: readonly string[], name: string): number {
  let count = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const given = rawHeaders[i] ?? ''
    if (given.length === name.length && given.toLowerCase() === name) count += 1
  }
  return count
}
