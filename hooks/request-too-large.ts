// Denies a body that announces itself as too large, before anything is spent for it.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'

/** Denies a declared `Content-Length` over the limit in bytes; a chunked body is bounded while it streams. */
export function denyTooLargeRequest(limit: number): Check {
  return ({ raw }) => {
    const length = raw.headers['content-length']
    if (length !== undefined && Number(length) > limit) throw new Denial('request_too_large')
  }
}
