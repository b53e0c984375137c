// What it shows: only what TLS can be spoken with passes for a pair, and no problem tells what the files hold.
import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { describe, test } from 'node:test'
import { keyPairProblems, readCertificates } from '../../lib/key-pair.ts'
import { createCertificate } from '../certificate.ts'

const one = createCertificate()
const other = createCertificate()
const encrypted = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  .privateKey.export({ format: 'pem', type: 'pkcs8', cipher: 'aes-256-cbc', passphrase: 'x' })
  .toString()
const half = (pem: string) => pem.slice(0, pem.length / 2)

describe('the gateway takes for a key pair', () => {
  for (const [name, cert, key, expected] of [
    ['a certificate and its key', one.cert, one.key, []],
    ['a chain and the key of its leaf', one.cert + other.cert, one.key, []],
    ['not a chain and the key of another', other.cert + one.cert, one.key, ['key']],
    ['not a certificate and a foreign key', one.cert, other.key, ['key']],
    ['not half a certificate', half(one.cert), one.key, ['cert']],
    ['not a certificate and half of another', one.cert + half(other.cert), one.key, ['cert']],
    ['not half a key', one.cert, half(one.key), ['key']],
    ['not an encrypted key', one.cert, encrypted, ['key']],
    ['not the two in the place of each other', one.key, one.cert, ['cert', 'key']],
    ['not nothing', '', '', ['cert', 'key']],
    ['nothing else while there is no key', one.cert, undefined, []],
    ['nothing else while there is no certificate', undefined, half(one.key), ['key']],
  ] as const) {
    test(name, () => {
      const problems = keyPairProblems(cert, key)
      assert.deepEqual(
        problems.map(({ of }) => of),
        expected,
      )
      for (const { rule } of problems) assert.match(rule, /^must [a-zA-Z ,]+$/)
    })
  }

  test('not one that OpenSSL would not use', () => {
    // RSA of 512 bits. A key as short as this one opens nothing, and nobody accepts it.
    const { cert, key } = createCertificate(['localhost'], { rsaBits: 512 })
    assert.deepEqual(keyPairProblems(cert, key), [
      {
        of: 'cert',
        rule: 'must name a certificate that TLS can be spoken with (ERR_SSL_EE_KEY_TOO_SMALL)',
      },
    ])
  })
})

test('the gateway reads every certificate of a text, or none', () => {
  assert.equal(readCertificates(`# two\n${one.cert}\r\n${other.cert}`)?.length, 2)
  assert.equal(readCertificates('# none'), undefined)
})
