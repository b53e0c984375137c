// Holds address classes and the egress policy to contract section 7.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import ipaddr from 'ipaddr.js'
import { addressClass, createCidrMatcher, createEgressPolicy } from '../../lib/address.ts'
import type { AddressClass } from '../../lib/address.ts'

const FORBIDDEN_IPV4 = [
  '0.0.0.0',
  '0.0.0.1',
  '0.255.255.255',
  '255.255.255.255',
  '169.254.0.0',
  '169.254.169.254',
  '169.254.170.2',
  '169.254.255.255',
  '100.100.100.200',
  '168.63.129.16',
  '192.0.0.192',
  '224.0.0.0',
  '224.0.0.1',
  '239.255.255.255',
  '232.1.2.3',
]
const PRIVATE_IPV4 = [
  '127.0.0.1',
  '127.255.255.255',
  '10.0.0.0',
  '10.255.255.255',
  '172.16.0.0',
  '172.31.255.255',
  '192.168.0.0',
  '192.168.255.255',
  '100.64.0.0',
  '100.127.255.255',
  '100.100.100.199',
  '100.100.100.201',
]
const PUBLIC_IPV4 = [
  '1.0.0.0',
  '8.8.8.8',
  '9.255.255.255',
  '11.0.0.0',
  '100.63.255.255',
  '100.128.0.0',
  '126.255.255.255',
  '128.0.0.0',
  '169.253.255.255',
  '169.255.0.0',
  '172.15.255.255',
  '172.32.0.0',
  '192.167.255.255',
  '192.169.0.0',
  '192.0.0.191',
  '192.0.0.193',
  '168.63.129.15',
  '168.63.129.17',
  '223.255.255.255',
  '240.0.0.0',
  '255.255.255.254',
]

const FORBIDDEN_IPV6 = [
  '::',
  '0:0:0:0:0:0:0:0',
  'fe80::',
  'fe80::1',
  'FE80::1',
  'febf::1',
  'fe80::1%eth0',
  'fe80::1%1',
  'ff00::',
  'ff02::1',
  'ff0e::1',
  'ffff::',
  'ff02::1%lo',
  'fd00:ec2::254',
  'fd00:ec2::',
  'fd00:0ec2:ffff::1',
  'fd00:ec2::254%eth0',
  'fd20:ce::254',
  'fd20:00ce:0::0254',
  'fd00:c1::a9fe:a9fe',
  'fd00:c1::169.254.169.254',
  'fd00:42::42',
  'fd00:a9fe:a9fe::1',
  'fd00:100::100:200',
]
const PRIVATE_IPV6 = [
  '::1',
  '0:0:0:0:0:0:0:1',
  '::1%lo',
  'fc00::',
  'fc00::1',
  'fd00::1',
  'fdff:ffff::1',
  'fd00:ec1::254',
  'fd00:ec3::254',
  'fd20:ce::253',
  'fd00:c1::a9fe:a9ff',
  'fd00:42::43',
  'fd00:a9fe:a9fe::2',
  'fd00:100::100:201',
  'fec0::1',
  'feff::1',
]
const PUBLIC_IPV6 = [
  '2606:4700::1111',
  '2001:db8::1',
  '2001:1::1',
  'fe00::1',
  'fbff::1',
  '100::1',
  '1::',
]

const hex = (high: string, low: string): string =>
  ((Number(high) << 8) | Number(low)).toString(16).padStart(4, '0')

/** `a.b.c.d` as the two groups `hhhh`, `llll`. */
function groups(address: string): [high: string, low: string] {
  const [a = '', b = '', c = '', d = ''] = address.split('.')
  return [hex(a, b), hex(c, d)]
}

const invert = (group: string): string => (Number.parseInt(group, 16) ^ 0xffff).toString(16)

