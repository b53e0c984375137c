/**
 * Reads lists of `key=value` as OpenTelemetry's variables write them (W3C Baggage, without properties).
 */

/**
 * The values by their keys, percent-encoding undone.
 *
 * @returns undefined when an entry is no `key=value`, a key is there twice, or an encoding is broken
 */
export function parseKeyValues(text: string): Readonly<Record<string, string>> | undefined {
  const values = new Map<string, string>()
  for (const entry of text.split(',')) {
    if (entry.trim() === '') continue
    const equals = entry.indexOf('=')
    const key = decoded(entry.slice(0, equals).trim())
    const value = decoded(entry.slice(equals + 1).trim())
    if (equals < 1 || !key || value === undefined || values.has(key)) return undefined
    values.set(key, value)
  }
  return Object.freeze(Object.fromEntries(values))
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}
