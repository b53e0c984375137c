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
export function loggedError(error: unknown, depth = 3): LoggedError | undefined {
  if (error === undefined) return undefined
  if (!(error instanceof Error)) return { type: typeof error, message: 'not an error object' }
  const code = 'code' in error && typeof error.code === 'string' ? error.code : undefined
  return {
    type: error.name,
    ...(code !== undefined && { code }),
    message: error.message,
    ...(error.stack !== undefined && { stack: error.stack }),
    ...(error.cause !== undefined && depth > 0 && { cause: cause(error.cause, depth - 1) }),
  }
}

function cause(error: unknown, depth: number): LoggedError {
  return loggedError(error, depth) ?? { type: 'undefined', message: '' }
}
