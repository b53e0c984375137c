/**
 * Guarantees that a logged error is its name, code, message and stack, and nothing that a library hung on it: a Redis
 * error carries the command it answers, a TLS error the certificate.
 */

/** An error as it is logged; `cause` goes three levels deep. */
export interface LoggedError {
  readonly type: string
  readonly code?: string
  readonly message: string
  readonly stack?: string
  readonly cause?: LoggedError
}

/** pino's `err` serializer; anything that is no error is logged as its type alone. */
export function loggedError(error: unknown): LoggedError | undefined {
  return error === undefined ? undefined : described(error, true, MAX_DEPTH)
}

/**
 * What a refusal gives as its reason: names and messages, no stack. Strangers cause refusals, as many as they like, and
 * a stack tells about the gateway, not about them.
 */
export function loggedReason(error: unknown): LoggedError | undefined {
  return error === undefined ? undefined : described(error, false, MAX_DEPTH)
}

/** Causes of causes that are logged. */
const MAX_DEPTH = 3

function described(error: unknown, withStack: boolean, depth: number): LoggedError {
  if (!(error instanceof Error)) return { type: typeof error, message: 'not an error object' }
  const code = 'code' in error && typeof error.code === 'string' ? error.code : undefined
  return {
    type: error.name,
    ...(code !== undefined && { code }),
    message: error.message,
    ...(withStack && error.stack !== undefined && { stack: error.stack }),
    ...(error.cause !== undefined &&
      depth > 0 && { cause: described(error.cause, withStack, depth - 1) }),
  }
}
