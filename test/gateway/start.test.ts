// Holds the start to twice the contract's bound, whatever machine this is; `npm run bench:start` asserts the bound itself.
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { ALONE, startGateway, startStack } from './harness.ts'
import { REVOCATIONS, signedRevocation } from './support.ts'

/** Milliseconds; the bound of contract section 15 is 600. */
const BOUND = 1_200
/** The best of as many starts counts: what else the machine does only ever makes one slower. */
const STARTS = 20

/** Milliseconds for which a process was ready to run and others had the cores; 0 where the system does not tell. */
async function waitedForCore(pid: number | undefined): Promise<number> {
  const text = await readFile(`/proc/${pid}/task/${pid}/schedstat`, 'utf8').catch(() => '')
  const [, waited = 0] = text.split(' ').map(Number)
  return waited / 1e6
}

test('the gateway is soon ready after its start, with 1,000 revocations', async t => {
  const stack = await startStack(t, { env: ALONE })
  for (let n = 0; n < 1_000; n++) {
    await stack.redis.add(REVOCATIONS, signedRevocation({ session_id: `session-${n}` }))
  }
  const took: number[] = []
  while (took.length < STARTS && !took.some(milliseconds => milliseconds <= BOUND)) {
    const startedAt = performance.now()
    const gateway = await startGateway(t, stack.env)
    const elapsed = performance.now() - startedAt
    took.push(Math.round(elapsed - (await waitedForCore(gateway.child.pid))))
    await gateway.stop()
  }
  t.diagnostic(`ready after ${took.join(', ')} ms`)
  assert.ok(Math.min(...took) <= BOUND, `ready after ${took.join(', ')} ms`)
})
