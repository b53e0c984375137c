/**
 * The verified mandate: what a request may rely on once its signature holds (contract section 3).
 */
import { hash } from 'node:crypto'
import type { PresentedToken } from './bearer.ts'
import type { MandateClaims } from './mandate-claims.ts'

/** The four anchors that a revocation can name, by their claims `sid`, `root_sid`, ... (contract section 6). */
export interface Anchors {
  /** The authority record. */
  readonly sid?: string
  /** The root of that record. */
  readonly rootSid?: string
  /** The governed session of an agent. */
  readonly agentSessionId?: string
  /** The delegation. */
  readonly delegationEdgeId?: string
}

/** A verified mandate. */
export interface Mandate {
  /** Claim `zone_id`. */
  readonly zoneId: string
  /** Claim `client_id`. */
  readonly clientId: string
  /** Claim `jti`; `''` when absent, which a check of its own refuses. */
  readonly jti: string
  /** Claim `use`; `''` when absent. */
  readonly use: string
  /** Unix seconds. */
  readonly exp: number
  /** Claim `target`; `undefined` when the mandate names none. */
  readonly target: readonly string[] | undefined
  /** Claim `scope`, taken apart. */
  readonly scopes: ReadonlySet<string>
  /** Claim `sub_type`, when it is one of these. */
  readonly subjectKind: 'user' | 'application' | undefined
  /** What a revocation can name of it. */
  readonly anchors: Anchors
  /** All verified claims. */
  readonly claims: Readonly<Record<string, unknown>> & Readonly<MandateClaims>
}

const IDENTIFIER = /^[A-Za-z0-9._:-]{1,128}$/

/** Whether a `zone_id` or `client_id` claim has the form that contract section 2 wants. */
export function isIdentifier(value: unknown): value is string {
  return typeof value === 'string' && IDENTIFIER.test(value)
}

/**
 * The mandate of verified claims.
 *
 * @param presented the token whose zone and client have been checked for form
 * @param claims what its verification returned
 */
export function mandateOf(
  presented: PresentedToken,
  claims: Readonly<Record<string, unknown>>,
): Mandate {
  const subType = claims['sub_type']
  return {
    zoneId: text(claims['zone_id']) ?? '',
    clientId: text(claims['client_id']) ?? '',
    jti: text(claims['jti']) ?? '',
    use: text(claims['use']) ?? '',
    exp: presented.exp,
    target: targetOf(claims['target']),
    scopes: new Set(
      text(claims['scope'])
        ?.split(' ')
        .filter(scope => scope !== ''),
    ),
    subjectKind: subType === 'user' || subType === 'application' ? subType : undefined,
    anchors: anchorsOf(claims),
    claims,
  }
}

/** A `target` of a wrong type names no resource: it must not read as "no restriction". */
function targetOf(target: unknown): readonly string[] | undefined {
  if (target === undefined) return undefined
  if (typeof target === 'string') return [target]
  return Array.isArray(target) ? target.filter(entry => typeof entry === 'string') : []
}

function anchorsOf(claims: Readonly<Record<string, unknown>>): Anchors {
  const sid = text(claims['sid'])
  const rootSid = text(claims['root_sid'])
  const agentSessionId = text(claims['agent_session_id'])
  const delegationEdgeId = text(claims['delegation_edge_id'])
  return {
    ...(sid !== undefined && { sid }),
    ...(rootSid !== undefined && { rootSid }),
    ...(agentSessionId !== undefined && { agentSessionId }),
    ...(delegationEdgeId !== undefined && { delegationEdgeId }),
  }
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined
}

/** The first 16 hex digits of the bearer's SHA-256: names a token in evidence without revealing it. */
export function subjectFingerprint(token: string): string {
  return hash('sha256', token).slice(0, 16)
}
