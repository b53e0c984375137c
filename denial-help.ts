/**
 * What to do about each refusal, for whoever was refused or runs the gateway.
 */
import type { Check } from './denial.ts'

/** One or two sentences for each check. */
export const DENIAL_HELP = {
  overloaded: 'Wait and try again; if it lasts, add replicas or raise MAX_IN_FLIGHT.',
  malformed_request:
    'Repair the request as the description says; the client or a proxy before the gateway made it.',
  revocation_state_unavailable:
    'See that Redis, and PostgreSQL when DATABASE_URL is set, answer the gateway.',
  evidence_unavailable:
    'See that AUDIT_REPLAY_DIR can be written and has room, and that Redis takes events.',
  method_not_allowed:
    'Use GET or HEAD on the endpoints of the gateway itself; CONNECT is not proxied.',
  missing_bearer: 'Send the mandate as Authorization: Bearer <mandate>.',
  oversized_bearer: 'Ask the STS for a smaller mandate: 4096 bytes is the most.',
  malformed_bearer: 'Send the mandate as the STS gave it: three parts, with an integer exp.',
  expiring_bearer:
    'Get a new mandate: it must be good for 35 s when it arrives. Compare the clocks if it is new.',
  client_id_header: 'Leave X-Caracal-Client-ID out: the mandate says who the client is.',
  missing_resource_header: 'Send X-Caracal-Resource exactly once, with the resource identifier.',
  missing_zone: 'Get the mandate from the STS of a zone: it has no usable zone_id.',
  missing_client: 'Get the mandate for a client: it has no usable client_id.',
  path_traversal: 'Send the path without dot segments, backslashes and broken percent-encoding.',
  unknown_zone:
    "Declare the mandate's zone in the bindings, or get a mandate of a zone that is there.",
  keys_unavailable: 'See that the gateway reaches the STS: caracal-gateway check --zone ZONE.',
  invalid_signature:
    'Get a mandate from the STS that STS_URL names: no key of the zone signed this one, or iss or nbf do not fit.',
  mandate_use: 'Get a mandate with use "gateway", or widen MANDATE_USES.',
  mandate_target: 'Get a mandate for this resource, or correct X-Caracal-Resource.',
  missing_token_id: 'Get a mandate with a jti.',
  revoked: 'Sign in again: the session, the agent session or the delegation was revoked.',
  unbound_resource:
    "Declare the resource in the bindings of the mandate's zone, or correct X-Caracal-Resource.",
  undeclared_operation:
    'Declare method and path as an operation of the resource, or correct the request.',
  missing_scope: 'Get a mandate with the scope that the operation needs.',
  sts_circuit_open:
    'Wait for the STS to recover: the gateway tries it every 10 s. The mandate is not spent.',
  request_too_large: 'Send a smaller body, or raise MAX_REQUEST_BYTES.',
  request_timeout: 'Send the body faster, or raise READ_TIMEOUT.',
  replayed: 'Get a new mandate for each request: this one was used.',
  replay_state_unavailable: 'See that Redis answers and takes writes. The mandate may be spent.',
  sts_refused: "Read the STS's own error; its audit says why.",
  sts_unreachable: 'See that the STS runs, and that STS_URL leads to it.',
  sts_timeout: 'See why the STS is slow, or raise STS_TIMEOUT.',
  sts_response_invalid: 'See that STS_URL leads to the STS: its answer was none of an STS.',
  unrouted_resource: 'Give the resource an upstream at the STS.',
  unsafe_upstream: 'Correct the upstream at the STS, or the allowlists of the gateway.',
  credential_host:
    "Add the upstream's host to allowed_token_hosts at the STS, or correct the upstream.",
  request_build_failed:
    'Correct the directive of the resource at the STS: mode, header or parameter name.',
  upstream_unreachable:
    'See that the upstream runs, and that its certificate is one that the gateway trusts.',
  upstream_timeout: 'See why the upstream is slow, or raise UPSTREAM_TIMEOUT.',
  internal_error: 'Find the log line of the request by its id, and report it.',
} as const satisfies Record<Check, string>
