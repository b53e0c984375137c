// Guarantees that a stream entry was written by a holder of the streams key, field by field.
import { createHmac, createSecretKey, type KeyObject, timingSafeEqual } from 'node:crypto'

/** Fields of a stream entry; a null or undefined field counts as absent. */
export type StreamFields = Readonly<Record<string, string | null | undefined>>

const SIGNATURE_FIELD = '_sig'
const HEX_KEY = /^(?:[0-9a-fA-F]{2})+$/

/**
 * The HMAC key that hex digits stand for (`STREAMS_HMAC_KEY`, `AUDIT_HMAC_KEY`, `GATEWAY_STS_HMAC_KEY`).
 *
 * Kept as a `KeyObject`: one made anew from bytes for every signature costs several times the HMAC.
 *
 * @param name the option or variable to name when the value is unusable; the value is never printed
 * @throws TypeError when the value is no hex or empty
 */
export function hmacKey(name: string, hex: string): KeyObject {
  if (!HEX_KEY.test(hex))
    throw new TypeError(`${name} must be a non-empty string of hex digit pairs`)
  return createSecretKey(Buffer.from(hex, 'hex'))
}

/**
 * The text that is signed (contract section 6): the stream's name and a newline, then `name=value` and
 * a newline for every present field but `_sig`, sorted by the bytes of the name.
 *
 * Values are not escaped: the form is fixed by the services that share it.
 */
export function canonicalStreamEntry(stream: string, fields: StreamFields): string {
  const names = Object.keys(fields).filter(name => name !== SIGNATURE_FIELD && fields[name] != null)
  // Bytes of UTF-8, not UTF-16 units: the two orders differ above U+D7FF.
  names.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
  let text = `${stream}\n`
  for (const name of names) text += `${name}=${fields[name]}\n`
  return text
}

/** The `_sig` of an entry: 64 lower-case hex digits of HMAC-SHA256 over its canonical form. */
export function signStreamEntry(key: KeyObject, stream: string, fields: StreamFields): string {
  return createHmac('sha256', key).update(canonicalStreamEntry(stream, fields)).digest('hex')
}

/**
 * Whether the entry's `_sig` was made with one of the keys (the current and, during a rotation, the
 * previous one). Compares in constant time and always with every key. Without keys nothing verifies.
 */
export function verifyStreamEntry(
  keys: readonly KeyObject[],
  stream: string,
  fields: StreamFields,
): boolean {
  const given = Buffer.from(fields[SIGNATURE_FIELD] ?? '')
  if (given.length !== 64) return false
  const text = canonicalStreamEntry(stream, fields)
  let valid = false
  for (const key of keys) {
    const expected = Buffer.from(createHmac('sha256', key).update(text).digest('hex'))
    valid = timingSafeEqual(given, expected) || valid
  }
  return valid
}
