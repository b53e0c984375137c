/**
 * Keeps or starts a trace (W3C Trace Context section 3.2).
 */
import { randomBytes } from 'node:crypto'

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
  const ids = randomBytes(24).toString('hex')
  const newId = ids.slice(0, 32)
  return { traceparent: `00-${newId}-${ids.slice(32)}-00`, traceId: newId, inherited: false }
}
