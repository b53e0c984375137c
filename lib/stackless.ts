/**
 * Does what makes errors that nobody prints: most of what such an error costs is its stack.
 */

/** The result of `work`. Errors that are made meanwhile have no stack, whoever makes them. */
export function stackless<Args extends readonly unknown[], T>(
  work: (...args: Args) => T,
  ...args: Args
): T {
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = 0
  try {
    return work(...args)
  } finally {
    Error.stackTraceLimit = limit
  }
}
