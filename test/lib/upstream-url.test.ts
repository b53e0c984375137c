// Holds a directive's URL to contract section 7: one reading, and no forbidden destination.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import { addressClass } from '../../lib/address.ts'
import { canonicalHostname, isHostname } from '../../lib/hostname.ts'
import { isForbiddenHostname } from '../../lib/hostname.ts'
import { parseUpstreamUrl } from '../../lib/upstream-url.ts'

const LONG_LABEL = 'a'.repeat(63)
const LONG_NAME = `${LONG_LABEL}.${LONG_LABEL}.${LONG_LABEL}.${'a'.repeat(61)}`

// Hosts in every notation of the contract. Each is refused over http and https, with and without port.
const FORBIDDEN_HOSTS = [
  // 169.254.169.254
  '169.254.169.254',
  '169.254.169.254.',
  '2852039166',
  '0xa9fea9fe',
  '0XA9FEA9FE',
  '025177524776',
  '0xa9.0xfe.0xa9.0xfe',
  '0251.0376.0251.0376',
  '169.254.43518',
  '169.16689662',
  '0xa9.254.0251.254',
  '0xa9fea9fe.',
  '0x00000000a9fea9fe',
  '00000251.0376.0251.0376',
  '169.254.0xa9fe',
  '%31%36%39.254.169.254',
  '１６９.２５４.１６９.２５４',
  '①⑥⑨.②⑤④.①⑥⑨.②⑤④',
  '169。254。169。254',
  '169．254．169．254',
  '169｡254｡169｡254',
  '[::ffff:169.254.169.254]',
  '[::ffff:a9fe:a9fe]',
  '[::FFFF:A9FE:A9FE]',
  '[0:0:0:0:0:ffff:a9fe:a9fe]',
  '[::169.254.169.254]',
  '[::a9fe:a9fe]',
  '[::ffff:0:169.254.169.254]',
  '[::ffff:0:a9fe:a9fe]',
  '[64:ff9b::169.254.169.254]',
  '[64:ff9b::a9fe:a9fe]',
  '[64:ff9b:1:a9fe:a9:fe00::]',
  '[64:ff9b:1::a9fe:a9fe]',
  '[2002:a9fe:a9fe::]',
  '[2002:a9fe:a9fe::1]',
  '[2001:0:808:808::5601:5601]',
  '[2001::a9fe:a9fe:0:0:f7f7:f7f7]',
  // The rest of link-local, and other clouds.
  '169.254.0.1',
  '169.254.170.2',
  '169.254.255.255',
  '169.254.1',
  '100.100.100.200',
  '1684301000',
  '0x646464c8',
  '0144.0144.0144.0310',
  '168.63.129.16',
  '2822734096',
  '0xa83f8110',
  '192.0.0.192',
  '3221225664',
  '192.192',
  '[::ffff:100.100.100.200]',
  '[::ffff:168.63.129.16]',
  '[64:ff9b::192.0.0.192]',
  '[fe80::1]',
  '[fe80::]',
  '[FE80::1]',
  '[febf::1]',
  '[fe80:0:0:0:0:0:0:1]',
  '[fe80::169.254.169.254]',
  '[fd00:ec2::254]',
  '[FD00:0EC2:0::254]',
  '[fd00:ec2:1::]',
  '[fd20:ce::254]',
  '[fd00:c1::a9fe:a9fe]',
  '[fd00:c1::169.254.169.254]',
  '[fd00:42::42]',
  '[fd00:a9fe:a9fe::1]',
  '[fd00:100::100:200]',
  // Zone ids have no place in a URL.
  '[fe80::1%25eth0]',
  '[fe80::1%eth0]',
  '[::1%25lo]',
  '[2001:db8::1%251]',
  // Names.
  'metadata',
  'metadata.',
  'METADATA',
  'Metadata.',
  'metadata.google.internal',
  'metadata.google.internal.',
  'METADATA.GOOGLE.INTERNAL',
  'metadata。google。internal',
  'ｍｅｔａｄａｔａ',
  'ｍｅｔａｄａｔａ.google.internal',
  'metadata.goog',
  'Metadata.Goog.',
  'instance-data',
  'INSTANCE-DATA.',
  'instance-data.ec2.internal',
  'instance-data.ec2.internal.',
  'instance\u00ad-data',
  'meta\u200bdata',
  '%6detadata',
  'metadata%2egoog',
  'ⓜetadata',
  // Multicast, unspecified, broadcast.
  '224.0.0.1',
  '239.255.255.250',
  '0xe0000001',
  '3758096385',
  '[ff02::1]',
  '[ff0e::1]',
  '[::ffff:224.0.0.1]',
  '0.0.0.0',
  '0',
  '0x0',
  '0x',
  '00',
  '0.0',
  '0.',
  '0.1',
  '0.255.255.255',
  '[::]',
  '[::0.0.0.0]',
  '[::ffff:0.0.0.0]',
  '[0:0:0:0:0:0:0:0]',
  '[::2]',
  '255.255.255.255',
  '4294967295',
  '0xffffffff',
  '[64:ff9b::255.255.255.255]',
]

