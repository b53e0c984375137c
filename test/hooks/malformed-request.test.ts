// Holds the check of the request's form to contract section 2: 400, 414 and 431, each with its reason.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { denyMalformedRequest } from '../../hooks/malformed-request.ts'
import { type Given, judge } from './judge.ts'

const fields = (count: number) => [
  'Host',
  'gateway.test',
  ...Array.from({ length: count - 1 }, (_, i) => [`x-${i}`, 'v']).flat(),
]

describe('denyMalformedRequest', () => {
  const cases: [title: string, given: Given, status: number | undefined, says?: string][] = [
    ['a plain request', {}, undefined],
    ['100 header fields', { rawHeaders: fields(100) }, undefined],
    ['101 header fields', { rawHeaders: fields(101) }, 431, 'more than 100 header fields'],
    ['a target of 16 KiB', { url: `/${'a'.repeat(16 * 1024 - 1)}` }, undefined],
    ['a longer target', { url: `/${'a'.repeat(16 * 1024)}` }, 414, 'request target too long'],
    ['no Host', { rawHeaders: ['Accept', '*/*'] }, 400, 'exactly one Host header is needed'],
    ['no Host in HTTP/1.0', { rawHeaders: [], httpVersion: '1.0' }, undefined],
    ['an empty Host', { rawHeaders: ['Host', ''] }, undefined],
    [
      'two Hosts',
      { rawHeaders: ['Host', 'a', 'hOST', 'a'] },
      400,
      'exactly one Host header is needed',
    ],
    ['two Hosts in HTTP/1.0', { rawHeaders: ['Host', 'a', 'Host', 'b'], httpVersion: '1.0' }, 400],
    ['a value that says Host', { rawHeaders: ['Host', 'a', 'X-A', 'Host'] }, undefined],
    ['chunks', { headers: { 'transfer-encoding': 'chunked' } }, undefined],
    ['chunks in capitals', { headers: { 'transfer-encoding': 'CHUNKED' } }, undefined],
    [
      'gzip before chunks',
      { headers: { 'transfer-encoding': 'gzip, chunked' } },
      400,
      'transfer coding not supported, only chunked',
    ],
    ['chunks twice', { headers: { 'transfer-encoding': 'chunked, chunked' } }, 400],
    ['a Host with a port', { headers: { host: 'gateway.test:8081' } }, undefined],
    ['an IPv6 Host', { headers: { host: '[::1]:8081' } }, undefined],
    ['a Host with white space', { headers: { host: 'a b' } }, 400, 'Host header is not a host'],
    ['a Host with a path', { headers: { host: 'a/b' } }, 400, 'Host header is not a host'],
    ['a Host with userinfo', { headers: { host: 'u@a' } }, 400, 'Host header is not a host'],
    ['two Hosts in one', { headers: { host: 'a, b' } }, 400, 'Host header is not a host'],
    [
      'chunks in HTTP/1.0',
      { headers: { 'transfer-encoding': 'chunked' }, httpVersion: '1.0' },
      400,
      'no transfer coding in HTTP/1.0',
    ],
    ['identity', { headers: { 'transfer-encoding': 'identity' } }, 400],
  ]
  for (const [title, given, status, says] of cases) {
    it(`${status === undefined ? 'admits' : 'denies'} ${title}`, async () => {
      const { check, denial } = await judge(denyMalformedRequest(), given)
      assert.equal(check, status === undefined ? 'admitted' : 'malformed_request')
      assert.equal(denial?.statusCode, status)
      if (says !== undefined) assert.equal(denial?.description, says)
    })
  }

  it('closes the connection behind framing that nobody understands, and behind nothing else', async () => {
    const coded = await judge(denyMalformedRequest(), { headers: { 'transfer-encoding': 'gzip' } })
    assert.equal(coded.denial?.headers?.['connection'], 'close')
    const hostless = await judge(denyMalformedRequest(), { rawHeaders: [] })
    assert.equal(hostless.denial?.headers?.['connection'], undefined)
  })
})
