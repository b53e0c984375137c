// Holds the forwarding headers to contract section 5: a caller is believed as far as TRUST_PROXY goes, and no further.

import assert from 'node:assert/strict'
import { isIP } from 'node:net'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import {
  clientAddress,
  clientScheme,
  type ProxyTrust,
  plainAddress,
  proxyTrust,
} from '../../lib/forwarded.ts'

const PROXIES = proxyTrust(['10.0.0.0/8', '2001:db8::/32', '127.0.0.1'])

describe('proxyTrust', () => {
  it('takes true for the first entry and false for nobody', () => {
    assert.equal(proxyTrust(true), 'first')
    assert.equal(proxyTrust(false), 'none')
  })
})

describe('plainAddress', () => {
  const cases: [address: string, plain: string][] = [
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['192.0.2.1', '192.0.2.1'],
    ['2001:db8::1', '2001:db8::1'],
    ['::1', '::1'],
    ['', ''],
  ]
  for (const [address, plain] of cases) {
    it(`writes ${JSON.stringify(address)} as ${JSON.stringify(plain)}`, () => {
      assert.equal(plainAddress(address), plain)
    })
  }
})

describe('clientAddress', () => {
  const cases: [
    title: string,
    peer: string,
    forwardedFor: string | undefined,
    trust: ProxyTrust,
    address: string,
  ][] = [
    ['the peer, whatever it says', '192.0.2.1', '203.0.113.9', 'none', '192.0.2.1'],
    ['the peer that says nothing', '192.0.2.1', undefined, 'first', '192.0.2.1'],
    ['a mapped peer in its own form', '::ffff:192.0.2.1', undefined, 'none', '192.0.2.1'],
    ['the first entry', '192.0.2.1', '203.0.113.9, 10.0.0.1', 'first', '203.0.113.9'],
    [
      'the peer for a first entry that is no address',
      '192.0.2.1',
      'x, 1.2.3.4',
      'first',
      '192.0.2.1',
    ],
    ['the peer for an address with a port', '192.0.2.1', '1.2.3.4:80', 'first', '192.0.2.1'],
    ['the peer for an empty entry', '192.0.2.1', '', 'first', '192.0.2.1'],
    ['an IPv6 entry', '192.0.2.1', '2001:db8::9', 'first', '2001:db8::9'],
    ['an untrusted peer', '192.0.2.1', '203.0.113.9', PROXIES, '192.0.2.1'],
    [
      'the last entry of a trusted peer',
      '10.0.0.1',
      '6.6.6.6, 203.0.113.9',
      PROXIES,
      '203.0.113.9',
    ],
    [
      'the one before trusted entries',
      '10.0.0.1',
      '6.6.6.6, 203.0.113.9, 10.2.2.2',
      PROXIES,
      '203.0.113.9',
    ],
    ['a mapped trusted peer', '::ffff:10.0.0.1', '203.0.113.9', PROXIES, '203.0.113.9'],
    [
      'the leftmost of a chain that is all trusted',
      '10.0.0.1',
      '10.0.0.3, 10.0.0.2',
      PROXIES,
      '10.0.0.3',
    ],
    [
      'the nearest proxy for an entry that is no address',
      '10.0.0.1',
      '1.2.3.4, unknown',
      PROXIES,
      '10.0.0.1',
    ],
    ['IPv6 proxies', '2001:db8::1', '203.0.113.9, 2001:db8::2', PROXIES, '203.0.113.9'],
  ]
  for (const [title, peer, forwardedFor, trust, address] of cases) {
    it(`is ${title}`, () => assert.equal(clientAddress(peer, forwardedFor, trust), address))
  }

  it('is always an address: the peer’s, or one of the chain', () => {
    const entry = fc.oneof(
      fc.ipV4(),
      fc.ipV6(),
      fc.constantFrom(
        '10.0.0.2',
        '127.0.0.1',
        'unknown',
        '1.2.3.4:80',
        '[::1]',
        '',
        '1.2.3.4\r\nA: b',
      ),
      fc.string({ maxLength: 6 }),
    )
    const trust = fc.constantFrom<ProxyTrust>(
      'none',
      'first',
      PROXIES,
      () => true,
      () => false,
    )
    const peer = fc.constantFrom('192.0.2.1', '10.0.0.1', '::1', '::ffff:10.0.0.1')
    fc.assert(
      fc.property(peer, fc.array(entry, { maxLength: 6 }), trust, (from, chain, believed) => {
        const address = clientAddress(from, chain.join(', '), believed)
        assert.notEqual(isIP(address), 0)
        if (believed === 'none') assert.equal(address, plainAddress(from))
      }),
    )
  })

  it('lets no caller push an address past an untrusted one', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.ipV4(), fc.string()), { maxLength: 5 }), forged => {
        const header = [...forged, '203.0.113.9', '10.9.9.9'].join(', ')
        assert.equal(clientAddress('10.0.0.1', header, PROXIES), '203.0.113.9')
      }),
    )
  })
})

describe('clientScheme', () => {
  const cases: [
    own: 'http' | 'https',
    peer: string,
    forwarded: string | undefined,
    trust: ProxyTrust,
    scheme: string,
  ][] = [
    ['http', '10.0.0.1', 'https', 'none', 'http'],
    ['http', '192.0.2.1', 'https', 'first', 'https'],
    ['https', '192.0.2.1', 'http', 'first', 'http'],
    ['http', '192.0.2.1', undefined, 'first', 'http'],
    ['http', '192.0.2.1', 'ftp', 'first', 'http'],
    ['http', '192.0.2.1', 'https, http', 'first', 'http'],
    ['http', '192.0.2.1', 'https\r\nX: y', 'first', 'http'],
    ['http', '192.0.2.1', 'https', PROXIES, 'http'],
    ['http', '10.0.0.1', 'https', PROXIES, 'https'],
    ['http', '::ffff:10.0.0.1', 'https', PROXIES, 'https'],
  ]
  for (const [own, peer, forwarded, trust, scheme] of cases) {
    const how = typeof trust === 'string' ? trust : 'proxies'
    it(`is ${scheme} for ${own} from ${peer} saying ${JSON.stringify(forwarded)}, trust ${how}`, () => {
      assert.equal(clientScheme(own, peer, forwarded, trust), scheme)
    })
  }
})
