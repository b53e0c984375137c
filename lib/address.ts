// Denies the addresses that no upstream may have, in whatever notation they come.

import { isIP, isIPv4, isIPv6 } from 'node:net'
import { canonicalHostname, isForbiddenHostname, isHostname } from './hostname.ts'

/**
 * What an address is to the gateway: `forbidden` is never dialled, `private` unless
 * `UPSTREAM_PRIVATE_NETWORKS=deny`, `public` always.
 */
export type AddressClass = 'forbidden' | 'private' | 'public'

/** Where the gateway may connect to. */
export interface EgressPolicy {
  /** `UPSTREAM_HOST_ALLOWLIST`: host names and addresses; empty permits every host. */
  readonly hostAllowlist: readonly string[]
  /** `UPSTREAM_PRIVATE_NETWORKS`. */
  readonly privateNetworks: 'allow' | 'deny'
  /** `UPSTREAM_CIDR_ALLOWLIST`: exceptions to `deny`, never to what is always forbidden. */
  readonly cidrAllowlist: readonly string[]
}

/** An {@link EgressPolicy} made ready to judge. */
export interface Egress {
  /** Whether an IP address (text, no brackets) may be dialled. */
  readonly permitsAddress: (address: string) => boolean
  /** Whether a host (name or address, without port) may be named. Its addresses are judged apart. */
  readonly permitsHost: (host: string) => boolean
}

// Eight groups of 16 bits. An IPv4 address is held IPv4-mapped (::ffff:0:0/96).
type Groups = readonly [number, number, number, number, number, number, number, number]

interface Network {
  readonly groups: Groups
  readonly prefix: number
}

const MAPPED_PREFIX = 96
const PREFIX_LENGTH = /^(?:0|[1-9][0-9]{0,2})$/

const FORBIDDEN_IPV4 = networks(
  '0.0.0.0/8', // unspecified, "this network"
  '224.0.0.0/4', // multicast
  '255.255.255.255/32', // broadcast
)

const METADATA_IPV4 = networks(
  '169.254.0.0/16', // link-local, and the metadata service of most clouds
  '100.100.100.200/32', // Alibaba Cloud
  '168.63.129.16/32', // Azure
  '192.0.0.192/32', // Oracle Cloud
)

const PRIVATE_IPV4 = networks(
  '127.0.0.0/8',
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '100.64.0.0/10', // CGNAT
)

const FORBIDDEN_IPV6 = networks(
  '::/128',
  'fe80::/10', // link-local
  'ff00::/8', // multicast
  // Cloud metadata inside unique-local.
  'fd00:ec2::/32',
  'fd20:ce::254/128',
  'fd00:c1::a9fe:a9fe/128',
  'fd00:42::42/128',
  'fd00:a9fe:a9fe::1/128',
  'fd00:100::100:200/128',
)

const PRIVATE_IPV6 = networks(
  '::1/128',
  'fc00::/7', // unique-local
  'fec0::/10', // site-local, deprecated, still routed by some
)

// IPv6 networks whose last 32 bits are an IPv4 address, besides IPv4-mapped.
const LAST_32_BITS = networks(
  '::/96', // IPv4-compatible
  '::ffff:0:0:0/96', // IPv4-translated
  '64:ff9b::/96', // NAT64, RFC 6052
)
const NAT64_LOCAL = networks('64:ff9b:1::/48') // RFC 8215
const SIX_TO_FOUR = networks('2002::/16') // RFC 3056
const TEREDO = networks('2001::/32') // RFC 4380

/**
 * The class of an IP address; a zone id is ignored, and what is no IP address is `forbidden`.
 *
 * An address that embeds an IPv4 address (IPv4-mapped, -compatible, -translated, NAT64, 6to4, Teredo)
 * is judged as that address; where the layout is not certain (`64:ff9b:1::/48`) or there are two
 * (Teredo's server and client), the strictest counts. Source: contract section 7.
 *
 * @param address as the resolver or `URL` writes it, without brackets. Short, octal or decimal IPv4
 *   forms are `forbidden`: only `URL` turns those into addresses.
 */
export function addressClass(address: string): AddressClass {
  const groups = parse(address)
  return groups === undefined ? 'forbidden' : strictest(judge(groups).map(verdict => verdict.class))
}

/**
 * Makes an egress policy ready to judge.
 *
 * @throws TypeError naming the variable, when an entry of a list is neither a host nor an address
 *   (`UPSTREAM_HOST_ALLOWLIST`) or neither an address nor a CIDR (`UPSTREAM_CIDR_ALLOWLIST`).
 */
