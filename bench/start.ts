// Measures how long the gateway takes from its start until it is ready, with 1,000 revocations to read; fails above the
// contract's bound (section 15).
//
// npm run bench:start [-- --starts=15]
import { parseArgs } from 'node:util'
import { Ends, Report } from './report.ts'
import { measureStarts } from './starts.ts'

const { values } = parseArgs({ options: { starts: { type: 'string', default: '15' } } })

const report = new Report()
const ends = new Ends()
await ends.during(() => measureStarts(ends, report, Number(values.starts)))
report.end()