/** An IPv4 address in every form that embeds it. */
function embeddings(address: string): Record<string, string> {
  const [high, low] = groups(address)
  return {
    'IPv4-mapped': `::ffff:${address}`,
    'IPv4-mapped, hex': `::FFFF:${high}:${low}`,
    'IPv4-mapped, long': `0:0:0:0:0:ffff:${high}:${low}`,
    'IPv4-mapped, zone': `::ffff:${address}%eth0`,
    'IPv4-translated': `::ffff:0:${address}`,
    'IPv4-translated, hex': `::ffff:0:${high}:${low}`,
    NAT64: `64:ff9b::${address}`,
    'NAT64, hex': `0064:ff9b:0:0:0:0:${high}:${low}`,
    'local NAT64 /48': `64:ff9b:1:${high}:00${low.slice(0, 2)}:${low.slice(2)}00:0:0`,
    'local NAT64 /96': `64:ff9b:1::${high}:${low}`,
    '6to4': `2002:${high}:${low}::1`,
    '6to4, bare': `2002:${high}:${low}::`,
    'Teredo client': `2001:0:808:808:0:1234:${invert(high)}:${invert(low)}`,
    'Teredo server': `2001::${high}:${low}:0:1234:${invert('0808')}:${invert('0808')}`,
    ...(high === '0000' && ['0000', '0001'].includes(low)
      ? {}
      : { 'IPv4-compatible': `::${address}`, 'IPv4-compatible, hex': `::${high}:${low}` }),
  }
}

describe('addressClass', () => {
  const table: [AddressClass, string[]][] = [
    ['forbidden', [...FORBIDDEN_IPV4, ...FORBIDDEN_IPV6]],
    ['private', [...PRIVATE_IPV4, ...PRIVATE_IPV6]],
    ['public', [...PUBLIC_IPV4, ...PUBLIC_IPV6]],
  ]
  for (const [expected, addresses] of table) {
    for (const address of addresses) {
      it(`calls ${address} ${expected}`, () => assert.equal(addressClass(address), expected))
    }
  }

  const embedded: [AddressClass, string[]][] = [
    ['forbidden', FORBIDDEN_IPV4],
    ['private', PRIVATE_IPV4],
    ['public', PUBLIC_IPV4],
  ]
  for (const [expected, addresses] of embedded) {
    for (const address of addresses) {
      it(`judges what embeds ${address} as ${address}`, () => {
        for (const [form, text] of Object.entries(embeddings(address))) {
          assert.equal(addressClass(text), expected, `${form}: ${text}`)
        }
      })
    }
  }

  it('judges every layout that a local NAT64 prefix may have', () => {
    for (const text of [
      '64:ff9b:1:a9fe:a9:fe00:808:808', // /48 with a suffix that translators ignore
      '64:ff9b:1:a9fe:ffa9:fe00::', // /48 with bits 64 to 71 set
      '64:ff9b:1:8a9:fe:a9fe::', // /56
      '64:ff9b:1:808:a9:fea9:fe00:0', // /64
      '64:ff9b:1:808:8:800:a9fe:a9fe', // /96 behind another prefix
      '64:ff9b:1::',
    ]) {
      assert.equal(addressClass(text), 'forbidden', text)
    }
    assert.equal(addressClass('64:ff9b:1:808:a:0:100:0'), 'private') // /64 of 10.0.0.1
    // 3.5.230.7 cut at /64 reads 230.7.0.0, which is no reason to refuse it.
    assert.equal(addressClass('64:ff9b:1:305:e6:700::'), 'public')
  })

  const notAddresses = [
    '',
    ' ',
    'localhost',
    '127.1',
    '127.0.1',
    '2130706433',
    '0x7f000001',
    '0177.0.0.1',
    '0x7f.0.0.1',
    '127.0.0.1.',
    '127.0.0.1 ',
    ' 127.0.0.1',
    '127.0.0.256',
    '127.0.0.1%eth0',
    '127.0.0.1:80',
    '127.0.0.1/8',
    '1.2.3',
    '1.2.3.4.5',
    '01.2.3.4',
    '８.８.８.８',
    '[::1]',
    ':::',
    '::1::',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '::g',
    '12345::',
    '::1/128',
    '::1.2.3',
    '8.8.8.8\0',
    '2606:4700::1111 ',
  ]
  for (const text of notAddresses) {
    it(`forbids ${JSON.stringify(text)}, which is no address`, () => {
      assert.equal(addressClass(text), 'forbidden')
    })
  }

  const octet = fc.oneof(
    fc.nat(255),
    fc.constantFrom(0, 10, 100, 127, 168, 169, 172, 192, 224, 254, 255, 16, 31, 63, 64, 200),
  )
  const ipv4 = fc.tuple(octet, octet, octet, octet).map(parts => parts.join('.'))
  const group = fc.oneof(
    fc.nat(0xffff),
    fc.constantFrom(
      0,
      0,
      0,
      1,
      0x64,
      0xff9b,
      0xffff,
      0x2001,
      0x2002,
      0xfe80,
      0xfd00,
      0xec2,
      0xff02,
    ),
  )
  const ipv6 = fc
    .array(group, { minLength: 8, maxLength: 8 })
    .map(list => list.map(value => value.toString(16)).join(':'))

  it('agrees with ipaddr.js about IPv4', () => {
    fc.assert(
      fc.property(ipv4, address => assert.equal(addressClass(address), oracleIPv4(address))),
      { numRuns: 10_000 },
    )
  })

  it('agrees with ipaddr.js about IPv4 inside IPv6', () => {
    fc.assert(
      fc.property(ipv4, address => {
        for (const [form, text] of Object.entries(embeddings(address))) {
          // The other layouts of this prefix may be stricter by chance; they have a test of their own.
          if (form.startsWith('local NAT64')) {
            if (oracleIPv4(address) === 'forbidden')
              assert.equal(addressClass(text), 'forbidden', text)
          } else {
            assert.equal(addressClass(text), oracleIPv4(address), text)
          }
        }
      }),
      { numRuns: 2000 },
    )
  })

  it('agrees with ipaddr.js about IPv6', () => {
    fc.assert(
      fc.property(ipv6, address => {
        const expected = oracleIPv6(address)
        if (expected !== undefined) assert.equal(addressClass(address), expected)
      }),
      { numRuns: 10_000 },
    )
  })

  it('judges an address the same however it is spelt', () => {
    fc.assert(
      fc.property(ipv6, address => {
        const expected = addressClass(address)
        const parsed = ipaddr.IPv6.parse(address)
        for (const text of [
          parsed.toString(),
          parsed.toRFC5952String(),
          parsed.toNormalizedString(),
          address.toUpperCase(),
          `${address}%eth0`,
          new URL(`http://[${address}]/`).hostname.slice(1, -1),
        ]) {
          assert.equal(addressClass(text), expected, text)
        }
      }),
      { numRuns: 3000 },
    )
  })

  it('never throws, and forbids what ipaddr.js cannot read either', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom(...'0123456789abcdefx:.%/[] '.split('')) }),
        text => {
          const found = addressClass(text)
          // Interfaces have names that ipaddr.js takes for no zone id.
          const [address = ''] = text.split('%')
          if (!ipaddr.isValid(address)) assert.equal(found, 'forbidden')
        },
      ),
      { numRuns: 5000 },
    )
  })
})

