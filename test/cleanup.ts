// Ends what a test has started, last first: what was started later may use what was started before.
import type { TestContext } from 'node:test'
import type { Cleanup } from './redis.ts'

/** What {@link lastFirst} gives a test. */
export interface Scope extends Cleanup {
  skip(reason: string): void
}

/** A test whose cleanup runs last first, all of it; `TestContext.after` alone runs first first, up to what fails. */
export function lastFirst(body: (t: Scope) => Promise<void>) {
  return async (context: TestContext): Promise<void> => {
    const ends: (() => Promise<void>)[] = []
    context.after(async () => {
      const failures: unknown[] = []
      for (const end of ends.toReversed()) await end().catch(error => failures.push(error))
      if (failures.length > 0) throw failures[0]
    })
    await body({
      after: end => void ends.push(end),
      skip: reason => context.skip(reason),
    })
  }
}
