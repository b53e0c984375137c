/**
 * Guarantees that what a team's plugin adds to an upstream request is a header like any other, and none of the gateway's.
 */
import { isFieldName, isFieldValue, isReservedHeader } from './headers.ts'

/** Headers for the upstream that replace the caller's, whatever the caller's `Connection` names. */
export interface UpstreamHeaders {
  /**
   * Sets a header of the upstream request, in place of the caller's and of one that was set before. Of a name that
   * carries the credential the directive's value counts.
   *
   * @throws TypeError when the name is reserved (contract section 5; `Authorization` too) or no field name, when the
   * value is no field value, and when the request has gone to the upstream
   */
  set(name: string, value: string): void
}

/** The headers that plugins have set on one request. */
export class AddedHeaders implements UpstreamHeaders {
  readonly #headers = new Map<string, readonly [string, string]>()
  readonly #isSent: () => boolean

  /** @param isSent whether the request has gone to the upstream */
  constructor(isSent: () => boolean) {
    this.#isSent = isSent
  }

  set(name: string, value: string): void {
    if (typeof name !== 'string' || !isFieldName(name)) {
      throw new TypeError('upstreamHeaders.set: name is not a field name')
    }
    if (isReservedHeader(name) || name.toLowerCase() === 'authorization') {
      throw new TypeError(`upstreamHeaders.set: ${name} is the gateway's own; choose another name`)
    }
    if (typeof value !== 'string' || !isFieldValue(value)) {
      throw new TypeError(
        `upstreamHeaders.set: the value of ${name} must be non-empty latin1 text without line breaks and without white space at its ends`,
      )
    }
    if (this.#isSent()) {
      throw new TypeError(
        `upstreamHeaders.set: the request has gone to the upstream; set ${name} in an onRequest, preValidation or preHandler hook`,
      )
    }
    this.#headers.set(name.toLowerCase(), [name, value])
  }

  /**
   * Flat list of names and values.
   *
   * @param credential the directive's own, as a flat list; what has its name is left out
   */
  except(credential: readonly string[]): string[] {
    const taken = new Set(credential.filter((_, index) => index % 2 === 0).map(lowerCase))
    return [...this.#headers].flatMap(([name, header]) => (taken.has(name) ? [] : header))
  }
}

function lowerCase(text: string): string {
  return text.toLowerCase()
}