const policy = (options: Partial<Parameters<typeof createEgressPolicy>[0]> = {}) =>
  createEgressPolicy({
    hostAllowlist: [],
    privateNetworks: 'allow',
    cidrAllowlist: [],
    ...options,
  })

describe('createEgressPolicy', () => {
  it('permits private and public addresses by default, never forbidden ones', () => {
    const { permitsAddress } = policy()
    for (const address of [...PRIVATE_IPV4, ...PRIVATE_IPV6, ...PUBLIC_IPV4, ...PUBLIC_IPV6]) {
      assert.equal(permitsAddress(address), true, address)
    }
    for (const address of [...FORBIDDEN_IPV4, ...FORBIDDEN_IPV6, 'localhost', '127.1']) {
      assert.equal(permitsAddress(address), false, address)
    }
  })

  it('refuses private addresses where private networks are denied', () => {
    const { permitsAddress } = policy({ privateNetworks: 'deny' })
    for (const address of [...PRIVATE_IPV4, ...PRIVATE_IPV6, ...FORBIDDEN_IPV4]) {
      assert.equal(permitsAddress(address), false, address)
    }
    for (const address of PRIVATE_IPV4.flatMap(found => Object.values(embeddings(found)))) {
      assert.equal(permitsAddress(address), false, address)
    }
    for (const address of [...PUBLIC_IPV4, ...PUBLIC_IPV6]) {
      assert.equal(permitsAddress(address), true, address)
    }
  })

  it('permits the exceptions, in every form that embeds them', () => {
    const { permitsAddress } = policy({
      privateNetworks: 'deny',
      cidrAllowlist: ['10.1.0.0/16', '192.168.7.9', 'fd12:3456::/32', '::1'],
    })
    for (const address of ['10.1.0.0', '10.1.255.255', '192.168.7.9', 'fd12:3456::1', '::1']) {
      assert.equal(permitsAddress(address), true, address)
    }
    for (const address of Object.values(embeddings('10.1.2.3'))) {
      // The other layouts of a local NAT64 prefix read other private addresses out of this one.
      if (!address.startsWith('64:ff9b:1:')) assert.equal(permitsAddress(address), true, address)
    }
    for (const address of [
      '10.0.0.1',
      '10.2.0.0',
      '192.168.7.8',
      'fd12:3457::',
      '127.0.0.1',
      'fc00::1',
    ]) {
      assert.equal(permitsAddress(address), false, address)
    }
  })

  it('permits an exception that names the embedding address itself', () => {
    const { permitsAddress } = policy({ privateNetworks: 'deny', cidrAllowlist: ['64:ff9b::/96'] })
    assert.equal(permitsAddress('64:ff9b::10.0.0.1'), true)
    assert.equal(permitsAddress('10.0.0.1'), false)
    assert.equal(permitsAddress('64:ff9b::169.254.169.254'), false)
  })

  it('permits a Teredo address only when neither end of it is refused', () => {
    const { permitsAddress } = policy({ privateNetworks: 'deny', cidrAllowlist: ['10.0.0.0/8'] })
    assert.equal(permitsAddress('2001:0:a00:1::f5ff:fffe'), true)
    assert.equal(permitsAddress('2001:0:a00:1::3f57:fffe'), false) // client 192.168.0.1
    assert.equal(permitsAddress('2001:0:a00:1::5601:5601'), false) // client 169.254.169.254
  })

  it('makes no exception from what is always forbidden', () => {
    const { permitsAddress } = policy({
      privateNetworks: 'deny',
      cidrAllowlist: ['0.0.0.0/0', '::/0', '169.254.169.254', 'fd00:ec2::254'],
    })
    for (const address of [...FORBIDDEN_IPV4, ...FORBIDDEN_IPV6]) {
      assert.equal(permitsAddress(address), false, address)
    }
    for (const address of [...PRIVATE_IPV4, ...PRIVATE_IPV6]) {
      assert.equal(permitsAddress(address), true, address)
    }
  })

  it('permits every host without an allowlist, but no metadata service', () => {
    const { permitsHost } = policy()
    for (const host of ['api.example.com', 'localhost', '127.0.0.1', '[::1]', 'a_b']) {
      assert.equal(permitsHost(host), true, host)
    }
    for (const host of ['metadata', 'METADATA.', 'metadata.google.internal', 'ｍetadata', '']) {
      assert.equal(permitsHost(host), false, host)
    }
  })

  it('permits only the hosts of the allowlist, in any case and with a trailing dot', () => {
    const { permitsHost } = policy({
      hostAllowlist: [
        'API.example.com.',
        'bücher.example',
        '10.0.0.1',
        '::1',
        '[FD00::0:1]',
        'metadata',
      ],
    })
    for (const host of [
      'api.example.com',
      'API.EXAMPLE.COM',
      'api.example.com.',
      'xn--bcher-kva.example',
      'BÜCHER.example',
      '10.0.0.1',
      '::1',
      '[::1]',
      '[fd00::1]',
      'fd00::1',
    ]) {
      assert.equal(permitsHost(host), true, host)
    }
    for (const host of [
      'example.com',
      'x.api.example.com',
      'api.example.com.evil',
      'api-example.com',
      '10.0.0.2',
      'api.example.com..',
      '[::2]',
      '',
      'metadata',
      'bucher.example',
      'api.example.com:80',
    ]) {
      assert.equal(permitsHost(host), false, host)
    }
  })

  for (const entry of [
    '',
    '..',
    '-',
    'a b',
    'http://a',
    'a/b',
    'a:443',
    '[::1]:443',
    '*.example.com',
    'u@a',
    'a\\b',
    'a..b',
    '::1%lo',
    'a?',
    'a#',
    '1.2.3.4.5',
    '300.1.1.1',
  ]) {
    it(`throws on the allowlist entry ${JSON.stringify(entry)}, which is no host`, () => {
      assert.throws(() => policy({ hostAllowlist: [entry] }), {
        name: 'TypeError',
        message: /^UPSTREAM_HOST_ALLOWLIST: /,
      })
    })
  }

  for (const entry of [
    '',
    'a',
    '10.0.0.0/33',
    '10.0.0.0/-1',
    '10.0.0.0/',
    '10.0.0.0/8/8',
    '10/8',
    '10.0.0.0/08',
    '10.0.0.0/ 8',
    '::/129',
    'fe80::1%lo',
    'fe80::%lo/64',
    '::ffff:0:0/90',
    '[::1]/128',
    '1.2.3.4/0x8',
  ]) {
    it(`throws on the exception ${JSON.stringify(entry)}, which is no CIDR`, () => {
      assert.throws(() => policy({ cidrAllowlist: [entry] }), {
        name: 'TypeError',
        message: /^UPSTREAM_CIDR_ALLOWLIST: /,
      })
    })
  }
})

