/**
 * Keeps or starts a trace (W3C Trace Context section 3.2).
 */
import { randomUUID } from 'node:crypto'

const TRACEPARENT =
  /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$/

/** A request's `traceparent` and whether it is the caller's. */
export interface TraceContext {
  readonly traceparent: string
  /** 32 hex digits. */
  readonly traceId: string
  /** Whether the caller sent it; a new one leaves the caller's `tracestate` behind. */
  readonly inherited: boolean
}

/** The caller's trace context when it is valid, else a new one, not sampled. */
export function traceContext(traceparent: string | undefined): TraceContext {
  const match = traceparent === undefined ? null : TRACEPARENT.exec(traceparent)
  const [whole, traceId, more] = match ?? []
  // Version 00 has exactly four fields; later versions may append some.
  if (whole !== undefined && traceId !== undefined && !(whole.startsWith('00') && more)) {
    return { traceparent: whole, traceId, inherited: true }
  }
  const newId = randomDigits()
  const parentId = randomDigits().slice(16)
  return { traceparent: `00-${newId}-${parentId}-00`, traceId: newId, inherited: false }
}

/** 32 hex digits, 122 random bits of them: Node keeps UUIDs ready, other random bytes cost ten times as much. */
function randomDigits(): string {
  return randomUUID().replaceAll('-', '')
}
