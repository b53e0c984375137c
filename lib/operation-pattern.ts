/**
 * Says which operation a path is a case of, so that evidence tells operations apart and holds no id of anything.
 */

/** Longest path that is worth a suggestion, in characters. */
const MAX_LENGTH = 1_024

const NUMBER = /^\d+$/
const UUID = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i
const HEX = /^[0-9a-f]{16,}$/i
/** Whatever is long and has digits among its letters is made by a machine: an id, or worse, a secret. */
const OPAQUE = /^(?=.*\d)(?=.*[A-Za-z])[\w.~=-]{20,}$/

/**
 * The path with `:id` for each segment that is a number, a UUID, long hex, or long and random; `undefined` when it is too
 * long to be declared.
 *
 * @param path decoded once, without a query
 */
export function operationPattern(path: string): string | undefined {
  if (path.length > MAX_LENGTH) return undefined
  return path
    .split('/')
    .map(segment => (isId(segment) ? ':id' : segment))
    .join('/')
}

function isId(segment: string): boolean {
  return [NUMBER, UUID, HEX, OPAQUE].some(form => form.test(segment))
}
