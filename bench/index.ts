// The benchmark: measures the gateway beside what it is compared with, in one run on one machine, and fails when it costs
// more than it may. A run of all parts keeps its figures in `bench/results/` and writes the tables of docs/performance.md.
//
// npm run bench [-- --rounds=5 --seconds=2 --streams=10000 --only=ladder,denials,streams,bodies,start,growth
//                   --rungs=reply-from,strict]
import { parseArgs } from 'node:util'
import { measureBodies } from './bodies.ts'
import { measureDenials } from './denials.ts'
import { measureGrowth } from './growth.ts'
import { type Flooder, measureLadder } from './ladder.ts'
import { thisMachine } from './machine.ts'
import { startWorker } from './processes.ts'
import { Ends, Report } from './report.ts'
import { writeResults } from './results.ts'
import { type Rung, RUNGS } from './rungs.ts'
import { startStage } from './stage.ts'
import { measureStarts } from './starts.ts'
import { measureStreams } from './streams.ts'

const PARTS = ['ladder', 'denials', 'streams', 'bodies', 'start', 'growth'] as const
type Part = (typeof PARTS)[number]

const STARTS = 15

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '2' },
    streams: { type: 'string', default: '10000' },
    only: { type: 'string', default: PARTS.join() },
    rungs: { type: 'string' },
  },
})
const options = { rounds: positive('rounds'), seconds: positive('seconds') }
const rungs = values.rungs?.split(',').map(rungNamed) ?? RUNGS
const parts = values.only.split(',').map(part)

const report = new Report()
const ends = new Ends()
await ends.during(measure)
report.end()

async function measure(): Promise<void> {
  const machine = thisMachine()
  report.section(`${machine.processor}, ${machine.cores} cores`)
  report.note(
    Object.entries(machine.versions)
      .map(([name, version]) => `${name} ${version ?? 'not installed'}`)
      .join(', '),
  )
  const stage = await startStage(ends)
  const flooder: Flooder = startWorker(ends, 'flood.ts')

  const ladder = await when('ladder', () =>
    measureLadder(ends, stage, flooder, report, { ...options, rungs }),
  )
  const denials = await when('denials', () => measureDenials(ends, stage, flooder, report, options))
  const streams = await when('streams', () =>
    measureStreams(ends, stage, report, positive('streams')),
  )
  const bodies = await when('bodies', () => measureBodies(ends, stage, report, options.rounds))
  const start = await when('start', () => measureStarts(ends, report, STARTS))
  const growth = await when('growth', () => measureGrowth(ends, stage, flooder, report, options))

  const whole = rungs === RUNGS
  if (whole && ladder && denials && streams && bodies && start && growth) {
    const date = new Date().toISOString().slice(0, 10)
    const figures = { ladder, denials, streams, bodies, start, growth, bars: report.bars }
    writeResults({ date, machine, ...options, ...figures })
  }
}

/** Measures a part when it was asked for. */
async function when<T>(name: Part, work: () => Promise<T>): Promise<T | undefined> {
  return parts.includes(name) ? work() : undefined
}

function positive(name: 'rounds' | 'seconds' | 'streams'): number {
  const number = Number(values[name])
  if (!(number > 0)) throw new Error(`--${name} must be a number over 0`)
  return number
}

function rungNamed(name: string): Rung {
  const found = RUNGS.find(rung => rung.name === name)
  if (found !== undefined) return found
  throw new Error(`--rungs: ${name} is none of ${RUNGS.map(rung => rung.name).join(', ')}`)
}

function part(name: string): Part {
  const found = PARTS.find(known => known === name)
  if (found === undefined) throw new Error(`--only: ${name} is none of ${PARTS.join(', ')}`)
  return found
}
