/**
 * Guarantees that evidence that cannot be read is tried again, and keeps no other waiting.
 */
import type { FastifyBaseLogger } from 'fastify'
import { loggedReason } from '../../lib/log-error.ts'

const RETRY_INTERVAL = 10_000

/** Files and directories that could not be read, by name. */
export class Troubles {
  readonly #log: FastifyBaseLogger
  /** `performance.now()` from which on each is tried again. */
  readonly #retryAt = new Map<string, number>()

  constructor(log: FastifyBaseLogger) {
    this.#log = log
  }

  /** Something could not be read; logged once. */
  add(name: string, error: unknown): void {
    if (!this.#retryAt.has(name)) {
      this.#log.error({ name, reason: loggedReason(error) }, 'audit evidence cannot be read')
    }
    this.#retryAt.set(name, performance.now() + RETRY_INTERVAL)
  }

  /** Whether it is to be left alone for now. */
  has(name: string): boolean {
    return (this.#retryAt.get(name) ?? 0) > performance.now()
  }
}
