// Guarantees that only a whole, well-formed key set reaches get-jwks, and that one answer serves
// every kid.

import { DecoratorHandler, type Dispatcher } from 'undici'
import { usableKeys, type VerificationJwk } from './jwk.ts'

/**
 * One answer of a zone's key set endpoint, as an interceptor in front of an undici dispatcher.
 *
 * The first request goes to the network; every later one is given what the first brought. The
 * answer is passed on as a set of the usable keys alone, each kid once, so that a client that takes
 * the first match finds the right one.
 */
export class KeySetAnswer {
  /** The kids of the usable keys; undefined until the zone has answered. */
  kids: ReadonlySet<string> | undefined
  #body: Buffer | undefined

  /** For `dispatcher.compose()`. */
  readonly intercept: Dispatcher.DispatcherComposeInterceptor = dispatch => (options, handler) => {
    // The fetch of Node 24 speaks undici's older handler interface, this class speaks both.
    const out: Dispatcher.DispatchHandler = new DecoratorHandler(handler)
    if (this.#body !== undefined) {
      out.onRequestStart?.(SETTLED, undefined)
      reply(out, this.#body)
      return true
    }
    let status = 0
    const chunks: Buffer[] = []
    return dispatch(options, {
      onRequestStart(controller, context) {
        out.onRequestStart?.(controller, context)
      },
      onResponseStart(controller, statusCode, headers) {
        status = statusCode
        const encoding = headers['content-encoding'] ?? 'identity'
        if (status >= 200 && status !== 200 && status !== 404) {
          controller.abort(new Error(`key set: status ${status}, expected 200 or 404`))
        } else if (status === 200 && encoding !== 'identity') {
          controller.abort(new Error('key set: content-encoding must be identity'))
        }
      },
      onResponseData(_controller, chunk) {
        if (status === 200) chunks.push(chunk)
      },
      onResponseEnd: controller => {
        try {
          const keys =
            status === 404 ? new Map<string, VerificationJwk>() : parseKeys(Buffer.concat(chunks))
          this.#body = Buffer.from(JSON.stringify({ keys: [...keys.values()] }))
          this.kids = new Set(keys.keys())
        } catch (cause) {
          out.onResponseError?.(controller, cause instanceof Error ? cause : new Error('key set'))
          return
        }
        reply(out, this.#body)
      },
      onResponseError(controller, error) {
        out.onResponseError?.(controller, error)
      },
    })
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true })

function parseKeys(bytes: Buffer): Map<string, VerificationJwk> {
  const keys = usableKeys(JSON.parse(utf8.decode(bytes)))
  if (keys === undefined) throw new Error('key set: must be a JSON object with an array "keys"')
  return keys
}

function reply(out: Dispatcher.DispatchHandler, body: Buffer): void {
  out.onResponseStart?.(SETTLED, 200, { 'content-type': 'application/json' }, 'OK')
  out.onResponseData?.(SETTLED, body)
  out.onResponseEnd?.(SETTLED, {})
}

/** The controller of an answer that is already there: nothing is left to pause or abort. */
const SETTLED: Dispatcher.DispatchController = Object.freeze({
  aborted: false,
  paused: false,
  reason: null,
  rawHeaders: [],
  rawTrailers: [],
  abort() {},
  pause() {},
  resume() {},
})