describe('createCidrMatcher', () => {
  it('matches addresses, prefixes of any length and IPv4-mapped forms', () => {
    const matches = createCidrMatcher([
      '10.1.2.3/8',
      '192.0.2.7',
      '203.0.113.128/25',
      '2001:db8::/33',
    ])
    for (const address of [
      '10.9.9.9',
      '::ffff:10.9.9.9',
      '192.0.2.7',
      '203.0.113.200',
      '2001:db8:7fff::1',
    ]) {
      assert.equal(matches(address), true, address)
    }
    for (const address of [
      '11.0.0.0',
      '192.0.2.6',
      '203.0.113.127',
      '2001:db8:8000::',
      '::10.9.9.9',
      'x',
      '',
    ]) {
      assert.equal(matches(address), false, address)
    }
  })

  it('keeps the families apart', () => {
    assert.equal(createCidrMatcher(['::/0'])('10.0.0.1'), false)
    assert.equal(createCidrMatcher(['0.0.0.0/0'])('2001:db8::1'), false)
    assert.equal(createCidrMatcher(['0.0.0.0/0'])('::ffff:1.2.3.4'), true)
    assert.equal(createCidrMatcher(['::ffff:10.0.0.0/104'])('10.0.0.1'), true)
    assert.equal(createCidrMatcher([])('10.0.0.1'), false)
  })

  it('agrees with ipaddr.js about every prefix length', () => {
    const words = fc.array(fc.constantFrom(0, 1, 0x8000, 0xffff, 0x2001), {
      minLength: 8,
      maxLength: 8,
    })
    fc.assert(
      fc.property(words, words, fc.nat(128), (left, right, prefix) => {
        const network = `1${left
          .slice(1)
          .map(value => `:${value.toString(16)}`)
          .join('')}`
        const address = `1${right
          .slice(1)
          .map(value => `:${value.toString(16)}`)
          .join('')}`
        const expected = ipaddr.IPv6.parse(address).match(ipaddr.IPv6.parse(network), prefix)
        assert.equal(createCidrMatcher([`${network}/${prefix}`])(address), expected)
      }),
      { numRuns: 3000 },
    )
  })

  it('throws on an entry that is neither address nor CIDR', () => {
    assert.throws(() => createCidrMatcher(['10.0.0.0/8', 'proxy']), { message: /"proxy"/ })
  })
})

