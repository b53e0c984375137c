/**
 * Guarantees that a request's body is streamed, bounded and complete, and that whoever reads it cannot close the
 * caller's connection: destroying Node's own request stream would take the socket, and the answer, with it.
 */
import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'

/** The body grew over its limit. */
export class BodyTooLarge extends Error {
  constructor() {
    super('request body is larger than MAX_REQUEST_BYTES')
    this.name = 'BodyTooLarge'
  }
}

/** Whether a request has a body: a length over zero, or chunks (RFC 9112 section 6). */
export function hasBody(request: IncomingMessage): boolean {
  const length = request.headers['content-length']
  return request.headers['transfer-encoding'] !== undefined || (length !== undefined && +length > 0)
}

/** Whether the caller waits before it sends its body. HTTP/1.0 knows no interim answers (RFC 9110 section 10.1.1). */
export function awaitsContinue({ headers, httpVersion }: IncomingMessage): boolean {
  return httpVersion !== '1.0' && /(?:^|\W)100-continue(?:$|\W)/i.test(headers.expect ?? '')
}

/** A body for one upstream request. */
export interface CallerBody extends Readable {
  /** Whether the reader waits for bytes that the caller has not sent. */
  readonly awaitsCaller: boolean
  /** `performance.now()` when the caller's last byte came, in milliseconds. */
  readonly endedAt: number | undefined
}

/** A caller's request body for one upstream request: back-pressure kept, not a byte buffered beyond it. */
export class RequestBody extends Readable implements CallerBody {
  readonly #source: IncomingMessage
  readonly #limit: number
  #received = 0
  #started = false
  #wanted = false
  #endedAt: number | undefined

  /** @param limit longest body in bytes; one that grows over it ends in {@link BodyTooLarge} */
  constructor(source: IncomingMessage, limit: number) {
    super({ autoDestroy: true })
    this.#source = source
    this.#limit = limit
    // The upstream request that reads the body hears of its end; one that never began must not crash the process.
    this.on('error', () => {})
  }

  get awaitsCaller(): boolean {
    return this.#wanted && this.#endedAt === undefined
  }

  get endedAt(): number | undefined {
    return this.#endedAt
  }

  override _read(): void {
    this.#wanted = true
    if (!this.#started) {
      this.#started = true
      this.#source.on('data', this.#onData).on('end', this.#onEnd).on('close', this.#onClose)
      if (this.#source.closed) this.#onClose()
    }
    this.#source.resume()
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#source.off('data', this.#onData).off('end', this.#onEnd).off('close', this.#onClose)
    this.#source.pause()
    callback(error)
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#wanted = false
    this.#received += chunk.length
    if (this.#received > this.#limit) this.destroy(new BodyTooLarge())
    else if (!this.push(chunk)) this.#source.pause()
  }

  readonly #onEnd = (): void => {
    this.#endedAt = performance.now()
    this.push(null)
  }

  readonly #onClose = (): void => {
    if (!this.#source.readableEnded) this.destroy(new Error('the caller broke its body off'))
  }
}
