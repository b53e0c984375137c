// Denies a mandate that was used before, and spends the one that was not: the last of the local checks.
import { Denial } from '../denial.ts'
import type { Check } from '../plugins/passage.ts'
import type { ReplayGuard } from '../plugins/replay.ts'
import type { Stages } from '../plugins/stages.ts'

/** What {@link denyReplayed} needs beside the guard. */
export interface ReplayOptions {
  /** Lets a request through when the store cannot answer; never in a published mode. */
  readonly failOpen: boolean
  readonly now: () => number
  readonly stages: Stages
}

/** Denies a second use of a `jti`; a `session` mandate is not consumed (contract section 3). */
export function denyReplayed(guard: Pick<ReplayGuard, 'claim'>, options: ReplayOptions): Check {
  return async ({ mandate, id, log }, passage) => {
    if (mandate.use === 'session') return
    const stage = options.stages.begin(passage, 'replay')
    try {
      const millisecondsLeft = Math.max(1, mandate.exp * 1000 - options.now())
      const first = await guard.claim(mandate.jti, id, millisecondsLeft).catch((cause: unknown) => {
        // An unreachable store must not turn into an open door.
        if (!options.failOpen) throw new Denial('replay_state_unavailable', { cause })
        log.warn({ err: cause }, 'replay state unavailable, let through by JTI_FAIL_OPEN')
        return true
      })
      if (!first) throw new Denial('replayed')
    } catch (error) {
      stage.fail(error)
      throw error
    }
    passage.spent = true
    stage.end()
  }
}
