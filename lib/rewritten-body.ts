/**
 * Guarantees that an answer's body that plugins transform keeps its back-pressure, breaks off when a transform fails, and
 * can be cut at any moment without a byte of it after the cut.
 */
import { type Duplex, pipeline, Readable } from 'node:stream'

/** A stream that a plugin rewrites a body with has failed. */
export class TransformFailed extends Error {
  constructor(cause: unknown) {
    super('a stream that rewrites the body failed', { cause })
    this.name = 'TransformFailed'
  }
}

/** A body on its way through transforms. */
export class RewrittenBody extends Readable {
  readonly #source: Readable
  readonly #stages: readonly Duplex[]
  readonly #last: Readable
  #cut = false

  /** @param stages what it goes through, in order; none: it is passed on as it comes */
  constructor(source: Readable, stages: readonly Duplex[]) {
    super({ highWaterMark: 1 })
    this.#source = source
    this.#stages = stages
    this.#last = stages.at(-1) ?? source
    // Whoever reads the body hears of its end; a cut one has no reader any more.
    this.on('error', () => {})
    this.#last.on('data', this.#onData).on('end', this.#onEnd).pause()
    const [first, ...rest] = stages
    if (first !== undefined) {
      pipeline([source, first, ...rest], error => {
        if (error && !this.#cut) this.destroy(source.errored ?? new TransformFailed(error))
      })
    } else {
      source.once('error', error => this.destroy(error))
      source.once('close', () => this.#onSourceClose())
    }
  }

  /** Whether it ended before its time, in good order for its reader. */
  get cutShort(): boolean {
    return this.#cut
  }

  /** Ends it at once, for its reader in good order. */
  cut(): void {
    if (this.#cut || this.destroyed) return
    this.#cut = true
    this.#last.off('data', this.#onData).off('end', this.#onEnd)
    this.unpipe()
    this.push(null)
    // Reads what is left, for nobody.
    this.resume()
    this.#last.resume()
  }

  override _read(): void {
    this.#last.resume()
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    const reason = error ?? undefined
    if (!this.#cut && !this.#source.destroyed) this.#source.destroy(reason)
    for (const stage of this.#stages) stage.destroy()
    callback(error)
  }

  readonly #onData = (chunk: unknown): void => {
    if (!this.push(chunk)) this.#last.pause()
  }

  readonly #onEnd = (): void => {
    this.push(null)
  }

  #onSourceClose(): void {
    if (!this.#cut && !this.#source.readableEnded) this.destroy(new Error('the body broke off'))
  }
}
