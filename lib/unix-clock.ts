// Guarantees that no jump of the machine's clock ends a revocation early.

/** Unix time for what must not be over too soon. */
export interface UnixClock {
  /** Unix milliseconds: by the machine's clock, or by how long it was since the start, whichever is earlier. */
  now(): number
  /** It is that late at least (Unix milliseconds): another machine's clock has said so. */
  atLeast(time: number): void
}

/**
 * A clock that goes with the machine's, less its jumps forward: it follows those only when somebody else's clock confirms
 * them, so that one that was behind at the start is not behind for ever.
 */
export function unixClock(): UnixClock {
  let origin = Date.now() - performance.now()
  return {
    now: () => Math.min(Date.now(), origin + performance.now()),
    atLeast(time) {
      origin = Math.max(origin, time - performance.now())
    },
  }
}
