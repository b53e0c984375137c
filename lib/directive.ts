/**
 * Guarantees that an STS directive is applied as it says or not at all (contract sections 4, 5 and 7).
 *
 * A directive comes from the STS, yet it is data: a hostile or broken one must not set a header that the gateway
 * keeps for itself, nor send a credential where it does not belong.
 */
import { isRecord } from './exchange.ts'
import { isFieldName, isFieldValue, isReservedHeader } from './headers.ts'
import type { UpstreamUrl } from './upstream-url.ts'

/** How the upstream authenticates the gateway. */
export type AuthMode = 'none' | 'caracal_jwt' | 'provider_oauth' | 'provider_apikey'

/** A directive that can be applied: where the request goes, and what it carries there. */
export interface Directive {
  readonly upstream: UpstreamUrl
  readonly authMode: AuthMode
  /** Headers that the directive sets: flat list of names and values. Holds the credential. */
  readonly headers: readonly string[]
  /** Query parameter that carries the credential instead of a header. */
  readonly queryCredential: { readonly name: string; readonly value: string } | undefined
}

/** What a directive says of itself that evidence may hold: no token. */
export interface DirectiveFacts {
  readonly upstreamHost: string | undefined
  readonly authMode: string | undefined
  readonly providerId: string | undefined
  readonly connectionId: string | undefined
}

/** Why a directive cannot be applied: the check that refuses, and a detail for the log. */
export class DirectiveError extends Error {
  readonly check: 'unsafe_upstream' | 'credential_host' | 'request_build_failed'

  constructor(check: DirectiveError['check'], detail: string) {
    super(detail)
    this.name = 'DirectiveError'
    this.check = check
  }
}

/** The directive of a resource, or `undefined` when the answer has none (`unrouted_resource`). */
export function directiveFor(
  upstreams: Readonly<Record<string, unknown>>,
  resource: string,
): Record<string, unknown> | undefined {
  const value = Object.hasOwn(upstreams, resource) ? upstreams[resource] : undefined
  return isRecord(value) ? value : undefined
}

/**
 * Reads a directive's facts for evidence, whatever state the rest of it is in.
 *
 * @param upstream its URL, taken apart, when it is a safe destination
 */
export function directiveFacts(
  raw: Readonly<Record<string, unknown>>,
  upstream: UpstreamUrl | undefined,
): DirectiveFacts {
  return {
    upstreamHost: upstream?.host,
    authMode: shortText(raw['auth_mode']),
    providerId: shortText(raw['provider_id']),
    connectionId: shortText(raw['connection_id']),
  }
}

function shortText(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value.slice(0, 256) : undefined
}

/**
 * Reads a directive.
 *
 * @param raw one member of the answer's `upstreams`
 * @param accessToken the answer's `access_token`
 * @param upstream its URL, taken apart, when it is a destination that may be dialled
 * @throws DirectiveError in the order of contract section 2: destination, credential's host, the rest
 */
export function parseDirective(
  raw: Readonly<Record<string, unknown>>,
  accessToken: string,
  upstream: UpstreamUrl | undefined,
): Directive {
  if (upstream === undefined) {
    throw new DirectiveError('unsafe_upstream', 'url is not an addressable http(s) destination')
  }
  if (!credentialAllowed(raw['allowed_token_hosts'], upstream)) {
    throw new DirectiveError('credential_host', 'allowed_token_hosts does not name the host of url')
  }
  return { upstream, ...credential(raw, accessToken) }
}

function credentialAllowed(allowed: unknown, upstream: UpstreamUrl): boolean {
  if (allowed === undefined || allowed === null) return true
  if (!Array.isArray(allowed)) return false
  if (allowed.length === 0) return true
  return allowed.some(entry => {
    if (typeof entry !== 'string') return false
    const name = entry.toLowerCase().replace(/\.$/, '')
    return (
      name === upstream.hostname ||
      name === upstream.address ||
      name === `${upstream.hostname}:${upstream.port}`
    )
  })
}

function credential(
  raw: Readonly<Record<string, unknown>>,
  accessToken: string,
): Pick<Directive, 'authMode' | 'headers' | 'queryCredential'> {
  const authMode = raw['auth_mode']
  if (authMode === 'none') return { authMode, headers: [], queryCredential: undefined }
  if (authMode === 'caracal_jwt') {
    const value = fieldValue(`${optionalText(raw, 'auth_scheme') || 'Bearer'} ${accessToken}`)
    return { authMode, headers: [authHeader(raw), value], queryCredential: undefined }
  }
  if (authMode !== 'provider_oauth' && authMode !== 'provider_apikey') {
    throw buildFailed('auth_mode is unknown')
  }
  const token = optionalText(raw, 'provider_token')
  if (token === '') throw buildFailed('provider_token is missing')
  const identity =
    raw['forward_caracal_identity'] === true ? ['X-Caracal-Identity', fieldValue(accessToken)] : []
  const location = optionalText(raw, 'auth_location')
  if (location !== '' && location !== 'header' && location !== 'query') {
    throw buildFailed('auth_location is unknown')
  }
  if (authMode === 'provider_apikey' && location === 'query') {
    const name = optionalText(raw, 'query_param_name')
    if (name === '') throw buildFailed('query_param_name is missing')
    if (!name.isWellFormed() || !token.isWellFormed()) {
      throw buildFailed('the credential is not text that a query can hold')
    }
    return { authMode, headers: identity, queryCredential: { name, value: token } }
  }
  const scheme = optionalText(raw, 'auth_scheme')
  const value = fieldValue(scheme === '' ? token : `${scheme} ${token}`)
  return { authMode, headers: [authHeader(raw), value, ...identity], queryCredential: undefined }
}

function authHeader(raw: Readonly<Record<string, unknown>>): string {
  const name = optionalText(raw, 'auth_header') || 'Authorization'
  if (!isFieldName(name)) throw buildFailed('auth_header is not a field name')
  if (isReservedHeader(name)) throw buildFailed('auth_header is reserved')
  return name
}

function fieldValue(value: string): string {
  if (!isFieldValue(value)) throw buildFailed('the credential is not a field value')
  return value
}

function optionalText(raw: Readonly<Record<string, unknown>>, member: string): string {
  const value = raw[member]
  if (value === undefined || value === null) return ''
  if (typeof value !== 'string') throw buildFailed(`${member} is not a string`)
  return value
}

function buildFailed(detail: string): DirectiveError {
  return new DirectiveError('request_build_failed', detail)
}
