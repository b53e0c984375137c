// Guarantees that logging, serialising or inspecting a secret prints `[redacted]`.

const REDACTED = '[redacted]'

/**
 * A value that is shown to nobody by accident: `String()`, template literals, `JSON.stringify`,
 * `util.inspect` and loggers print `[redacted]`. Only {@link Secret.reveal} hands it out.
 */
export class Secret {
  readonly #value: string

  /** @param value - the secret's text, kept as it is */
  constructor(value: string) {
    this.#value = value
  }

  /** The secret's text. Hand it to the code that needs it; never keep it in a variable for long. */
  reveal(): string {
    return this.#value
  }

  /** `[redacted]`. */
  toString(): string {
    return REDACTED
  }

  /** `[redacted]`. */
  toJSON(): string {
    return REDACTED
  }

  // The registered symbol instead of `util.inspect.custom`: `lib/` needs nothing of Node for it.
  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return REDACTED
  }
}
