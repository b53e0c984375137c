/**
 * One request to an upstream: knows when its first byte went out, ends within its time, and can be cut at any moment.
 *
 * It speaks undici's dispatch protocol itself: `Dispatcher.request` tells nobody when the first byte is written,
 * which the caller of a failed request must be told (contract section 2, `dispatched`).
 */
import { Readable } from 'node:stream'
import type { Dispatcher } from 'undici'
import type { CallerBody } from './request-body.ts'
import { mayHaveBody } from './revoked-response.ts'

/** What goes to the upstream, and within which times. */
export interface UpstreamRequest {
  readonly origin: string
  /** Path and query. */
  readonly path: string
  readonly method: string
  /** Flat list of names and values. */
  readonly headers: string[]
  readonly body: CallerBody | null
  /** From dispatch to response headers, in milliseconds; longer only while the caller's own body is late. */
  readonly headersTimeout: number
  /** Longest silence within a response body, in milliseconds. */
  readonly idleTimeout: number
}

/** An upstream's answer; its headers are a flat list of names and values, latin1 text of the bytes that came. */
export interface UpstreamResponse {
  readonly statusCode: number
  readonly headers: readonly string[]
  /** Bytes when all of it came at once, as small answers do: a stream of them costs more than they do. */
  readonly body: Readable | Buffer
}

/** The caller no longer waits for the answer. */
export class CallerGone extends Error {
  constructor() {
    super('the caller has gone')
    this.name = 'CallerGone'
  }
}

/** The upstream's response headers did not come within `headersTimeout`. */
export class HeadersTimeout extends Error {
  constructor() {
    super('no response headers within UPSTREAM_TIMEOUT')
    this.name = 'HeadersTimeout'
  }
}

/** Bytes of a body that is passed on at once: what no caller's reading holds up. */
const MAX_AT_ONCE = 16 * 1024

/** One request to an upstream. `onResponse` and `onFailure`: exactly one of them is called, once. */
export class UpstreamCall implements Dispatcher.DispatchHandler {
  readonly #request: UpstreamRequest
  readonly #onResponse: (response: UpstreamResponse) => void
  readonly #onFailure: (error: Error) => void
  #controller: Dispatcher.DispatchController | undefined
  #timer: NodeJS.Timeout | undefined
  #body: Readable | undefined
  #reason: Error | undefined
  #answered = false
  #ended = false
  #held = false
  #dispatched = false
  #failed = false
  #callerLate = false
  #receivedBytes = 0
  #droppedBytes = 0
  /** The answer's head, until it is passed on with what came of the body meanwhile. */
  #head: { readonly statusCode: number; readonly headers: string[] } | undefined
  #early: Buffer[] = []

  constructor(
    request: UpstreamRequest,
    onResponse: (response: UpstreamResponse) => void,
    onFailure: (error: Error) => void,
  ) {
    this.#request = request
    this.#onResponse = onResponse
    this.#onFailure = onFailure
  }

  /** Whether a byte of the request can have reached the upstream. */
  get dispatched(): boolean {
    return this.#dispatched
  }

  /** Bytes of the response body that were passed on so far. */
  get passedBytes(): number {
    const waiting = this.#body?.readableLength ?? 0
    return Math.max(0, this.#receivedBytes - this.#droppedBytes - waiting)
  }

  /** Whether the call ended before its response was whole. */
  get failed(): boolean {
    return this.#failed
  }

  /** What ended the call before its response was whole. */
  get failure(): Error | undefined {
    return this.#failed ? this.#reason : undefined
  }

  /** Sends the request. */
  start(dispatcher: Dispatcher): void {
    const { headersTimeout, idleTimeout, ...request } = this.#request
    this.#timer = setTimeout(() => this.#headersDue(), headersTimeout)
    const options: Dispatcher.DispatchOptions = {
      ...request,
      // The time to the headers is measured from dispatch; undici would start it after the request is sent.
      headersTimeout: 0,
      bodyTimeout: idleTimeout,
    }
    try {
      dispatcher.dispatch(options, this)
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error('dispatch failed', { cause: error }))
    }
  }

