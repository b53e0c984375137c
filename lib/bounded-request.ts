/**
 * One request whose answer is small and due soon: a bound on its time, on its size, and an end at any moment.
 *
 * It speaks undici's dispatch protocol itself: `Dispatcher.request` makes a stream of each answer, which costs more than
 * reading it (`npm run bench:pieces`).
 */
import type { Dispatcher } from 'undici'

/** An answer; of a body that is larger than it may be nothing is kept. */
export interface BoundedAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  /** The whole body as UTF-8, or `undefined` when it is larger than it may be. */
  readonly text: string | undefined
}

/** Bounds of a request. */
export interface Bounds {
  /** For everything: connection, request, answer; in milliseconds. */
  readonly timeout: number
  /** Bytes of an answer. */
  readonly limit: number
}

/** The answer was not whole in time. */
export class RequestTimeout extends Error {
  constructor() {
    super('no whole answer in time')
    this.name = 'RequestTimeout'
  }
}

/** A request that was sent. */
export class BoundedRequest implements Dispatcher.DispatchHandler {
  readonly #result = Promise.withResolvers<BoundedAnswer>()
  readonly #limit: number
  readonly #timer: NodeJS.Timeout
  readonly #chunks: Buffer[] = []
  #controller: Dispatcher.DispatchController | undefined
  #ended = false
  #length = 0
  #status = 0
  #headers: BoundedAnswer['headers'] = {}

  constructor(dispatcher: Dispatcher, request: Dispatcher.DispatchOptions, bounds: Bounds) {
    this.#limit = bounds.limit
    this.#timer = setTimeout(() => this.cancel(new RequestTimeout()), bounds.timeout)
    try {
      dispatcher.dispatch(request, this)
    } catch (error) {
      this.cancel(error)
    }
  }

  /** Rejects with {@link RequestTimeout}, what it was cancelled with, or the connection's error. */
  get answer(): Promise<BoundedAnswer> {
    return this.#result.promise
  }

  /** Ends it, unless it is over: its connection is closed, and its answer rejects with the reason. */
  cancel(reason: unknown): void {
    if (this.#ended) return
    this.#end()
    this.#result.reject(reason)
    this.#controller?.abort(new Error('the answer is not waited for'))
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    if (this.#ended) controller.abort(new Error('the answer is not waited for'))
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    statusCode: number,
    headers: BoundedAnswer['headers'],
  ): void {
    this.#status = statusCode
    this.#headers = headers
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#ended) return
    this.#length += chunk.length
    this.#chunks.push(chunk)
    if (this.#length <= this.#limit) return
    this.#settle(undefined)
    controller.abort(new Error('the answer is too large'))
  }

  onResponseEnd(): void {
    if (this.#ended) return
    this.#settle(Buffer.concat(this.#chunks).toString('utf8'))
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (this.#ended) return
    this.#end()
    this.#result.reject(error)
  }

  #settle(text: string | undefined): void {
    this.#end()
    this.#result.resolve({ status: this.#status, headers: this.#headers, text })
  }

  #end(): void {
    this.#ended = true
    clearTimeout(this.#timer)
  }
}
