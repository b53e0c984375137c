/**
 * Tells an upstream who called, without believing what the caller says of itself (contract section 5).
 */
import { isIP } from 'node:net'
import { createCidrMatcher } from './address.ts'

/** Whom to believe: nobody, the first `X-Forwarded-For` entry, or the proxies that a matcher knows. */
export type ProxyTrust = 'none' | 'first' | ((address: string) => boolean)

/** Turns the configured `TRUST_PROXY` into what {@link clientAddress} takes. */
export function proxyTrust(setting: boolean | readonly string[]): ProxyTrust {
  if (typeof setting === 'boolean') return setting ? 'first' : 'none'
  return createCidrMatcher(setting)
}

/** An IPv4 address that a dual-stack socket shows as `::ffff:a.b.c.d`, in its own form. */
export function plainAddress(address: string): string {
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address
}

/**
 * The caller's address for `X-Forwarded-For`.
 *
 * @param peer the socket's remote address
 * @param forwardedFor the inbound `X-Forwarded-For`
 */
export function clientAddress(
  peer: string,
  forwardedFor: string | undefined,
  trust: ProxyTrust,
): string {
  const own = plainAddress(peer)
  if (trust === 'none' || forwardedFor === undefined) return own
  const chain = forwardedFor.split(',').map(entry => entry.trim())
  if (trust === 'first') {
    const [first = ''] = chain
    return isIP(first) === 0 ? own : first
  }
  let current = own
  while (trust(current)) {
    const next = chain.pop()
    if (next === undefined || isIP(next) === 0) break
    current = plainAddress(next)
  }
  return current
}

/** The caller's scheme for `X-Forwarded-Proto`: the connection's own unless a trusted proxy says another. */
export function clientScheme(
  own: 'http' | 'https',
  peer: string,
  forwardedProto: string | undefined,
  trust: ProxyTrust,
): string {
  const believed = trust === 'first' || (trust !== 'none' && trust(plainAddress(peer)))
  return believed && (forwardedProto === 'http' || forwardedProto === 'https')
    ? forwardedProto
    : own
}
