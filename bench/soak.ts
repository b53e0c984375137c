// Runs the gateway for long under load of every kind, and fails when anything of it grows: memory, heap, files, timers,
// listeners.
//
// npm run bench:soak [-- --minutes=30]
import { readdirSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { request } from 'undici'
import { AUDIT_STREAM } from '../plugins/audit/sink.ts'
import { memoryOf } from './cpu.ts'
import type { Answered, MixedLoad } from './mixed-load.ts'
import { startWorker } from './processes.ts'
import { Ends, median, Report } from './report.ts'
import { METRICS_BEARER, type Stage, startStage } from './stage.ts'
import { startGateway, type Subject } from './subject.ts'

const { values } = parseArgs({ options: { minutes: { type: 'string', default: '30' } } })
const MINUTES = Number(values.minutes)
if (!(MINUTES > 0)) throw new Error('--minutes must be a number over 0')
/** Minutes that are not compared: a short run has few, a long one has five. */
const SETTLE = Math.min(5, MINUTES / 4)
const SAMPLE_INTERVAL = 5_000
const MIB = 1024 * 1024

/** What is looked at, and how much of it the last third may have more than the first. */
const WATCHED = [
  { name: 'resident memory', unit: 'MiB', growth: 1.05, slack: 2 },
  { name: 'heap in use', unit: 'MiB', growth: 1.1, slack: 2 },
  // Streams come and go: a few more or fewer are open at any time, and each has two files and a timer.
  { name: 'open files', unit: 'files', growth: 1.05, slack: 25 },
  { name: 'timers', unit: 'timers', growth: 1.05, slack: 25 },
  { name: 'active resources', unit: 'resources', growth: 1.05, slack: 25 },
] as const
type Watched = (typeof WATCHED)[number]['name']
type Sample = Readonly<Record<Watched, number>>

const report = new Report()
const ends = new Ends()
await ends.during(soak)
report.end()

async function soak(): Promise<void> {
  const stage = await startStage(ends)
  const gateway = await startGateway(ends, stage.env)
  const load = startWorker<MixedLoad, Answered>(ends, 'mixed-load.ts')
  report.section(`${MINUTES} minutes of mixed load`)
  const { port } = gateway
  const answered = load.give({ port, key: stage.key, seconds: MINUTES * 60 })
  const samples = await watch(stage, gateway)
  const counts = Object.entries(await answered)
  report.note(counts.map(([kind, count]) => `${kind} ${count}`).join(', '))
  const third = Math.floor(samples.length / 3)
  const [first, last] = [samples.slice(0, third), samples.slice(-third)]
  for (const { name, unit, growth, slack } of WATCHED) {
    const [before, after] = [first, last].map(part => median(part.map(sample => sample[name])))
    if (before === undefined || after === undefined) continue
    report.note(`${name}: first third ${before.toFixed(1)}, last third ${after.toFixed(1)} ${unit}`)
    const bound = Math.max(before * growth, before + slack)
    report.figure(`${name}, last third`, after, unit, Number(bound.toFixed(1)))
  }
  const warnings = gateway
    .errors()
    .split('\n')
    .filter(line => line !== '')
  for (const line of warnings) report.note(line)
  report.figure(
    'lines on the standard error, where Node.js warns of listeners',
    warnings.length,
    '',
    0,
  )
}

/** Looks at the gateway until the time is over; what came before it has settled is left out. */
async function watch(stage: Stage, gateway: Subject): Promise<Sample[]> {
  const samples: Sample[] = []
  const begin = performance.now()
  const minutes = () => (performance.now() - begin) / 60_000
  while (minutes() + SAMPLE_INTERVAL / 60_000 < MINUTES) {
    await pause(SAMPLE_INTERVAL)
    // Its reader would trim it: it is Redis that grows otherwise.
    await stage.redis.command('XTRIM', AUDIT_STREAM, 'MAXLEN', 0)
    const sample = await sampleOf(gateway)
    if (minutes() > SETTLE) samples.push(sample)
  }
  return samples
}

async function sampleOf({ port, pid }: Subject): Promise<Sample> {
  const headers = { authorization: `Bearer ${METRICS_BEARER}` }
  const { body } = await request(`http://127.0.0.1:${port}/metrics`, { headers })
  const text = await body.text()
  const metric = (name: string) =>
    Number(
      text
        .split('\n')
        .find(line => line.startsWith(`${name} `))
        ?.split(' ')[1] ?? Number.NaN,
    )
  return {
    'resident memory': memoryOf(pid).resident / MIB,
    'heap in use': metric('nodejs_heap_size_used_bytes') / MIB,
    'open files': readdirSync(`/proc/${pid}/fd`).length,
    timers: metric('nodejs_active_resources{type="Timeout"}'),
    'active resources': metric('nodejs_active_resources_total'),
  }
}
