/**
 * The closed table of everything the gateway refuses, and the error that carries a refusal.
 *
 * Nothing else in the tree writes a denial's words. The table's order is the order of the checks
 * (contract section 2); metrics, logs, evidence and docs use the same names.
 */

/** How a check's refusal is answered: status, `error` and `error_description` of the JSON body. */
export interface DenialRow {
  /** HTTP status. */
  readonly status: number
  /** Member `error` of the body. */
  readonly error: string
  /** Member `error_description` of the body; a check may replace it where the contract says so. */
  readonly description: string
  /** Counter of the Go gateway that this check belongs to, without prefix and `_total`. */
  readonly counter?: LegacyCounter
}

/** Counters that Caracal's alert rules know (contract section 11). */
export type LegacyCounter =
  | 'denials_missing_auth'
  | 'denials_bad_bearer'
  | 'denials_expiring'
  | 'denials_bad_routing'
  | 'denials_path_traversal'
  | 'denials_signature'
  | 'denials_jti_replay'
  | 'denials_revoked'
  | 'denials_revocation_stale'
  | 'sts_circuit_fast_fail'

/** Every check, in the order in which they run. */
export const DENIALS = {
  overloaded: { status: 503, error: 'overloaded', description: 'gateway overloaded' },
  malformed_request: { status: 400, error: 'invalid_request', description: 'malformed request' },
  revocation_state_unavailable: {
    status: 503,
    error: 'sts_unavailable',
    description: 'revocation state unavailable',
    counter: 'denials_revocation_stale',
  },
  evidence_unavailable: {
    status: 503,
    error: 'internal_error',
    description: 'audit evidence unavailable',
  },
  method_not_allowed: { status: 405, error: 'invalid_request', description: 'method not allowed' },
  missing_bearer: {
    status: 401,
    error: 'invalid_token',
    description: 'missing bearer token',
    counter: 'denials_missing_auth',
  },
  oversized_bearer: {
    status: 401,
    error: 'invalid_token',
    description: 'bearer token too large',
    counter: 'denials_bad_bearer',
  },
  malformed_bearer: {
    status: 401,
    error: 'invalid_token',
    description: 'malformed bearer token',
    counter: 'denials_bad_bearer',
  },
  expiring_bearer: {
    status: 401,
    error: 'credential_expired_not_renewable',
    description: 'credential expiring within pre-flight window',
    counter: 'denials_expiring',
  },
  client_id_header: {
    status: 400,
    error: 'invalid_token',
    description: 'client identity derives from the bearer token',
    counter: 'denials_bad_routing',
  },
  missing_resource_header: {
    status: 400,
    error: 'invalid_token',
    description: 'missing routing headers',
    counter: 'denials_bad_routing',
  },
  missing_zone: {
    status: 401,
    error: 'invalid_token',
    description: 'missing token zone',
    counter: 'denials_bad_bearer',
  },
  missing_client: {
    status: 401,
    error: 'invalid_token',
    description: 'missing token client',
    counter: 'denials_bad_bearer',
  },
  path_traversal: {
    status: 400,
    error: 'invalid_token',
    description: 'path traversal not permitted',
    counter: 'denials_path_traversal',
  },
  unknown_zone: {
    status: 403,
    error: 'access_denied',
    description: 'resource not configured',
    counter: 'denials_bad_routing',
  },
  keys_unavailable: {
    status: 503,
    error: 'sts_unavailable',
    description: 'signing keys unavailable',
  },
  invalid_signature: {
    status: 401,
    error: 'invalid_token',
    description: 'bearer signature invalid',
    counter: 'denials_signature',
  },
  mandate_use: {
    status: 401,
    error: 'invalid_token',
    description: 'mandate use not accepted',
    counter: 'denials_bad_bearer',
  },
  mandate_target: {
    status: 403,
    error: 'access_denied',
    description: 'resource not in mandate target',
    counter: 'denials_bad_routing',
  },
  missing_token_id: {
    status: 401,
    error: 'invalid_token',
    description: 'missing token id',
    counter: 'denials_bad_bearer',
  },
  revoked: {
    status: 401,
    error: 'invalid_token',
    description: 'session revoked',
    counter: 'denials_revoked',
  },
  unbound_resource: {
    status: 403,
    error: 'access_denied',
    description: 'resource not configured',
    counter: 'denials_bad_routing',
  },
  undeclared_operation: {
    status: 403,
    error: 'operation_not_permitted',
    description: 'operation not declared',
  },
  missing_scope: {
    status: 403,
    error: 'operation_not_permitted',
    description: 'scope missing',
  },
  sts_circuit_open: {
    status: 503,
    error: 'sts_unavailable',
    description: 'sts unavailable',
    counter: 'sts_circuit_fast_fail',
  },
  request_too_large: {
    status: 413,
    error: 'payload_too_large',
    description: 'request body too large',
  },
  request_timeout: { status: 408, error: 'invalid_request', description: 'request timeout' },
  replayed: {
    status: 401,
    error: 'invalid_token',
    description: 'token replay detected',
    counter: 'denials_jti_replay',
  },
  replay_state_unavailable: {
    status: 503,
    error: 'sts_unavailable',
    description: 'replay state unavailable',
  },
  sts_refused: { status: 502, error: 'sts_unavailable', description: 'sts unavailable' },
  sts_unreachable: { status: 502, error: 'sts_unavailable', description: 'sts unavailable' },
  sts_timeout: { status: 504, error: 'sts_unavailable', description: 'sts timeout' },
  sts_response_invalid: {
    status: 502,
    error: 'sts_unavailable',
    description: 'sts response invalid',
  },
  unrouted_resource: {
    status: 403,
    error: 'access_denied',
    description: 'resource upstream not configured',
  },
  unsafe_upstream: {
    status: 502,
    error: 'internal_error',
    description: 'upstream not addressable',
  },
  credential_host: {
    status: 502,
    error: 'internal_error',
    description: 'provider credential not allowed for upstream host',
  },
  request_build_failed: {
    status: 400,
    error: 'internal_error',
    description: 'upstream request build failed',
  },
  upstream_unreachable: {
    status: 502,
    error: 'internal_error',
    description: 'upstream unreachable',
  },
  upstream_timeout: { status: 504, error: 'internal_error', description: 'upstream timeout' },
  internal_error: { status: 500, error: 'internal_error', description: 'internal error' },
} as const satisfies Record<string, DenialRow>