function oracleIPv4(address: string): AddressClass {
  if (['100.100.100.200', '168.63.129.16', '192.0.0.192'].includes(address)) return 'forbidden'
  const range = ipaddr.IPv4.parse(address).range()
  switch (range) {
    case 'unspecified':
    case 'broadcast':
    case 'multicast':
    case 'linkLocal':
      return 'forbidden'
    case 'loopback':
    case 'private':
    case 'carrierGradeNat':
      return 'private'
    default:
      return 'public'
  }
}

function oracleIPv6(address: string): AddressClass | undefined {
  const parsed = ipaddr.IPv6.parse(address)
  switch (parsed.range()) {
    case 'unspecified':
    case 'multicast':
    case 'linkLocal':
      return 'forbidden'
    case 'loopback':
      return 'private'
    case 'uniqueLocal':
      return parsed.parts[0] === 0xfd00 ? undefined : 'private'
    case 'ipv4Mapped':
      return oracleIPv4(parsed.toIPv4Address().toString())
    case 'unicast':
      return parsed.parts.slice(0, 6).every(part => part === 0) || parsed.parts[0] === 0xfec0
        ? undefined
        : (parsed.parts[0] ?? 0) >= 0xfec0 && (parsed.parts[0] ?? 0) < 0xff00
          ? 'private'
          : parsed.parts[0] === 0x64 && parsed.parts[1] === 0xff9b
            ? undefined
            : 'public'
    default:
      return undefined
  }
}
