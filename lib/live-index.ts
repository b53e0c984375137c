/**
 * Finds the requests that a revocation concerns, in the time that it takes to list them (contract section 6).
 */
import type { Anchors } from './mandate.ts'
import type { AnchorKind } from './revocation-set.ts'

/** The claim of a mandate by which a revocation matched it. */
export type AnchorClaim = 'sid' | 'root_sid' | 'agent_session_id' | 'delegation_edge_id'

/** Items by the anchors of their mandates. */
export class LiveIndex<T> {
  // A map a kind: joined keys would let one kind's id spell another's.
  readonly #kinds: Readonly<Record<AnchorKind, Map<string, Set<T>>>> = {
    session: new Map(),
    agent_session: new Map(),
    delegation_edge: new Map(),
  }

  /** Anchors that somebody is registered under; 0 when nobody is. */
  get size(): number {
    const { session, agent_session, delegation_edge } = this.#kinds
    return session.size + agent_session.size + delegation_edge.size
  }

  /** Registers an item under each of the anchors. */
  add(anchors: Anchors, item: T): void {
    for (const [kind, id] of keysOf(anchors)) {
      const items = this.#kinds[kind].get(id)
      if (items === undefined) this.#kinds[kind].set(id, new Set([item]))
      else items.add(item)
    }
  }

  /** Takes an item out again; `anchors` are those that it was registered under. */
  delete(anchors: Anchors, item: T): void {
    for (const [kind, id] of keysOf(anchors)) {
      const items = this.#kinds[kind].get(id)
      if (items?.delete(item) === true && items.size === 0) this.#kinds[kind].delete(id)
    }
  }

  /** The items under one anchor, each once. */
  under(kind: AnchorKind, id: string): Iterable<T> {
    return this.#kinds[kind].get(id) ?? []
  }
}

/** A mandate's `sid` and `root_sid` both name an authority record; they are often the same. */
function keysOf(anchors: Anchors): [AnchorKind, string][] {
  const { sid, rootSid, agentSessionId, delegationEdgeId } = anchors
  const keys: [AnchorKind, string][] = []
  if (sid !== undefined) keys.push(['session', sid])
  if (rootSid !== undefined && rootSid !== sid) keys.push(['session', rootSid])
  if (agentSessionId !== undefined) keys.push(['agent_session', agentSessionId])
  if (delegationEdgeId !== undefined) keys.push(['delegation_edge', delegationEdgeId])
  return keys
}

/** The claim by which a mandate stands under an anchor; `sid` when `root_sid` is the same. */
export function anchorClaim(anchors: Anchors, kind: AnchorKind, id: string): AnchorClaim {
  if (kind === 'agent_session') return 'agent_session_id'
  if (kind === 'delegation_edge') return 'delegation_edge_id'
  return anchors.sid === id ? 'sid' : 'root_sid'
}
