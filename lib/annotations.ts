/**
 * What a team's plugin notes of a request for its evidence: bounded, so that no plugin can fill the ledger.
 */

/** Names and texts that go to `metadata_json.annotations`. */
export type Annotations = Readonly<Record<string, string>>

/** How many a request may have. */
const MAX_ANNOTATIONS = 16
/** Characters of a value. */
const MAX_VALUE = 256
const KEY = /^[A-Za-z][A-Za-z0-9_.-]{0,63}$/

/**
 * The annotations with one more, or with another value for a key that they have already (contract section 12).
 *
 * @throws TypeError when the key or the value is not of its form
 * @throws RangeError when the value is too long, or there are too many keys
 */
export function annotated(before: Annotations, key: string, value: string): Annotations {
  if (typeof key !== 'string' || !KEY.test(key)) {
    throw new TypeError(`annotate: key must match ${KEY.source}`)
  }
  if (typeof value !== 'string') throw new TypeError('annotate: value must be a string')
  if (value.length > MAX_VALUE) {
    throw new RangeError(`annotate: value must have ${MAX_VALUE} characters at most; shorten it`)
  }
  if (!Object.hasOwn(before, key) && Object.keys(before).length >= MAX_ANNOTATIONS) {
    throw new RangeError(`annotate: a request has ${MAX_ANNOTATIONS} keys at most; use one again`)
  }
  return { ...before, [key]: value }
}
