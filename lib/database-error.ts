// Guarantees that what is told of a failed read names what went wrong, and holds no credentials and no query.

/** A read of the database that failed. */
export class DatabaseError extends Error {
  /** SQLSTATE of PostgreSQL, or Node's code of a connection error. */
  readonly code: string | undefined
  /** Whether the database itself said so; false: it is away, or hangs, or is not believed to be the right one. */
  readonly answered: boolean

  constructor(message: string, code: string | undefined, answered: boolean) {
    super(message)
    this.name = 'DatabaseError'
    this.code = code
    this.answered = answered
  }
}

/**
 * What the driver threw, as the gateway tells it; without a cause, which would hold more than may be told.
 *
 * @param password is cut out, should a server repeat it
 */
export function databaseError(error: unknown, password: string | undefined): DatabaseError {
  if (error instanceof DatabaseError) return error
  const { code, message } = described(error)
  const told = password ? message.replaceAll(password, '[redacted]') : message
  const suffix = code === undefined || told.includes(code) ? '' : ` (${code})`
  return isAnswer(error)
    ? new DatabaseError(`the database (DATABASE_URL) refused: ${told}${suffix}`, code, true)
    : new DatabaseError(`the database (DATABASE_URL) cannot be read: ${told}${suffix}`, code, false)
}

/** Whether PostgreSQL, or a pooler before it, sent this error. */
export function isAnswer(error: unknown): boolean {
  return error instanceof Error && 'severity' in error && typeof error.severity === 'string'
}

function described(error: unknown): { code: string | undefined; message: string } {
  if (!(error instanceof Error)) return { code: undefined, message: 'unknown error' }
  const code = 'code' in error && typeof error.code === 'string' ? error.code : undefined
  // Several addresses of one name that all refused are an error without a message.
  return { code, message: error.message || code || error.name }
}
