// Denies a request that names no resource, or more than one.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'

const NAME = 'x-caracal-resource'

/** Denies an `X-Caracal-Resource` that is absent, blank, or sent twice. */
export function denyMissingResourceHeader(): Check {
  return ({ raw }, passage) => {
    const value = raw.headers[NAME]
    if (typeof value !== 'string') throw new Denial('missing_resource_header')
    // Node joins repeated fields with a comma: only a value with one can have been sent twice.
    if (value.includes(',') && timesSent(raw.rawHeaders) > 1) {
      throw new Denial('missing_resource_header')
    }
    const resource = Buffer.from(value, 'latin1').toString('utf8').trim()
    if (resource === '') throw new Denial('missing_resource_header')
    passage.resource = resource
  }
}

function timesSent(rawHeaders: readonly string[]): number {
  return rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === NAME).length
}
