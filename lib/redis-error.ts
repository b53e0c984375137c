// Guarantees that an error of Redis or its client takes no password, no evidence and no token id along.

/** What may be said of an error. */
export interface RedisProblem {
  readonly code: string | undefined
  readonly message: string
}

/**
 * Code and message, without what a server repeats of a command.
 *
 * @param secrets the passwords in use
 */
export function describeRedisError(error: unknown, secrets: readonly string[]): RedisProblem {
  if (!(error instanceof Error)) return { code: undefined, message: 'unknown error' }
  const code = 'code' in error && typeof error.code === 'string' ? error.code : undefined
  let message = withoutArguments(error.message)
  for (const secret of secrets) message = message.replaceAll(secret, '[redacted]')
  return { code, message: message || code || error.name }
}

/** The error without the command that the client hangs on it, and without what a server repeats of that. */
export function bareRedisError(error: unknown): Error {
  if (!(error instanceof Error)) return new Error('unknown error of the Redis client')
  Reflect.deleteProperty(error, 'command')
  const { message, stack } = error
  error.message = withoutArguments(message)
  if (stack !== undefined) error.stack = stack.replace(message, () => error.message)
  return error
}

function withoutArguments(message: string): string {
  return message.replace(/,? with args beginning with:.*$/s, '')
}
