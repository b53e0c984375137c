/**
 * Guarantees that a request's body that a plugin reads goes to the upstream all the same, to the byte.
 */
import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import { type CallerBody, RequestBody } from './request-body.ts'

/** A request's body, read whole once and handed over as often as it is asked for. */
export class HeldBody {
  readonly #reading: RequestBody
  /** Its bytes. Rejects with a `BodyTooLarge`, or with whatever ended it before it was whole. */
  readonly bytes: Promise<Buffer>

  /** Its bytes, once they are all there. */
  known: Buffer | undefined

  /** @param limit longest body in bytes */
  constructor(source: IncomingMessage, limit: number) {
    this.#reading = new RequestBody(source, limit)
    this.bytes = this.#read()
    // Whoever asked hears of it; the request ends in it also when nobody listens any more.
    this.bytes.catch(() => {})
  }

  /** Ends the reading: the body will not come, or nobody wants it any more. */
  cancel(reason: Error): void {
    this.#reading.destroy(reason)
  }

  async #read(): Promise<Buffer> {
    const chunks: Buffer[] = []
    for await (const chunk of this.#reading) chunks.push(chunk)
    this.known = Buffer.concat(chunks)
    return this.known
  }
}

/** A body that is there already, for one upstream request. */
export class KnownBody extends Readable implements CallerBody {
  readonly awaitsCaller = false
  readonly endedAt = performance.now()
  #rest: Buffer | null

  constructor(bytes: Buffer) {
    super({ autoDestroy: true })
    this.#rest = bytes
    // The upstream request that reads the body hears of its end; one that never began must not crash the process.
    this.on('error', () => {})
  }

  override _read(): void {
    if (this.#rest !== null && this.#rest.length > 0) this.push(this.#rest)
    this.#rest = null
    this.push(null)
  }
}
