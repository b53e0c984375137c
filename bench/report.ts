// What benchmarks share: a report of figures, the bounds that the exit status asserts, and an end to what was started.
import type { Cleanup } from '../test/redis.ts'

/** A figure that a bound is set for. */
export interface Bar {
  readonly name: string
  readonly value: number
  readonly unit: string
  readonly bound: number
  readonly holds: boolean
}

/** Prints figures as they come, and remembers which bounds were broken. */
export class Report {
  /** All figures so far that have a bound. */
  readonly bars: Bar[] = []

  section(title: string): void {
    console.log(`\n${title}`)
  }

  /** One figure. @param bound the largest value that is not a failure */
  figure(name: string, value: number, unit: string, bound?: number): void {
    const shown = value >= 100 ? value.toFixed(0) : value.toPrecision(3)
    const limit = bound === undefined ? '' : `  (bound ${bound} ${unit})`
    const holds = bound === undefined || value <= bound
    if (bound !== undefined) this.bars.push({ name, value, unit, bound, holds })
    console.log(
      `  ${name.padEnd(58)} ${shown.padStart(8)} ${unit}${limit}${holds ? '' : '  BROKEN'}`,
    )
  }

  /** Rows under a head, in columns. */
  table(rows: readonly (readonly string[])[]): void {
    const widths = rows[0]?.map((_, column) =>
      Math.max(...rows.map(row => row[column]?.length ?? 0)),
    )
    for (const row of rows) {
      console.log(`  ${row.map((cell, column) => cell.padStart(widths?.[column] ?? 0)).join('  ')}`)
    }
  }

  note(text: string): void {
    console.log(`  ${text}`)
  }

  /** Prints the verdict and sets the exit status. */
  end(): void {
    const broken = this.bars.filter(({ holds }) => !holds).map(({ name }) => name)
    console.log(
      broken.length === 0
        ? '\nevery bound holds'
        : `\n${broken.length} bounds broken: ${broken.join(', ')}`,
    )
    if (broken.length > 0) process.exitCode = 1
  }
}

/** Collects what has to be ended, last first; a benchmark that is told to stop ends it too. */
export class Ends implements Cleanup {
  readonly #ends: (() => Promise<void>)[] = []

  constructor() {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.once(signal, () => void this.run().finally(() => process.exit(1)))
    }
  }

  /** Does the work, and ends what it started, whatever becomes of it. */
  async during(work: () => Promise<unknown>): Promise<void> {
    try {
      await work()
    } finally {
      await this.run()
    }
  }

  after(end: () => Promise<void>): void {
    this.#ends.push(end)
  }

  async run(): Promise<void> {
    for (const end of this.#ends.toReversed()) await end()
  }
}

/** The value in the middle. */
export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
}

/** A median, and how far what it was taken from lies apart. */
export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

/** The {@link Spread} of values. */
export function spreadOf(values: readonly number[]): Spread {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) }
}

/** The {@link Spread} of values as multiples of those of another, round by round. */
export function ratioOf(values: readonly number[], base: readonly number[]): Spread {
  return spreadOf(values.map((value, round) => value / (base[round] ?? Number.NaN)))
}