const NO_HOSTS = [
  '.',
  '..',
  '...',
  '-',
  '--',
  '-a',
  'a-',
  'a.-',
  'a.-b',
  '-.a',
  '.a',
  'a..',
  'a..b',
  'a...',
  'a,b',
  "a'b",
  'a*b',
  '*',
  '*.example.com',
  'a(b',
  'a;b',
  'a=b',
  'a&b',
  'a$b',
  'a!b',
  'a+b',
  'a~b',
  'a"b',
  'a`b',
  'a{b',
  'a<b',
  'a>b',
  'a^b',
  'a|b',
  'a%b',
  'a%20b',
  'a%00b',
  'a%2fb',
  'a%5cb',
  'a%40b',
  'a%3ab',
  'a%23b',
  'a%3fb',
  'a[b',
  '[',
  '[]',
  '[::1',
  '::1',
  '[::g]',
  '[1.2.3.4]',
  '[::1.2.3]',
  '[:::]',
  '[v1.x]',
  '256.1.1.1',
  '1.2.3.4.5',
  '1.2.3.256',
  '4294967296',
  '0x100000000',
  'a.1',
  'a.1.',
  'a.0x',
  'a.0x1f',
  '08',
  '1.2.3.09',
  `${LONG_LABEL}a`,
  `${LONG_LABEL}a.example`,
  `a.${LONG_NAME}`,
  `a.${LONG_NAME}.`,
  'a\u0000b',
  'xn--',
  '\u00ad',
]

const UNSAFE_URLS = [
  '',
  ' ',
  'a',
  '/a',
  '//a',
  '//a/b',
  'a.example/x',
  'a.example:80',
  'http',
  'http:',
  'http:/',
  'http://',
  'http:///',
  'http:///a',
  'http:a',
  'http:/a',
  'https:a',
  'https:///a',
  'http://?',
  'http://#',
  'http://?a',
  'http://:80',
  'ftp://a',
  'ws://a',
  'wss://a',
  'file:///etc/passwd',
  'file://a/b',
  'gopher://a',
  'data:text/plain,x',
  'javascript:alert(1)',
  'unix:/var/run/docker.sock',
  'blob:http://a/x',
  'about:blank',
  'httpx://a',
  'xhttp://a',
  'view-source:http://a',
  'http+unix://a',
  'htt\u0440://a',
  'jar:http://a!/',
  // Userinfo.
  'http://u@a',
  'http://u:p@a',
  'http://:p@a',
  'http://@a',
  'http://:@a',
  'http://a@',
  'http://a@b@c',
  'http://a:80@b',
  'http://example.com@169.254.169.254/',
  'http://u@a/x@y',
  'http://%75@a',
  'https://u:@a',
  // Backslashes.
  'http:\\\\a',
  'http://a\\b',
  'http://a\\@b',
  'http://a/b\\c',
  'http://a/?b\\c',
  'http://a#\\',
  'http:/\\a',
  '\\\\a',
  // Ports.
  'http://a:0',
  'http://a:00',
  'http://a:00000',
  'https://a:0/x',
  'http://a:65536',
  'http://a:-1',
  'http://a:x',
  'http://a:80:80',
  'http://a:8 0',
  'http://a:0x50',
  'http://[::1]:0',
  'http://[::1]80',
  'http://127.0.0.1:0',
  'http://a:８０８０',
  // What URL would strip.
  ' http://a',
  'http://a ',
  '\thttp://a',
  'http://a\n',
  'ht\ntp://a',
  'http://a\t.example',
  'http://a/b\r\nc',
  'http://a/b c',
  '\u0000http://a',
  'http://a\u0000',
  'http://a/\u0001',
  'http://a/\u007f',
  'http://a/\u0085',
  'http://a/\u00a0',
  '\ufeffhttp://a',
  'http://a/?b c',
  'http://a/#b c',
  'http://\u2028a',
  'http://a\u3000',
]

