// Shows where the CPU of one governed request goes, by stage.
//
// npm run bench:profile [-- --seconds=10 --warm-up=10 --functions=20 --out=FILE.cpuprofile]
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { cpuOf } from './cpu.ts'
import type { Flood, Flooded } from './flood.ts'
import { inspectorUrl, profileWhile } from './inspector.ts'
import { startWorker } from './processes.ts'
import { Ends, Report } from './report.ts'
import { startStage } from './stage.ts'
import { type Share, sharesOf } from './stages.ts'
import { startGateway } from './subject.ts'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '10' },
    'warm-up': { type: 'string', default: '10' },
    functions: { type: 'string', default: '20' },
    out: { type: 'string' },
  },
})
const CALLERS = 32
/** Microseconds between two samples. */
const INTERVAL = 200
/** More requests a second than a gateway answers. */
const MOST = 6_000

const report = new Report()
const ends = new Ends()
await ends.during(measure)

async function measure(): Promise<void> {
  const stage = await startStage(ends)
  const flooder = startWorker<Flood, Flooded>(ends, 'flood.ts')
  const gateway = await startGateway(ends, stage.env, { flags: ['--inspect=127.0.0.1:0'] })
  const { port, pid } = gateway
  const load = (seconds: number) => {
    const mandates = stage.mandates(MOST * seconds)
    return flooder.give({ port, callers: CALLERS, ramp: 0, seconds, mandates })
  }
  await load(Number(values['warm-up']))
  let answers = 0
  let spent = 0
  const profile = await profileWhile(inspectorUrl(gateway.errors()), INTERVAL, async () => {
    const before = cpuOf(pid)
    ;({ answers } = await load(Number(values.seconds)))
    spent = cpuOf(pid) - before
  })
  if (values.out !== undefined) writeFileSync(values.out, JSON.stringify(profile))
  const { stages, functions } = sharesOf(profile)
  const total = stages.reduce((sum, { microseconds }) => sum + microseconds, 0)
  const rows = (shares: readonly Share[]) => [
    ['', 'us a request', 'share'],
    ...shares.map(({ name, microseconds }) => [
      name,
      (microseconds / answers).toFixed(1),
      `${((microseconds / total) * 100).toFixed(1)} %`,
    ]),
  ]
  report.section(`Where a governed request’s CPU goes: ${answers} requests, ${CALLERS} callers`)
  report.table(rows([...stages, { name: 'all of the main thread', microseconds: total }]))
  report.section('The functions that take most, themselves')
  report.table(rows(functions.slice(0, Number(values.functions))))
  report.section('By the kernel’s books, the sampling included')
  report.figure('all threads', spent / answers, 'us a request')
}