export function createEgressPolicy(options: EgressPolicy): Egress {
  const hosts = new Set(options.hostAllowlist.map(allowlistedHost))
  const exceptions = options.cidrAllowlist.map(entry => {
    const network = parseNetwork(entry)
    if (network !== undefined) return network
    throw new TypeError(
      `UPSTREAM_CIDR_ALLOWLIST: "${entry}" is neither an IP address nor a CIDR; write 10.0.0.0/8 or fd00::/8`,
    )
  })
  const isException = (groups: Groups): boolean =>
    exceptions.some(network => contains(network, groups))

  return {
    permitsAddress: address => {
      const groups = parse(address)
      if (groups === undefined) return false
      const verdicts = judge(groups)
      const worst = strictest(verdicts.map(verdict => verdict.class))
      if (worst !== 'private' || options.privateNetworks === 'allow') return worst !== 'forbidden'
      return (
        isException(groups) ||
        verdicts.every(verdict => verdict.class === 'public' || isException(verdict.groups))
      )
    },
    permitsHost: host => {
      const name = canonicalHostname(host)
      if (name === '' || isForbiddenHostname(name)) return false
      return hosts.size === 0 || hosts.has(name)
    },
  }
}

/**
 * A matcher for a list of IP addresses and CIDRs. An IPv4 entry matches the IPv4-mapped form of its
 * addresses too, an IPv6 entry no IPv4 address. Bits behind the prefix are ignored, so is a zone id.
 *
 * @throws TypeError naming the entry that is neither an IP address nor a CIDR.
 */
export function createCidrMatcher(entries: readonly string[]): (address: string) => boolean {
  const parsed = networks(...entries)
  return address => {
    const groups = parse(address)
    return groups !== undefined && isIn(parsed, groups)
  }
}

interface Verdict {
  readonly class: AddressClass
  // The address that was judged: the embedded one where there is one.
  readonly groups: Groups
}

function judge(groups: Groups): Verdict[] {
  if (isMapped(groups)) return [judgeIPv4(groups)]
  // `::` and `::1` are themselves, although they look IPv4-compatible.
  if (isIn(FORBIDDEN_IPV6, groups)) return [{ class: 'forbidden', groups }]
  if (isIn(PRIVATE_IPV6, groups)) return [{ class: 'private', groups }]
  if (isIn(LAST_32_BITS, groups)) return [judgeIPv4(mapped(groups[6], groups[7]))]
  if (isIn(SIX_TO_FOUR, groups)) return [judgeIPv4(mapped(groups[1], groups[2]))]
  if (isIn(TEREDO, groups)) {
    // RFC 4380 section 4: the server as it is, the client's bits inverted.
    return [
      judgeIPv4(mapped(groups[2], groups[3])),
      judgeIPv4(mapped(groups[6] ^ 0xffff, groups[7] ^ 0xffff)),
    ]
  }
  if (isIn(NAT64_LOCAL, groups)) return judgeNat64Local(groups)
  return [{ class: 'public', groups }]
}

// An operator may run prefixes of /48 to /96 inside 64:ff9b:1::/48, and the address does not tell
// which. RFC 6052 section 2.2 leaves bits 64 to 71 out; translators ignore what is behind the IPv4
// address, so nothing there makes a layout impossible.
function judgeNat64Local(groups: Groups): Verdict[] {
  const [, , , g3, g4, g5, g6, g7] = groups
  const at48 = judgeIPv4(mapped(g3, ((g4 & 0xff) << 8) | (g5 >> 8)))
  const at56 = judgeIPv4(mapped(((g3 & 0xff) << 8) | (g4 & 0xff), g5))
  const at64 = judgeIPv4(mapped(((g4 & 0xff) << 8) | (g5 >> 8), ((g5 & 0xff) << 8) | (g6 >> 8)))
  const at96 = judgeIPv4(mapped(g6, g7))
  // A layout that is not in use reads zeros, so 0.0.0.0/8 tells nothing, unless the address is to
  // the bit what RFC 6052 makes of that prefix. The middle layouts read the last bytes of other
  // addresses as first ones: there multicast tells nothing either.
  const exactly48 = ((g4 >> 8) | (g5 & 0xff) | g6 | g7) === 0
  const telling = [
    ...[at48, at96].filter(verdict => !isThisNetwork(verdict) || (exactly48 && verdict === at48)),
    ...[at56, at64].filter(
      verdict =>
        !isThisNetwork(verdict) &&
        (verdict.class !== 'forbidden' || isIn(METADATA_IPV4, verdict.groups)),
    ),
  ]
  return telling.length === 0 ? [at96] : telling
}

