/**
 * Reads the ends of a range of a stream as an operator writes them: a time, or an id as Redis gives it.
 */

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/i
const ID = /^\d{1,20}(?:-\d{1,20})?$/
const LAST = 18_446_744_073_709_551_615n

/** The first id that an RFC 3339 time or a stream id means; `undefined` when the text is neither. */
export function rangeStart(text: string): string | undefined {
  return bound(text, '0')
}

/** The last id that it means. */
export function rangeEnd(text: string): string | undefined {
  return bound(text, String(LAST))
}

function bound(text: string, sequence: string): string | undefined {
  if (TIME.test(text)) {
    const time = Date.parse(text)
    return time >= 0 ? `${time}-${sequence}` : undefined
  }
  if (!ID.test(text) || text.split('-').some(part => BigInt(part) > LAST)) return undefined
  return text.includes('-') ? text : `${text}-${sequence}`
}
