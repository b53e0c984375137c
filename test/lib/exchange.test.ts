// Holds the exchange to contract section 4: the fields of its body, its signature, and what its answer may say.

import assert from 'node:assert/strict'
import { createHash, createHmac, createSecretKey } from 'node:crypto'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import {
  exchangeBody,
  exchangeSignature,
  isRecord,
  parseExchangeAnswer,
  parseExchangeRefusal,
} from '../../lib/exchange.ts'

const REQUEST = {
  zoneId: 'zone-1',
  clientId: 'client:1',
  token: 'a.b.c',
  resource: 'resource://billing-api?x=1&y=2',
  method: 'POST',
  path: '/v1/a b/ü&c=d',
  requestId: 'r-1',
}

describe('exchangeBody', () => {
  it('holds exactly the fields of the contract', () => {
    assert.deepEqual(
      [...new URLSearchParams(exchangeBody(REQUEST))],
      [
        ['grant_type', 'urn:ietf:params:oauth:grant-type:token-exchange'],
        ['zone_id', REQUEST.zoneId],
        ['application_id', REQUEST.clientId],
        ['subject_token', REQUEST.token],
        ['subject_token_type', 'urn:ietf:params:oauth:token-type:access_token'],
        ['resource', REQUEST.resource],
        ['request_method', REQUEST.method],
        ['request_path', REQUEST.path],
        ['gateway_request_id', REQUEST.requestId],
      ],
    )
  })

  it('gives back every value that went in, whatever it holds', () => {
    const text = fc.string({ unit: 'binary', maxLength: 30 })
    const request = fc.record({
      zoneId: text,
      clientId: text,
      token: text,
      resource: text,
      method: text,
      path: text,
      requestId: text,
    })
    fc.assert(
      fc.property(request, given => {
        const body = exchangeBody(given)
        assert.match(body, /^[\x21-\x7e]*$/)
        const fields = new URLSearchParams(body)
        assert.equal(fields.size, 9)
        assert.deepEqual(
          {
            zoneId: fields.get('zone_id'),
            clientId: fields.get('application_id'),
            token: fields.get('subject_token'),
            resource: fields.get('resource'),
            method: fields.get('request_method'),
            path: fields.get('request_path'),
            requestId: fields.get('gateway_request_id'),
          },
          { ...given },
        )
      }),
    )
  })
})

describe('exchangeSignature', () => {
  const key = createSecretKey(Buffer.from('0f'.repeat(32), 'hex'))
  const signed = {
    timestamp: 1_790_000_000,
    nonce: 'ab'.repeat(32),
    method: 'POST',
    path: '/sts/oauth/2/token',
    body: 'grant_type=x&path=%C3%BC',
  }

  it('is the HMAC of the five lines that the contract names', () => {
    const digest = createHash('sha256').update(signed.body, 'utf8').digest('hex')
    const lines = [String(signed.timestamp), signed.nonce, signed.method, signed.path, digest]
    const expected = createHmac('sha256', Buffer.from('0f'.repeat(32), 'hex'))
      .update(lines.join('\n'))
      .digest('hex')
    assert.equal(exchangeSignature(key, signed), expected)
    assert.match(expected, /^[0-9a-f]{64}$/)
  })

  for (const change of [
    { timestamp: 1_790_000_001 },
    { nonce: 'ac'.repeat(32) },
    { method: 'GET' },
    { path: '/oauth/2/token' },
    { body: 'grant_type=x&path=%C3%BD' },
  ]) {
    it(`changes with ${Object.keys(change).join()}`, () => {
      assert.notEqual(
        exchangeSignature(key, { ...signed, ...change }),
        exchangeSignature(key, signed),
      )
    })
  }
})

describe('parseExchangeAnswer', () => {
  it('takes the token and the directives', () => {
    const upstreams = { 'resource://a': { url: 'https://a.test' } }
    const text = JSON.stringify({ access_token: 't', token_type: 'Bearer', upstreams })
    assert.deepEqual(parseExchangeAnswer(text), { accessToken: 't', upstreams })
  })

  for (const upstreams of ['null', '[]', '"x"', '1']) {
    it(`takes upstreams of ${upstreams} for none`, () => {
      const answer = parseExchangeAnswer(`{"access_token":"t","upstreams":${upstreams}}`)
      assert.deepEqual(answer, { accessToken: 't', upstreams: {} })
    })
  }

  for (const text of [
    '',
    ' ',
    'null',
    '[]',
    '"t"',
    '1',
    '{',
    '{}',
    '<html>',
    '{"access_token":""}',
    '{"access_token":null}',
    '{"access_token":1}',
    '{"access_token":["t"]}',
    '\ufeff{}',
  ]) {
    it(`has no use for ${JSON.stringify(text)}`, () => {
      assert.equal(parseExchangeAnswer(text), undefined)
    })
  }
})

describe('parseExchangeRefusal', () => {
  it('keeps the further members, and only those', () => {
    const text =
      '{"error":"approval_required","error_description":"d","approval_id":"a","details":{"x":[1]},"tier":null}'
    assert.deepEqual(parseExchangeRefusal(text), {
      error: 'approval_required',
      description: 'd',
      members: { approval_id: 'a', details: { x: [1] }, tier: null },
    })
  })

  it('does without a description, or one that is no text', () => {
    for (const text of ['{"error":"e"}', '{"error":"e","error_description":{}}']) {
      assert.deepEqual(parseExchangeRefusal(text), {
        error: 'e',
        description: undefined,
        members: {},
      })
    }
  })

  for (const text of [
    '',
    '[]',
    'null',
    '{}',
    '{"error":""}',
    '{"error":{}}',
    'error',
    '{"error"',
  ]) {
    it(`finds no refusal in ${JSON.stringify(text)}`, () => {
      assert.equal(parseExchangeRefusal(text), undefined)
    })
  }

  it('never throws, and never sets a prototype', () => {
    fc.assert(
      fc.property(fc.oneof(fc.json(), fc.string()), text => {
        parseExchangeRefusal(text)
        parseExchangeAnswer(text)
      }),
    )
    const refusal = parseExchangeRefusal('{"error":"e","__proto__":{"polluted":true}}')
    assert.equal(Object.getPrototypeOf(refusal?.members), Object.prototype)
  })
})

describe('isRecord', () => {
  const cases: [value: unknown, is: boolean][] = [
    [{}, true],
    [Object.create(null), true],
    [null, false],
    [undefined, false],
    [[], false],
    ['{}', false],
    [1, false],
    [() => ({}), false],
  ]
  for (const [value, is] of cases) {
    it(`is ${is} for ${typeof value} ${JSON.stringify(value)}`, () => {
      assert.equal(isRecord(value), is)
    })
  }
})