function isThisNetwork(verdict: Verdict): boolean {
  return verdict.groups[6] <= 0xff
}

function judgeIPv4(groups: Groups): Verdict {
  if (isIn(METADATA_IPV4, groups) || isIn(FORBIDDEN_IPV4, groups)) {
    return { class: 'forbidden', groups }
  }
  return { class: isIn(PRIVATE_IPV4, groups) ? 'private' : 'public', groups }
}

function strictest(classes: readonly AddressClass[]): AddressClass {
  if (classes.includes('forbidden')) return 'forbidden'
  return classes.includes('private') ? 'private' : 'public'
}

function mapped(high: number, low: number): Groups {
  return [0, 0, 0, 0, 0, 0xffff, high, low]
}

function isMapped([a, b, c, d, e, f]: Groups): boolean {
  return f === 0xffff && (a | b | c | d | e) === 0
}

function isIn(list: readonly Network[], groups: Groups): boolean {
  return list.some(network => contains(network, groups))
}

function contains(network: Network, groups: Groups): boolean {
  // `::/0` is every IPv6 address and no IPv4 address.
  if (isMapped(groups) !== isMapped(network.groups)) return false
  return network.groups.every((group, index) => {
    const left = network.prefix - 16 * index
    if (left <= 0) return true
    const mask = left >= 16 ? 0xffff : 0xffff << (16 - left)
    return ((group ^ (groups[index] ?? 0)) & mask) === 0
  })
}

function networks(...entries: string[]): readonly Network[] {
  return entries.map(entry => {
    const network = parseNetwork(entry)
    if (network === undefined) {
      throw new TypeError(`"${entry}" is neither an IP address nor a CIDR`)
    }
    return network
  })
}

function parseNetwork(text: string): Network | undefined {
  const slash = text.indexOf('/')
  const address = slash === -1 ? text : text.slice(0, slash)
  const family = address.includes('%') ? 0 : isIP(address)
  const groups = family === 0 ? undefined : parse(address)
  if (groups === undefined) return undefined
  const bits = family === 4 ? 32 : 128
  const length = slash === -1 ? String(bits) : text.slice(slash + 1)
  if (!PREFIX_LENGTH.test(length) || Number(length) > bits) return undefined
  const prefix = Number(length) + (family === 4 ? MAPPED_PREFIX : 0)
  // ::ffff:0:0/90 would name IPv6 and IPv4 addresses at once.
  return isMapped(groups) && prefix < MAPPED_PREFIX ? undefined : { groups, prefix }
}

function parse(address: string): Groups | undefined {
  if (isIPv4(address)) return parseIPv4(address)
  return isIPv6(address) ? parseIPv6(address) : undefined
}

function parseIPv4(address: string): Groups {
  const [a = 0, b = 0, c = 0, d = 0] = address.split('.').map(Number)
  return mapped((a << 8) | b, (c << 8) | d)
}

function parseIPv6(address: string): Groups {
  const zone = address.indexOf('%')
  const bare = zone === -1 ? address : address.slice(0, zone)
  const gap = bare.indexOf('::')
  const head = parseGroups(gap === -1 ? bare : bare.slice(0, gap))
  const tail = gap === -1 ? [] : parseGroups(bare.slice(gap + 2))
  const zeros = Array.from({ length: 8 - head.length - tail.length }, () => 0)
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0] = [...head, ...zeros, ...tail]
  return [a, b, c, d, e, f, g, h]
}

function parseGroups(text: string): number[] {
  if (text === '') return []
  return text.split(':').flatMap(group => {
    if (!group.includes('.')) return Number.parseInt(group, 16)
    const [, , , , , , high, low] = parseIPv4(group)
    return [high, low]
  })
}

const MORE_THAN_HOST = /[/?#@\\\s*]/

// URL gives an entry the spelling that it gives a directive's host.
function allowlistedHost(entry: string): string {
  const bare = entry.startsWith('[') && entry.endsWith(']') ? entry.slice(1, -1) : entry
  const host = bare.includes(':') ? `[${bare}]` : bare
  const url = MORE_THAN_HOST.test(host) ? null : URL.parse(`http://${host}`)
  const name = url === null ? '' : canonicalHostname(url.hostname)
  if (isIP(name) === 0 && !isHostname(name)) {
    throw new TypeError(
      `UPSTREAM_HOST_ALLOWLIST: "${entry}" is not a host; write a name or an address, without scheme, port, path or wildcard`,
    )
  }
  return name
}
