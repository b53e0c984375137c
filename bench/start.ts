// Measures how long the gateway takes from its start until it is ready, with 1,000 revocations to read; fails above the
// contract's bound (section 15).
//
// npm run bench:start [-- --starts=15]
import { parseArgs } from 'node:util'
import { startGateway, startStack } from '../test/gateway/harness.ts'
import { REVOCATIONS, signedRevocation } from '../test/gateway/support.ts'
import { Ends, median, Report } from './report.ts'

const { values } = parseArgs({ options: { starts: { type: 'string', default: '15' } } })
/** Milliseconds. */
const BOUND = 600

const report = new Report()
const ends = new Ends()
try {
  const stack = await startStack(ends)
  for (let n = 0; n < 1_000; n++) {
    await stack.redis.add(REVOCATIONS, signedRevocation({ session_id: `session-${n}` }))
  }
  const took: number[] = []
  for (let start = 0; start < Number(values.starts); start++) {
    const startedAt = performance.now()
    const gateway = await startGateway(ends, stack.env)
    took.push(performance.now() - startedAt)
    await gateway.stop()
  }
  report.section(`From start to ready, ${took.length} starts`)
  report.figure('fastest', Math.min(...took), 'ms')
  report.figure('median', median(took), 'ms', BOUND)
  report.figure('slowest', Math.max(...took), 'ms')
} finally {
  await ends.run()
}
report.end()
