// Guards against a gross regression: what a governed request costs beside one that bare reply-from passes on, in half a
// minute. It fails only when that is half as much again as the figure that is kept in `bench/results/`, twice in a row.
//
// npm run bench:guard
import { KEEPS_BOOKS } from './cpu.ts'
import type { Flood, Flooded } from './flood.ts'
import { startWorker, type Worker } from './processes.ts'
import { Ends, Report } from './report.ts'
import { readResults } from './results.ts'
import { WHOLE } from './rungs.ts'
import { type Stage, startStage } from './stage.ts'
import { startBare, startGateway, type Subject } from './subject.ts'

/** Times the kept ratio: the noise of a busy machine is well below. */
const TOLERANCE = 1.5
const ATTEMPTS = 2
const ROUNDS = 5
const SECONDS = 1
const WARM_UP = 3
const CALLERS = 16
const RAMP = 200
/** More requests a second than a gateway answers. */
const MOST = 6_000

const kept = readResults()?.ladder.find(({ name }) => name === WHOLE)?.cpuRatio.median
const report = new Report()
if (kept === undefined) throw new Error('bench/results/latest.json has no figures: npm run bench')
if (KEEPS_BOOKS) await guard(kept)
else report.note('no guard: this system does not tell what CPU a process takes as Linux does')

async function guard(ratio: number): Promise<void> {
  const ends = new Ends()
  await ends.during(async () => {
    const stage = await startStage(ends)
    const flooder = startWorker<Flood, Flooded>(ends, 'flood.ts')
    const [bare, gateway] = [
      await startBare(ends, stage.upstream),
      await startGateway(ends, stage.env),
    ]
    const bound = Number((ratio * TOLERANCE).toFixed(2))
    report.section('CPU of a governed request, times bare reply-from')
    let least = Infinity
    for (let attempt = 0; attempt < ATTEMPTS && least > bound; attempt++) {
      least = Math.min(least, await leastRatio(flooder, stage, bare, gateway))
    }
    report.figure(`least of the paired rounds; kept: ${ratio.toFixed(2)}`, least, 'x', bound)
  })
  report.end()
}

/** What disturbs a round makes it dearer: the least is the nearest to the truth. */
async function leastRatio(
  flooder: Worker<Flood, Flooded>,
  stage: Stage,
  bare: Subject,
  gateway: Subject,
): Promise<number> {
  const cpuOf = async ({ port, pid }: Subject, seconds: number, reused: boolean) => {
    const count = reused ? 64 : Math.ceil(MOST * (seconds + RAMP / 1_000))
    const mandates = stage.mandates(count, { reused })
    const load = { port, pid, seconds, mandates, callers: CALLERS, ramp: RAMP }
    const { cpu, perSecond } = await flooder.give(load)
    if (Object.keys(perSecond).join() !== '200') {
      throw new Error(`answers of ${JSON.stringify(perSecond)} a second`)
    }
    return cpu
  }
  const ratios: number[] = []
  for (let round = 0; round <= ROUNDS; round++) {
    const seconds = round === 0 ? WARM_UP : SECONDS
    const base = await cpuOf(bare, seconds, true)
    const governed = await cpuOf(gateway, seconds, false)
    // The first round warms both up.
    if (round > 0) ratios.push(governed / base)
  }
  return Math.min(...ratios)
}