/** The name of a built-in check: the same in metrics, logs, evidence, `explain` and docs. */
export type Check = keyof typeof DENIALS

/** Whether a name is a built-in check's. */
export function isCheck(name: string): name is Check {
  return Object.hasOwn(DENIALS, name)
}

/** What a refusal may add to its row of the table. */
export interface DenialOptions {
  /** Replaces the row's status, where the contract lets another party set it (STS, HTTP parser). */
  readonly status?: number
  /** Replaces the row's `error`. */
  readonly error?: string
  /** Replaces the row's `error_description`. Never holds a token or a claim set. */
  readonly description?: string
  /** Further members of the JSON body (a refusal of the STS keeps its own). */
  readonly members?: Readonly<Record<string, unknown>>
  /** Response headers that the refusal brings, lower-case names. */
  readonly headers?: Readonly<Record<string, string>>
  /** For the log only. */
  readonly cause?: unknown
}

/** A refusal in full, as a team's plugin throws it. */
export interface CustomDenial extends DenialOptions {
  /** The name of the plugin's check, `^[a-z][a-z0-9_]{0,63}$`. */
  readonly check: string
  /** HTTP status, 400 to 599. */
  readonly status: number
  /** Member `error` of the body. */
  readonly error: string
  /** Member `error_description` of the body. Never holds a token or a claim set. */
  readonly description: string
}

const DENIAL = Symbol.for('caracal-gateway.denial')
const CHECK_NAME = /^[a-z][a-z0-9_]{0,63}$/

/**
 * A refusal. Hooks throw it; the error handler answers, counts, logs and audits it.
 *
 * Built-in checks name their row of {@link DENIALS}; a team's plugin passes the whole refusal.
 *
 * @throws TypeError when a custom denial's check or status is out of range.
 */
export class Denial extends Error {
  /** The check's name. */
  readonly check: string
  /** HTTP status of the answer. */
  readonly statusCode: number
  /** Member `error` of the body. */
  readonly error: string
  /** Member `error_description` of the body. */
  readonly description: string
  /** Further members of the body. */
  readonly members: Readonly<Record<string, unknown>> | undefined
  /** Response headers that the refusal brings, lower-case names. */
  readonly headers: Readonly<Record<string, string>> | undefined

  /** A plugin may have its own copy of this module: what it throws is a denial all the same. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return value instanceof Error && DENIAL in value
  }

  /** What every copy of this class knows a denial by. */
  readonly [DENIAL] = true

  constructor(check: Check, options?: DenialOptions)
  constructor(denial: CustomDenial)
  constructor(checkOrDenial: Check | CustomDenial, options: DenialOptions = {}) {
    const given = typeof checkOrDenial === 'string' ? options : checkOrDenial
    const check = typeof checkOrDenial === 'string' ? checkOrDenial : checkOrDenial.check
    const row = typeof checkOrDenial === 'string' ? DENIALS[checkOrDenial] : checkOrDenial
    // Most of what a refusal would cost is a stack that nobody reads: its check says where it comes from.
    const limit = Error.stackTraceLimit
    Error.stackTraceLimit = 0
    super(given.description ?? row.description, { cause: given.cause })
    Error.stackTraceLimit = limit
    this.name = 'Denial'
    this.check = check
    this.statusCode = given.status ?? row.status
    this.error = given.error ?? row.error
    this.description = given.description ?? row.description
    this.members = given.members
    this.headers = given.headers
    if (!CHECK_NAME.test(check)) {
      throw new TypeError(`check must match ${CHECK_NAME.source}`)
    }
    if (!Number.isInteger(this.statusCode) || this.statusCode < 400 || this.statusCode > 599) {
      throw new TypeError('status must be an integer from 400 to 599')
    }
  }
}
