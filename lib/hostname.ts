// Guarantees that a host has one spelling wherever it is compared, and denies the names of metadata services.

import { domainToASCII } from 'node:url'

const METADATA_NAMES: ReadonlySet<string> = new Set([
  'metadata',
  'metadata.google.internal',
  'metadata.goog',
  'instance-data',
  'instance-data.ec2.internal',
])

const BEYOND_ASCII = /[^\u0000-\u007f]/
// Underscores are no host name by RFC 1123, but in use.
const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/
const NUMERIC_LABEL = /^(?:[0-9]+|0x[0-9a-f]*)$/
const MAX_LENGTH = 253

/**
 * The one spelling of a host that comparisons use: lower case, ASCII (IDNA), without a trailing dot
 * and without the brackets of an IPv6 literal. `''` for a name that IDNA refuses.
 *
 * @param host a name or an address, without port.
 */
export function canonicalHostname(host: string): string {
  const ascii = BEYOND_ASCII.test(host) ? domainToASCII(host) : host.toLowerCase()
  if (ascii.startsWith('[') && ascii.endsWith(']')) return ascii.slice(1, -1)
  return ascii.endsWith('.') ? ascii.slice(0, -1) : ascii
}

/**
 * Whether a canonical host is a host name: at most 253 characters, labels of 1 to 63 letters, digits,
 * hyphens (not at the ends) and underscores. One whose last label is a number is not: some resolver
 * takes it for an IPv4 address.
 */
export function isHostname(name: string): boolean {
  if (name.length > MAX_LENGTH) return false
  const labels = name.split('.')
  return labels.every(label => LABEL.test(label)) && !NUMERIC_LABEL.test(labels.at(-1) ?? '')
}

/**
 * Whether a host name is refused whatever the allowlist says: the names of cloud metadata services,
 * in any case, with a trailing dot, or in letters that IDNA maps to them. Source: contract section 7.
 */
export function isForbiddenHostname(name: string): boolean {
  return METADATA_NAMES.has(canonicalHostname(name))
}