  /** Ends the call: the upstream's connection is closed, and a body under way breaks off with `reason`. */
  abort(reason: Error): void {
    if (this.#reason !== undefined || this.#ended) return
    this.#reason = reason
    this.#failed = true
    if (this.#controller !== undefined) this.#controller.abort(reason)
    else this.#fail(reason)
  }

  /** Passes on no more of the response than its reader has already, nor its end, until it is {@link cut}. */
  hold(): void {
    this.#held = true
  }

  /**
   * Ends the response's body before its time, for its reader in good order: nothing of it is passed on any more. The
   * upstream's connection is still to be {@link close}d.
   *
   * @param onCut called when the body's reader knows that it is over
   */
  cut(onCut: () => void): void {
    const body = this.#body
    if (body === undefined) return
    this.#failed = true
    this.drop(body.readableLength)
    if (body.closed) return onCut()
    body.once('close', onCut)
    body.unpipe()
    if (!this.#ended) {
      this.#ended = true
      body.push(null)
    }
    // Reads what is left, for nobody.
    body.resume()
  }

  /** Closes the upstream's connection after a {@link cut}. */
  close(): void {
    this.#request.body?.destroy()
    this.#controller?.abort(new Error('the response was cut'))
  }

  /** Takes note of bytes that the body's reader took and could not pass on. */
  drop(bytes: number): void {
    this.#droppedBytes += bytes
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    // Whatever a dispatcher thinks of a connection that broke: a request is never sent twice.
    if (this.#dispatched) this.#reason ??= new Error('the request was sent before')
    if (this.#reason === undefined) this.#dispatched = true
    else controller.abort(this.#reason)
  }

  onRequestUpgrade(controller: Dispatcher.DispatchController): void {
    controller.abort(new Error('the upstream switched protocols unasked'))
  }

  onResponseStart(controller: Dispatcher.DispatchController, statusCode: number): void {
    if (statusCode < 200) return
    clearTimeout(this.#timer)
    const headers = latin1(controller.rawHeaders)
    this.#head = { statusCode, headers }
    // What came in the same packet is parsed by then.
    process.nextTick(() => this.#respond(controller))
    // A 304 may tell the length of what it spares the caller (RFC 9110 section 8.6), and undici would wait for that.
    if (
      (statusCode === 204 || statusCode === 304) &&
      hasField(headers, /^(?:content-length|transfer-encoding)$/i)
    ) {
      this.onResponseEnd()
      controller.abort(new Error('the response has no body whatever it announces'))
    }
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#held) return
    this.#receivedBytes += chunk.length
    if (this.#body === undefined) this.#early.push(chunk)
    else if (!this.#body.push(chunk)) controller.pause()
  }

  onResponseEnd(): void {
    if (this.#held) return
    this.#ended = true
    this.#body?.push(null)
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (this.#ended) return
    this.#failed = true
    this.#reason ??= error
    if (this.#answered) this.#body?.destroy(this.#reason)
    else this.#fail(this.#reason)
  }

  #respond(controller: Dispatcher.DispatchController): void {
    if (this.#answered || this.#head === undefined) return
    this.#answered = true
    const early = this.#early
    this.#early = []
    if (this.#ended && this.#canBeSentAtOnce(this.#head)) {
      this.#onResponse({ ...this.#head, body: Buffer.concat(early) })
      return
    }
    const body = new Readable({
      // A chunk is 64 KiB: one at most waits here for a caller that does not read.
      highWaterMark: 1,
      read: () => controller.resume(),
      destroy: (error, callback) => {
        if (!this.#ended) this.abort(error ?? new Error('the response is no longer wanted'))
        callback(error)
      },
    })
    this.#body = body
    // Whoever reads the body hears of its end; an upstream that dies before that must not crash the process.
    body.on('error', () => {})
    this.#onResponse({ ...this.#head, body })
    if (body.destroyed) return
    for (const chunk of early) if (!body.push(chunk) && !this.#ended) controller.pause()
    if (this.#ended) body.push(null)
  }

  /** Whether bytes go to the caller as a stream of them would: as many as the headers say, and of the type that they say. */
  #canBeSentAtOnce({ statusCode, headers }: { statusCode: number; headers: readonly string[] }) {
    return (
      this.#receivedBytes > 0 &&
      this.#receivedBytes <= MAX_AT_ONCE &&
      mayHaveBody(this.#request.method, statusCode) &&
      hasField(headers, /^content-type$/i)
    )
  }

  /** The caller's lateness is not the upstream's: `READ_TIMEOUT` ends that, and the upstream gets its time after. */
  #headersDue(): void {
    const { body, headersTimeout } = this.#request
    let more = 0
    if (body?.awaitsCaller === true) {
      this.#callerLate = true
      more = headersTimeout
    } else if (this.#callerLate && body?.endedAt !== undefined) {
      more = body.endedAt + headersTimeout - performance.now()
    }
    if (more > 0) this.#timer = setTimeout(() => this.#headersDue(), more)
    else this.abort(new HeadersTimeout())
  }

  #fail(error: Error): void {
    if (this.#answered) return
    this.#answered = true
    clearTimeout(this.#timer)
    this.#request.body?.destroy()
    this.#onFailure(error)
  }
}

function hasField(headers: readonly string[], name: RegExp): boolean {
  return headers.some((text, index) => index % 2 === 0 && name.test(text))
}

function latin1(raw: Dispatcher.DispatchController['rawHeaders']): string[] {
  if (!Array.isArray(raw)) return []
  return raw.map(part => (typeof part === 'string' ? part : part.toString('latin1')))
}
