// Measures how long the gateway takes from its start until it is ready, with 1,000 revocations to read.
import { startGateway, startStack } from '../test/gateway/harness.ts'
import { REVOCATIONS, signedRevocation } from '../test/gateway/support.ts'
import type { Cleanup } from '../test/redis.ts'
import { type Report, type Spread, spreadOf } from './report.ts'

/** Milliseconds (contract section 15). */
const BOUND = 600
const REVOKED = 1_000

/** Starts it so many times. @returns milliseconds */
export async function measureStarts(
  ends: Cleanup,
  report: Report,
  starts: number,
): Promise<Spread> {
  const stack = await startStack(ends)
  for (let n = 0; n < REVOKED; n++) {
    await stack.redis.add(REVOCATIONS, signedRevocation({ session_id: `session-${n}` }))
  }
  const took: number[] = []
  for (let start = 0; start < starts; start++) {
    const startedAt = performance.now()
    const gateway = await startGateway(ends, stack.env)
    took.push(performance.now() - startedAt)
    await gateway.stop()
  }
  await stack.gateway.stop()
  const spread = spreadOf(took)
  report.section(`From start to ready, ${starts} starts`)
  report.figure('start to ready, fastest', spread.min, 'ms')
  report.figure('start to ready, median', spread.median, 'ms', BOUND)
  report.figure('start to ready, slowest', spread.max, 'ms')
  return spread
}
