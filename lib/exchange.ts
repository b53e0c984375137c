/**
 * Guarantees the exact form of a token exchange: its body, its signature, and what its answer may say
 * (contract section 4, RFC 8693).
 */
import { createHmac, hash, type KeyObject } from 'node:crypto'

/** One request's exchange, in the terms of contract section 4. */
export interface ExchangeRequest {
  readonly zoneId: string
  readonly clientId: string
  readonly token: string
  readonly resource: string
  readonly method: string
  /** The path decoded once, without a query. */
  readonly path: string
  readonly requestId: string
}

/** The exchange's `application/x-www-form-urlencoded` body. */
export function exchangeBody(request: ExchangeRequest): string {
  return (
    `grant_type=${GRANT_TYPE}&zone_id=${encoded(request.zoneId)}` +
    `&application_id=${encoded(request.clientId)}&subject_token=${encoded(request.token)}` +
    `&subject_token_type=${TOKEN_TYPE}&resource=${encoded(request.resource)}` +
    `&request_method=${encoded(request.method)}&request_path=${encoded(request.path)}` +
    `&gateway_request_id=${encoded(request.requestId)}`
  )
}

const GRANT_TYPE = encoded('urn:ietf:params:oauth:grant-type:token-exchange')
const TOKEN_TYPE = encoded('urn:ietf:params:oauth:token-type:access_token')

/** `URLSearchParams` comes to the same and takes more than twice as long (`npm run bench:pieces`). */
function encoded(value: string): string {
  return encodeURIComponent(value.toWellFormed())
}

/** What {@link exchangeSignature} signs. */
export interface SignedRequest {
  /** Unix time in seconds. */
  readonly timestamp: number
  /** 32 random bytes in hex, never used twice. */
  readonly nonce: string
  readonly method: string
  /** The path of the request URL. */
  readonly path: string
  readonly body: string
}

/** Hex HMAC-SHA256 over `{timestamp}\n{nonce}\n{METHOD}\n{path}\n{hex SHA-256 of the body}`. */
export function exchangeSignature(key: KeyObject, request: SignedRequest): string {
  const digest = hash('sha256', request.body)
  return createHmac('sha256', key)
    .update(`${request.timestamp}\n${request.nonce}\n${request.method}\n${request.path}\n${digest}`)
    .digest('hex')
}

/** The STS's successful answer, as far as the gateway uses it. */
export interface ExchangeAnswer {
  readonly accessToken: string
  /** Resource identifier to directive, still unchecked; see `lib/directive.ts`. */
  readonly upstreams: Readonly<Record<string, unknown>>
}

/** Reads a successful answer, or returns `undefined` when it is unusable (not JSON, no `access_token`). */
export function parseExchangeAnswer(text: string): ExchangeAnswer | undefined {
  const answer = parseJsonObject(text)
  if (answer === undefined) return undefined
  const { access_token: accessToken, upstreams } = answer
  if (typeof accessToken !== 'string' || accessToken === '') return undefined
  return { accessToken, upstreams: isRecord(upstreams) ? upstreams : {} }
}

/** A refusal of the STS in its own words (RFC 6749 section 5.2). */
export interface ExchangeRefusal {
  readonly error: string
  readonly description: string | undefined
  /** The further members of the body. */
  readonly members: Readonly<Record<string, unknown>>
}

/** Reads a refusal's JSON, or returns `undefined` when the body holds none. */
export function parseExchangeRefusal(text: string): ExchangeRefusal | undefined {
  const answer = parseJsonObject(text)
  if (answer === undefined) return undefined
  const { error, error_description: description, ...members } = answer
  if (typeof error !== 'string' || error === '') return undefined
  return { error, description: typeof description === 'string' ? description : undefined, members }
}

function parseJsonObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isRecord(value) ? value : undefined
  } catch {
    return undefined
  }
}

/** Whether a value is a JSON object. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
