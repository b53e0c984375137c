/**
 * Guarantees that nobody takes a response that a revocation cut short for a whole one (contract sections 5 and 6).
 */
import type { ServerResponse } from 'node:http'
import { breakOff } from './caller-connection.ts'

/** Milliseconds that a caller gets to read the end of its response. */
const PATIENCE = 1_000

/** RFC 9110 section 6.4.1: an answer that has no body is whole with its headers. */
export function mayHaveBody(method: string, statusCode: number): boolean {
  return method !== 'HEAD' && statusCode !== 204 && statusCode !== 304
}

/** Whether the response is an event stream whose text can be written to: `fetch` shows no trailers. */
export function isOpenEventStream(response: ServerResponse): boolean {
  return (
    /^text\/event-stream\s*(?:;|$)/i.test(String(response.getHeader('content-type') ?? '')) &&
    response.getHeader('content-encoding') === undefined
  )
}

/**
 * The last event of a stream that was revoked.
 *
 * @param lastByte the last byte of the stream so far; `undefined` when there was none
 * @param facts what its data tells, as JSON
 */
export function revokedEvent(
  lastByte: number | undefined,
  facts: Readonly<Record<string, string>>,
): string {
  // A line under way is ended, but never by a blank one, which would make the caller act on half an event as if it
  // were whole. What is there of that event becomes part of this one instead: this one's name replaces its name, and
  // of the data the last line is ours.
  const midLine = lastByte !== undefined && lastByte !== 0x0a && lastByte !== 0x0d
  return `${midLine ? '\n' : ''}event: caracal-revoked\ndata: ${JSON.stringify(facts)}\n\n`
}

/**
 * Ends a response whose headers are out and to which nobody else writes any more.
 *
 * @param lastEvent what an event stream ends with
 * @param onUnsent called with the bytes that were written to the response and that the caller's connection never took
 */
export function endRevoked(
  response: ServerResponse,
  lastEvent: string | undefined,
  onUnsent: (bytes: number) => void,
): void {
  const breakOff = () => {
    if (response.destroyed || response.writableFinished) return
    onUnsent(response.writableLength)
    destroy(response)
  }
  if (response.writableEnded) return breakOff()
  if (response.chunkedEncoding) {
    if (lastEvent !== undefined) response.write(lastEvent)
    response.addTrailers({ 'X-Caracal-Revoked': 'true' })
    response.end()
  } else if (lastEvent !== undefined && !response.hasHeader('content-length')) {
    response.write(lastEvent, breakOff)
  } else {
    return breakOff()
  }
  // A response behind others of its connection has no socket yet, and its caller nothing to read.
  if (response.socket !== null) giveUp(response, breakOff)
  else response.once('socket', () => giveUp(response, breakOff))
}

function giveUp(response: ServerResponse, breakOff: () => void): void {
  const timer = setTimeout(breakOff, PATIENCE).unref()
  response.once('close', () => clearTimeout(timer))
}

/** Where the connection's end is the body's, an orderly one would make it whole. */
function destroy(response: ServerResponse): void {
  const { socket } = response
  const framed = response.chunkedEncoding || response.hasHeader('content-length')
  if (framed || socket === null) response.destroy()
  else breakOff(socket)
}
