/**
 * Guarantees that each check can be explained: why it refuses, what to do about it, and what has become of the
 * mandate. `docs/denials.md` is generated from this table and the one in `denial.ts`.
 */
import type { Check } from '../denial.ts'

/** What a caller and an operator need to know of a refusal beyond its words on the wire. */
export interface DenialHelp {
  /** Why the check refuses: sentences. */
  readonly cause: string
  /** What to do about it: sentences. */
  readonly cure: string
  /** Whether the mandate can still be used: `either` where the check can refuse before and after it was spent. */
  readonly mandate: 'unspent' | 'spent' | 'either'
}

/** Help for every check, in the order of the checks. Plain text; backticks mark names. */
export const DENIAL_HELP = {
  overloaded: {
    cause:
      'The gateway has more requests without an answer than `MAX_IN_FLIGHT` allows, or its event loop or its memory is at the limit.',
    cure: 'Send it again after `Retry-After`. Operators: the log says once a second what is used up; add replicas, or see which stage is slow.',
    mandate: 'unspent',
  },
  malformed_request: {
    cause:
      'The request is no well-formed HTTP/1.1: framing, `Host`, target, more than 100 header fields, or headers that are too large or too late. The description says which.',
    cure: 'Mend the client, or what stands between it and the gateway. Of HTTP the gateway speaks 1.1 and 1.0, of transfer codings `chunked`.',
    mandate: 'either',
  },
  revocation_state_unavailable: {
    cause:
      'The gateway has not been able to read the revocations for 70 s. It would rather refuse everybody than let somebody pass who was revoked.',
    cure: 'Send it again after `Retry-After`. Operators: mend Redis or, with `DATABASE_URL`, PostgreSQL; it recovers with the next read.',
    mandate: 'unspent',
  },
  evidence_unavailable: {
    cause:
      'Audit evidence could not be kept: `AUDIT_REPLAY_DIR` takes no writes, or the queue is full.',
    cure: 'Send it again after `Retry-After`, with a new mandate if this one comes back as a replay. Operators: make room on the disk or mend its permissions, and see that Redis takes writes.',
    mandate: 'either',
  },
  method_not_allowed: {
    cause:
      'The method is `CONNECT`, or another than `GET` or `HEAD` on an endpoint of the gateway itself.',
    cure: 'Use a method that the gateway passes on. It is no forward proxy: send requests to it as to the upstream.',
    mandate: 'unspent',
  },
  missing_bearer: {
    cause: 'There is no `Authorization: Bearer` header, or it is empty or of another scheme.',
    cure: 'Get a mandate from the STS and send it as `Authorization: Bearer <mandate>`.',
    mandate: 'unspent',
  },
  oversized_bearer: {
    cause: 'The bearer token has more than 4096 bytes.',
    cure: 'Send the mandate alone. If the mandate itself is so large, have the STS put less into it.',
    mandate: 'unspent',
  },
  malformed_bearer: {
    cause:
      'The bearer token is no JWS of three parts whose payload is a JSON object with an integer `exp`.',
    cure: 'Send a mandate from the STS, unchanged. An API key or an opaque token is none.',
    mandate: 'unspent',
  },
  expiring_bearer: {
    cause:
      'The mandate has expired or expires within 35 s, so it might expire while the call is under way.',
    cure: 'Get a new mandate just before the call. If new ones are refused, compare the clocks of the STS and the gateway.',
    mandate: 'unspent',
  },
  client_id_header: {
    cause:
      'The request has an `X-Caracal-Client-ID` header. Who the client is, the mandate says alone.',
    cure: 'Remove the header.',
    mandate: 'unspent',
  },
  missing_resource_header: {
    cause: '`X-Caracal-Resource` is absent, blank, or there twice.',
    cure: 'Send it exactly once, with the identifier of the resource.',
    mandate: 'unspent',
  },
  missing_zone: {
    cause:
      "The mandate's claim `zone_id` is absent or is not 1 to 128 letters, digits, `.`, `_`, `:` or `-`.",
    cure: 'Send a mandate, not another token of the STS. If it is one, the STS issues it wrongly.',
    mandate: 'unspent',
  },
  missing_client: {
    cause:
      "The mandate's claim `client_id` is absent or is not 1 to 128 letters, digits, `.`, `_`, `:` or `-`.",
    cure: 'Send a mandate, not another token of the STS. If it is one, the STS issues it wrongly.',
    mandate: 'unspent',
  },
  path_traversal: {
    cause:
      'The path could lead elsewhere than it seems: dot segments, backslashes, control characters, or an encoding that two readers could read differently.',
    cure: 'Send the path in its plain form, percent-encoded once. Names that hold such characters belong into the query or the body.',
    mandate: 'unspent',
  },
  unknown_zone: {
    cause: "No binding names the mandate's zone.",
    cure: 'See that the mandate comes from the STS zone that is meant. Operators: add the zone to `BINDINGS_FILE`, or its resources to the table.',
    mandate: 'unspent',
  },
  keys_unavailable: {
    cause: "The zone's signing keys cannot be fetched from the STS, and no known one is usable.",
    cure: 'Send it again after `Retry-After`. Operators: mend what `GET {STS_URL}/.well-known/jwks.json?zone_id=ZONE` answers.',
    mandate: 'unspent',
  },
  invalid_signature: {
    cause:
      'The signature does not hold, the algorithm is not ES256, the key is unknown, `nbf` lies ahead, a `crit` header is not understood, or `iss` is not `STS_ISSUER`.',
    cure: 'Get the mandate from the STS that this gateway trusts. Operators: after a rotation keep the old key published until its last mandate has expired; compare `STS_ISSUER` and the clocks.',
    mandate: 'unspent',
  },
  mandate_use: {
    cause: "The mandate's claim `use` is not among `MANDATE_USES`.",
    cure: 'Ask the STS for a mandate for the gateway (`use` is `gateway`). Operators: extend `MANDATE_USES` only for uses that are meant to pass here.',
    mandate: 'unspent',
  },
  mandate_target: {
    cause:
      "The mandate's claim `target` does not have the resource that `X-Caracal-Resource` names.",
    cure: 'Ask the STS for a mandate for this resource, or correct the header: identifiers are compared to the last character.',
    mandate: 'unspent',
  },
  missing_token_id: {
    cause: 'The mandate has no `jti`, so that nobody could see that it is used once only.',
    cure: 'Send a mandate, not another token of the STS. If it is one, the STS issues it wrongly.',
    mandate: 'unspent',
  },
  revoked: {
    cause:
      'The authority record, its root, the agent session or the delegation that the mandate depends on was revoked. It can happen while the request waits for the upstream.',
    cure: 'Do not send it again. Get a new session or delegation, then a new mandate. A session that was resumed passes again after the next snapshot from PostgreSQL; without `DATABASE_URL` it stays refused for 24 hours.',
    mandate: 'either',
  },
  unbound_resource: {
    cause: "The mandate's zone has no binding for the resource.",
    cure: 'Correct `X-Caracal-Resource`: identifiers are compared to the last character. Operators: bind the resource in `BINDINGS_FILE` or the table; it is picked up without a restart.',
    mandate: 'unspent',
  },
  undeclared_operation: {
    cause:
      'The resource enforces its operations, and none of them has this method and path. The description names both.',
    cure: 'Compare method and path with the binding: case, a trailing slash, and `HEAD` beside `GET` count. Operators: declare the operation, or observe the resource first (`operation_enforcement: observe`).',
    mandate: 'unspent',
  },
  missing_scope: {
    cause:
      'The operation is declared with a scope that the mandate does not carry. The description names it.',
    cure: 'Ask the STS for a mandate with that scope.',
    mandate: 'unspent',
  },
  sts_circuit_open: {
    cause:
      'The STS failed three times in a row, and the gateway gives it 10 s before it tries again.',
    cure: 'Send it again after `Retry-After`. Operators: mend the STS; the circuit closes with the first exchange that succeeds.',
    mandate: 'unspent',
  },
  request_too_large: {
    cause:
      'The body has, or says that it has, more bytes than `MAX_REQUEST_BYTES`. A body without a length is measured while it streams.',
    cure: 'Send less. Operators: raise `MAX_REQUEST_BYTES`; bodies are streamed, not held in memory.',
    mandate: 'either',
  },
  request_timeout: {
    cause: 'The body did not arrive within `READ_TIMEOUT`.',
    cure: 'Send the body faster, or in parts, with a new mandate. Operators: raise `READ_TIMEOUT` for slow callers.',
    mandate: 'either',
  },
  replayed: {
    cause: 'A mandate with this `jti` has been used before. A mandate is for one call.',
    cure: 'Get a new mandate for each call, repetitions included. If nobody of yours used it before, somebody else did: revoke the session.',
    mandate: 'spent',
  },
  replay_state_unavailable: {
    cause: 'Redis cannot say whether the mandate was used before.',
    cure: 'Get a new mandate and send it again: the claim may have arrived. Operators: Redis is away, full, read-only, or slower than `REDIS_READ_TIMEOUT`.',
    mandate: 'either',
  },
  sts_refused: {
    cause:
      'The STS does not allow the call. Status, `error` and description are its own, and so are further members such as `approval_*`.',
    cure: 'Do what its answer says: ask for an approval, for another scope, or for a change of the policy. Then get a new mandate. The STS keeps the evidence of what it refused.',
    mandate: 'spent',
  },
  sts_unreachable: {
    cause: 'The STS could not be reached, or broke off.',
    cure: 'Get a new mandate and send it again. Operators: mend the STS or the way to it; `STS_CA_FILE` if its certificate is of a private authority.',
    mandate: 'spent',
  },
  sts_timeout: {
    cause: 'The STS did not answer within `STS_TIMEOUT`.',
    cure: 'Get a new mandate and send it again. Operators: give the STS room, or raise `STS_TIMEOUT`.',
    mandate: 'spent',
  },
  sts_response_invalid: {
    cause:
      'The STS answered with a redirect, with something else than JSON, with more than 16 KiB, or without an `access_token`.',
    cure: 'Operators: see what stands at `STS_URL`; a login page or a proxy in between answers like this. Callers need a new mandate.',
    mandate: 'spent',
  },
  unrouted_resource: {
    cause: 'The STS allowed the call and named no upstream for the resource.',
    cure: 'Operators: give the resource an upstream URL where the STS keeps its resources. Callers need a new mandate.',
    mandate: 'spent',
  },
  unsafe_upstream: {
    cause:
      'The upstream that the STS named is a forbidden destination (metadata service, link-local, multicast), is not on `UPSTREAM_HOST_ALLOWLIST`, is private while `UPSTREAM_PRIVATE_NETWORKS` is `deny`, is no URL of `http` or `https`, or its name does not resolve.',
    cure: 'Operators: correct the URL of the resource, DNS, or the allowlists. Callers need a new mandate.',
    mandate: 'spent',
  },
  credential_host: {
    cause:
      "The provider's credential may not be sent to the upstream's host: the directive's `allowed_token_hosts` does not name it.",
    cure: "Operators: correct the resource's URL, or the hosts that the provider allows, at the STS. Callers need a new mandate.",
    mandate: 'spent',
  },
  request_build_failed: {
    cause:
      'What the STS ordered cannot be applied: an unknown `auth_mode`, no credential, or a header that is reserved or invalid. The log says what.',
    cure: 'Operators: correct the resource or its provider at the STS. Callers need a new mandate.',
    mandate: 'spent',
  },
  upstream_unreachable: {
    cause:
      'The upstream could not be reached, its certificate is not trusted, it broke off before its answer, or the answer is no HTTP.',
    cure: 'Read `dispatched`. `no`: get a new mandate and send it again. `unknown`: it may have happened, look before you repeat it. Operators: mend the upstream; `UPSTREAM_CA_FILE` if its certificate is of a private authority.',
    mandate: 'spent',
  },
  upstream_timeout: {
    cause:
      'The upstream did not take the connection, or sent no response headers, within `UPSTREAM_TIMEOUT`; or the gateway was stopped meanwhile.',
    cure: 'Read `dispatched`. `no`: get a new mandate and send it again. `unknown`: it may have happened, look before you repeat it. Operators: speed the upstream up, or raise `UPSTREAM_TIMEOUT` (and `READ_TIMEOUT` with it).',
    mandate: 'spent',
  },
  internal_error: {
    cause: 'A defect of the gateway.',
    cure: 'Read `dispatched` before you repeat it. Operators: the `requestId` leads to a log line of level `error`; please report it.',
    mandate: 'either',
  },
} as const satisfies Record<Check, DenialHelp>
