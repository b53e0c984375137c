// Writes numbered lines to its standard output, and says on standard error how that went.
import { performance } from 'node:perf_hooks'
import { setTimeout as pause } from 'node:timers/promises'
import { LogOutput } from '../../lib/log-output.ts'

const [, , lines = '0', until = '0'] = process.argv
const output = new LogOutput()
output.onRoom = dropped => output.write(`${JSON.stringify({ dropped })}\n`)
let longest = 0
for (let n = 0; n < Number(lines); n++) {
  const startedAt = performance.now()
  output.write(`${JSON.stringify({ n, text: 'x'.repeat(1_000) })}\n`)
  if (n % 100 === 99) await pause(1)
  longest = Math.max(longest, performance.now() - startedAt)
}
const rest = Number(until)
if (rest > 0) await pause(rest)
output.write('{"last":true}\n')
const endedAt = performance.now()
process.on('exit', () => {
  // Registered after the output's own: it has had its time.
  const exit = Math.round(performance.now() - endedAt)
  process.stderr.write(`${JSON.stringify({ longest: Math.round(longest), exit })}\n`)
})
process.exit(0)
