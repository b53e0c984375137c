// Holds the table of denials to contract section 2, row by row and in its order.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { DENIALS, Denial, isCheck } from '../denial.ts'

/** The contract's table: check, status, `error`, `error_description` where the table fixes it. */
const CONTRACT: [check: string, status: number, error: string, description?: string][] = [
  ['overloaded', 503, 'overloaded', 'gateway overloaded'],
  ['malformed_request', 400, 'invalid_request'],
  ['revocation_state_unavailable', 503, 'sts_unavailable', 'revocation state unavailable'],
  ['evidence_unavailable', 503, 'internal_error', 'audit evidence unavailable'],
  ['method_not_allowed', 405, 'invalid_request', 'method not allowed'],
  ['missing_bearer', 401, 'invalid_token', 'missing bearer token'],
  ['oversized_bearer', 401, 'invalid_token', 'bearer token too large'],
  ['malformed_bearer', 401, 'invalid_token', 'malformed bearer token'],
  [
    'expiring_bearer',
    401,
    'credential_expired_not_renewable',
    'credential expiring within pre-flight window',
  ],
  ['client_id_header', 400, 'invalid_token', 'client identity derives from the bearer token'],
  ['missing_resource_header', 400, 'invalid_token', 'missing routing headers'],
  ['missing_zone', 401, 'invalid_token', 'missing token zone'],
  ['missing_client', 401, 'invalid_token', 'missing token client'],
  ['path_traversal', 400, 'invalid_token', 'path traversal not permitted'],
  ['unknown_zone', 403, 'access_denied', 'resource not configured'],
  ['keys_unavailable', 503, 'sts_unavailable', 'signing keys unavailable'],
  ['invalid_signature', 401, 'invalid_token', 'bearer signature invalid'],
  ['mandate_use', 401, 'invalid_token', 'mandate use not accepted'],
  ['mandate_target', 403, 'access_denied', 'resource not in mandate target'],
  ['missing_token_id', 401, 'invalid_token', 'missing token id'],
  ['revoked', 401, 'invalid_token', 'session revoked'],
  ['unbound_resource', 403, 'access_denied', 'resource not configured'],
  ['undeclared_operation', 403, 'operation_not_permitted'],
  ['missing_scope', 403, 'operation_not_permitted'],
  ['sts_circuit_open', 503, 'sts_unavailable', 'sts unavailable'],
  ['request_too_large', 413, 'payload_too_large', 'request body too large'],
  ['request_timeout', 408, 'invalid_request', 'request timeout'],
  ['replayed', 401, 'invalid_token', 'token replay detected'],
  ['replay_state_unavailable', 503, 'sts_unavailable', 'replay state unavailable'],
  // Its status, error and description are the STS's own.
  ['sts_refused', 502, 'sts_unavailable'],
  ['sts_unreachable', 502, 'sts_unavailable', 'sts unavailable'],
  ['sts_timeout', 504, 'sts_unavailable', 'sts timeout'],
  ['sts_response_invalid', 502, 'sts_unavailable', 'sts response invalid'],
  ['unrouted_resource', 403, 'access_denied', 'resource upstream not configured'],
  ['unsafe_upstream', 502, 'internal_error', 'upstream not addressable'],
  ['credential_host', 502, 'internal_error', 'provider credential not allowed for upstream host'],
  ['request_build_failed', 400, 'internal_error', 'upstream request build failed'],
  ['upstream_unreachable', 502, 'internal_error', 'upstream unreachable'],
  ['upstream_timeout', 504, 'internal_error', 'upstream timeout'],
  ['internal_error', 500, 'internal_error', 'internal error'],
]

describe('DENIALS', () => {
  it('has the contract’s rows, in its order, and no other', () => {
    assert.deepEqual(
      Object.keys(DENIALS),
      CONTRACT.map(([check]) => check),
    )
  })

  for (const [check, status, error, description] of CONTRACT) {
    it(`answers ${check} with ${status} ${error}`, () => {
      assert.ok(isCheck(check))
      const row = DENIALS[check]
      assert.equal(row.status, status)
      assert.equal(row.error, error)
      if (description !== undefined) assert.equal(row.description, description)
      const denial = new Denial(check)
      assert.deepEqual(
        [denial.check, denial.statusCode, denial.error, denial.description, denial.message],
        [check, row.status, row.error, row.description, row.description],
      )
    })
  }
})

describe('isCheck', () => {
  for (const name of ['', 'constructor', '__proto__', 'toString', 'Revoked', 'team_check']) {
    it(`is false for ${JSON.stringify(name)}`, () => assert.equal(isCheck(name), false))
  }
})

describe('Denial', () => {
  it('is an error, with its cause', () => {
    const cause = new Error('why')
    const denial = new Denial('replayed', { cause })
    assert.ok(denial instanceof Error)
    assert.equal(denial.name, 'Denial')
    assert.equal(denial.cause, cause)
    assert.equal(denial.members, undefined)
    assert.equal(denial.headers, undefined)
  })

  it('takes what a row leaves to others', () => {
    const denial = new Denial('sts_refused', {
      status: 409,
      error: 'approval_required',
      description: 'ask first',
      members: { approval_id: 'a' },
      headers: { 'retry-after': '3' },
    })
    assert.deepEqual(
      [denial.statusCode, denial.error, denial.description, denial.members, denial.headers],
      [409, 'approval_required', 'ask first', { approval_id: 'a' }, { 'retry-after': '3' }],
    )
  })

  const custom = { check: 'team_quota', status: 429, error: 'quota', description: 'quota used up' }

  it('is a team’s own when it is given in full', () => {
    const denial = new Denial({ ...custom, headers: { 'retry-after': '60' } })
    assert.deepEqual(
      [denial.check, denial.statusCode, denial.error, denial.description, denial.headers],
      ['team_quota', 429, 'quota', 'quota used up', { 'retry-after': '60' }],
    )
  })

  for (const check of ['a', 'a1_b', `a${'b'.repeat(63)}`]) {
    it(`takes the check ${check.slice(0, 8)}`, () => {
      assert.equal(new Denial({ ...custom, check }).check, check)
    })
  }

  for (const check of ['', 'A', '1a', '_a', 'a-b', 'a b', 'a\n', 'ä', `a${'b'.repeat(64)}`]) {
    it(`refuses the check ${JSON.stringify(check).slice(0, 8)}`, () => {
      assert.throws(() => new Denial({ ...custom, check }), TypeError)
    })
  }

  for (const status of [400, 418, 599]) {
    it(`takes the status ${status}`, () => {
      assert.equal(new Denial({ ...custom, status }).statusCode, status)
    })
  }

  for (const status of [0, 100, 200, 302, 399, 600, 400.5, Number.NaN, Number.POSITIVE_INFINITY]) {
    it(`refuses the status ${status}: a denial must not look like an answer`, () => {
      assert.throws(() => new Denial({ ...custom, status }), TypeError)
      assert.throws(() => new Denial('sts_refused', { status }), TypeError)
    })
  }
})
