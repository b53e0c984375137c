/**
 * Does what makes errors that nobody prints: most of what such an error costs is its stack.
 */

/** The result of `work`. Errors that are made meanwhile have no stack, whoever makes them. */
export function stackless<T>(work: () => T): T {
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = 0
  try {
    return work()
  } finally {
    Error.stackTraceLimit = limit
  }
}