describe('parseUpstreamUrl', () => {
  for (const host of FORBIDDEN_HOSTS) {
    it(`refuses the destination ${JSON.stringify(host)}`, () => {
      for (const url of [
        `http://${host}/`,
        `https://${host}`,
        `http://${host}:8080/x?y`,
        `HTTP://${host}#`,
      ]) {
        assert.equal(parseUpstreamUrl(url), undefined, url)
      }
    })
  }

  for (const host of NO_HOSTS) {
    it(`refuses ${JSON.stringify(host.slice(0, 80))}, which is no host`, () => {
      assert.equal(parseUpstreamUrl(`http://${host}/`), undefined)
      assert.equal(parseUpstreamUrl(`https://${host}`), undefined)
    })
  }

  for (const url of UNSAFE_URLS) {
    it(`refuses the URL ${JSON.stringify(url)}`, () =>
      assert.equal(parseUpstreamUrl(url), undefined))
  }

  const accepted: [url: string, origin: string, target: string, address?: string][] = [
    ['http://a', 'http://a', '/'],
    ['http://a/', 'http://a', '/'],
    ['https://api.example.com', 'https://api.example.com', '/'],
    ['HTTPS://API.Example.COM/V1', 'https://api.example.com', '/V1'],
    ['http://a.', 'http://a', '/'],
    ['http://api.example.com.:8080/', 'http://api.example.com:8080', '/'],
    ['http://a:80', 'http://a', '/'],
    ['https://a:443/x', 'https://a', '/x'],
    ['http://a:443', 'http://a:443', '/'],
    ['https://a:80', 'https://a:80', '/'],
    ['http://a:', 'http://a', '/'],
    ['http://a:65535', 'http://a:65535', '/'],
    ['http://a:0080', 'http://a', '/'],
    ['http://a:1', 'http://a:1', '/'],
    ['http://a/b/', 'http://a', '/b/'],
    ['http://a//b//c', 'http://a', '//b//c'],
    ['http://a/b/../c/./d', 'http://a', '/c/d'],
    ['http://a/../..', 'http://a', '/'],
    ['http://a/b%2Fc%20d', 'http://a', '/b%2Fc%20d'],
    ['http://a/é', 'http://a', '/%C3%A9'],
    ['http://a/@b:c;d', 'http://a', '/@b:c;d'],
    ['http://a?b', 'http://a', '/?b'],
    ['http://a/?', 'http://a', '/'],
    ['http://a/b?c=d&e=%41+f&&', 'http://a', '/b?c=d&e=%41+f&&'],
    ['http://a/b?c?d/e@f', 'http://a', '/b?c?d/e@f'],
    ['http://a/b#c', 'http://a', '/b'],
    ['http://a/b?c#d?e', 'http://a', '/b?c'],
    ['http://a#b', 'http://a', '/'],
    ['http://localhost:3000/x', 'http://localhost:3000', '/x'],
    ['http://my_service.ns.svc.cluster.local', 'http://my_service.ns.svc.cluster.local', '/'],
    ['http://_x', 'http://_x', '/'],
    ['http://r3---sn-x.example', 'http://r3---sn-x.example', '/'],
    ['http://1a.2b', 'http://1a.2b', '/'],
    ['http://0xg.example', 'http://0xg.example', '/'],
    ['http://1.example', 'http://1.example', '/'],
    ['http://bücher.example', 'http://xn--bcher-kva.example', '/'],
    ['http://ＡＰＩ.example', 'http://api.example', '/'],
    ['http://%61pi.example', 'http://api.example', '/'],
    ['http://metadata.example', 'http://metadata.example', '/'],
    ['http://xmetadata', 'http://xmetadata', '/'],
    ['http://metadata.google.internal.example', 'http://metadata.google.internal.example', '/'],
    [`http://${LONG_NAME}`, `http://${LONG_NAME}`, '/'],
    [`http://${LONG_NAME}.`, `http://${LONG_NAME}`, '/'],
    ['http://127.0.0.1', 'http://127.0.0.1', '/', '127.0.0.1'],
    ['http://127.0.0.1.', 'http://127.0.0.1', '/', '127.0.0.1'],
    ['http://127.1', 'http://127.0.0.1', '/', '127.0.0.1'],
    ['http://0177.0.0.1', 'http://127.0.0.1', '/', '127.0.0.1'],
    ['http://0x7f000001', 'http://127.0.0.1', '/', '127.0.0.1'],
    ['http://2130706433', 'http://127.0.0.1', '/', '127.0.0.1'],
    ['http://１２７.0.0.1', 'http://127.0.0.1', '/', '127.0.0.1'],
    ['http://10.0.0.1:8080/x', 'http://10.0.0.1:8080', '/x', '10.0.0.1'],
    ['http://8.8.8.8', 'http://8.8.8.8', '/', '8.8.8.8'],
    ['http://[::1]', 'http://[::1]', '/', '::1'],
    ['http://[::1]:8080/x', 'http://[::1]:8080', '/x', '::1'],
    ['http://[0:0::0:1]', 'http://[::1]', '/', '::1'],
    ['http://[::ffff:127.0.0.1]', 'http://[::ffff:7f00:1]', '/', '::ffff:7f00:1'],
    ['http://[FD00::1]', 'http://[fd00::1]', '/', 'fd00::1'],
    ['https://[2606:4700::1111]', 'https://[2606:4700::1111]', '/', '2606:4700::1111'],
  ]
  for (const [url, origin, target, address] of accepted) {
    it(`takes ${JSON.stringify(url.slice(0, 80))} apart`, () => {
      const parsed = parseUpstreamUrl(url)
      assert.ok(parsed)
      assert.equal(parsed.origin, origin)
      assert.equal(parsed.path + (parsed.query === undefined ? '' : `?${parsed.query}`), target)
      assert.equal(parsed.address, address)
      assert.equal(`${parsed.protocol}//${parsed.host}`, origin)
      const standard = new URL(origin)
      assert.equal(parsed.hostname, standard.hostname)
      assert.equal(parsed.host, standard.host)
      const defaultPort = parsed.protocol === 'https:' ? 443 : 80
      assert.equal(parsed.port, standard.port === '' ? defaultPort : Number(standard.port))
    })
  }

  const PIECES = [
    'http',
    'https',
    ':',
    '//',
    '/',
    '@',
    '\\',
    '?',
    '#',
    '.',
    '..',
    '[',
    ']',
    '%',
    '%2e',
    '%00',
    ' ',
    '\t',
    '-',
    '169.254.169.254',
    '0xa9fea9fe',
    '::ffff:',
    '::',
    'fe80',
    'metadata',
    'Ｍetadata',
    '。',
    'a',
    'b.c',
    '0',
    '80',
    '127.1',
  ]
  const texts = fc.oneof(
    fc.array(fc.constantFrom(...PIECES), { maxLength: 8 }).map(pieces => pieces.join('')),
    fc
      .array(fc.constantFrom(...PIECES), { maxLength: 6 })
      .map(pieces => `http://${pieces.join('')}`),
    fc.webUrl({ withQueryParameters: true, withFragments: true }),
    fc.webUrl({
      authoritySettings: {
        withIPv4: true,
        withIPv4Extended: true,
        withIPv6: true,
        withPort: true,
        withUserInfo: true,
      },
    }),
    fc.string(),
  )

  it('never admits what another reading of the same text would forbid', () => {
    let admitted = 0
    fc.assert(
      fc.property(texts, text => {
        const parsed = parseUpstreamUrl(text)
        if (parsed === undefined) return
        admitted += 1
        const standard = new URL(text)
        assert.match(text, /^https?:\/\//i)
        assert.equal(standard.username + standard.password, '')
        assert.ok(parsed.port >= 1 && parsed.port <= 65_535)
        assert.doesNotMatch(text, /[\s\p{Cc}\\]/u)
        assert.ok(!isForbiddenHostname(parsed.hostname))
        if (parsed.address === undefined) assert.match(parsed.hostname, /^[a-z0-9_.-]+$/)
        else assert.notEqual(addressClass(parsed.address), 'forbidden')
        assert.equal(standard.hostname.replace(/\.$/, ''), parsed.hostname)
      }),
      { numRuns: 10_000 },
    )
    assert.ok(admitted > 500, `only ${admitted} URLs were admitted`)
  })

  it('gives an origin that parses to itself', () => {
    fc.assert(
      fc.property(texts, text => {
        const parsed = parseUpstreamUrl(text)
        if (parsed === undefined) return
        const query = parsed.query === undefined ? '' : `?${parsed.query}`
        assert.deepEqual(parseUpstreamUrl(`${parsed.origin}${parsed.path}${query}`), parsed)
      }),
      { numRuns: 5000 },
    )
  })

  it('gives every notation of an IPv4 address the same address', () => {
    fc.assert(
      fc.property(fc.nat(0xffffffff), value => {
        const parts = [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255]
        const dotted = parts.join('.')
        const expected = addressClass(dotted) === 'forbidden' ? undefined : dotted
        for (const host of [
          dotted,
          `${dotted}.`,
          String(value),
          `0x${value.toString(16)}`,
          `0${value.toString(8)}`,
          parts.map(part => `0x${part.toString(16)}`).join('.'),
          parts.map(part => `0${part.toString(8)}`).join('.'),
          `${parts[0]}.${value & 0xffffff}`,
          `${parts[0]}.${parts[1]}.${value & 0xffff}`,
          dotted.replaceAll(/[0-9]/g, digit => String.fromCodePoint(0xff10 + Number(digit))),
        ]) {
          assert.equal(parseUpstreamUrl(`http://${host}/`)?.address, expected, host)
        }
      }),
      { numRuns: 1000 },
    )
  })
})

describe('isForbiddenHostname', () => {
  for (const name of [
    'metadata',
    'METADATA.',
    'ｍｅｔａｄａｔａ．ｇｏｏｇ',
    'metadata.google.internal',
    'instance-data',
    'Instance-Data.EC2.internal.',
  ]) {
    it(`refuses ${name}`, () => assert.equal(isForbiddenHostname(name), true))
  }
  for (const name of [
    '',
    'metadata.example',
    'my-metadata',
    'instance-data.example',
    'goog',
    'internal',
  ]) {
    it(`admits ${JSON.stringify(name)}`, () => assert.equal(isForbiddenHostname(name), false))
  }
})

describe('canonicalHostname', () => {
  const cases: [host: string, canonical: string][] = [
    ['A.Example.', 'a.example'],
    ['[FE80::1]', 'fe80::1'],
    ['bücher.example', 'xn--bcher-kva.example'],
    ['a。b', 'a.b'],
    ['', ''],
    ['.', ''],
    ['a..', 'a.'],
    ['ü b', ''],
  ]
  for (const [host, canonical] of cases) {
    it(`spells ${JSON.stringify(host)}`, () => assert.equal(canonicalHostname(host), canonical))
  }
})

describe('isHostname', () => {
  it('draws the line at 63 characters a label and 253 a name', () => {
    assert.equal(isHostname(LONG_LABEL), true)
    assert.equal(isHostname(`${LONG_LABEL}a`), false)
    assert.equal(LONG_NAME.length, 253)
    assert.equal(isHostname(LONG_NAME), true)
    assert.equal(isHostname(`${LONG_NAME}a`), false)
  })

  it('takes a name whose last label is a number for no host name', () => {
    for (const name of ['1', 'a.1', '1.2.3.4', 'a.0x', 'a.0x1f', '']) {
      assert.equal(isHostname(name), false, name)
    }
    for (const name of ['1.a', 'a1', '0xg', '1-1']) assert.equal(isHostname(name), true, name)
  })
})
