// Guarantees that a duration means here what it means to Go: the whole text is read, or none of it.

const MILLISECOND = 1_000_000n
const SECOND = 1000n * MILLISECOND
const MINUTE = 60n * SECOND
const HOUR = 60n * MINUTE

const NANOSECONDS = new Map([
  ['ns', 1n],
  ['us', 1000n],
  ['\u00b5s', 1000n], // the micro sign
  ['\u03bcs', 1000n], // the Greek letter mu
  ['ms', MILLISECOND],
  ['s', SECOND],
  ['m', MINUTE],
  ['h', HOUR],
])

// Go keeps a duration in a signed 64-bit count of nanoseconds.
const LONGEST = 2n ** 63n - 1n

// One number and its unit. Go allows the digits on either side of the point to be missing, not both.
const PART = /(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?([^0-9.]+)/gy

/**
 * Reads a duration in the grammar of Go's `time.ParseDuration`: `5s`, `1m30s`, `250ms`, `1.5h`,
 * `100us`, `0`. A sign is refused, because no duration of ours is negative, and so is a number
 * without a unit other than `0`. Digits below a nanosecond are dropped, as in Go.
 *
 * @returns milliseconds, a fraction where the text is finer than that; `undefined` when the text is
 * no duration, or longer than Go can hold (some 292 years)
 */
export function parseDuration(text: string): number | undefined {
  if (text === '0') return 0
  let total = 0n
  let read = 0
  for (const [part, whole = '', fraction = '', unit = ''] of text.matchAll(PART)) {
    const nanoseconds = NANOSECONDS.get(unit)
    if (nanoseconds === undefined) return undefined
    total += BigInt(whole) * nanoseconds
    total += (BigInt(fraction) * nanoseconds) / 10n ** BigInt(fraction.length)
    read += part.length
  }
  if (read === 0 || read < text.length || total > LONGEST) return undefined
  return Number(total) / Number(MILLISECOND)
}

/**
 * Writes a duration so that {@link parseDuration} reads it back: `2m`, `1m30s`, `1.5s`, `250ms`,
 * `0s`. Units that are zero are left out.
 *
 * @param milliseconds - not negative; rounded to the nanosecond
 */
export function formatDuration(milliseconds: number): string {
  const total = BigInt(Math.round(milliseconds * Number(MILLISECOND)))
  if (total === 0n) return '0s'
  if (total < SECOND) return `${decimal(total, MILLISECOND)}ms`
  const hours = total / HOUR
  const minutes = (total % HOUR) / MINUTE
  const seconds = total % MINUTE
  return (
    (hours > 0n ? `${hours}h` : '') +
    (minutes > 0n ? `${minutes}m` : '') +
    (seconds > 0n ? `${decimal(seconds, SECOND)}s` : '')
  )
}

/** `count / unit` in decimal digits, where `unit` is a power of ten. */
function decimal(count: bigint, unit: bigint): string {
  const digits = String(unit).length - 1
  const fraction = String(count % unit)
    .padStart(digits, '0')
    .replace(/0+$/, '')
  return fraction === '' ? `${count / unit}` : `${count / unit}.${fraction}`
}
