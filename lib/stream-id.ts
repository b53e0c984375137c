// Guarantees that two positions in a stream are compared as Redis orders them.

const STREAM_ID = /^(\d{1,20})-(\d{1,20})$/

function parts(id: string): readonly [milliseconds: bigint, sequence: bigint] {
  const match = STREAM_ID.exec(id)
  if (!match) throw new TypeError('a stream id must be two decimal numbers joined by a hyphen')
  return [BigInt(match[1] ?? ''), BigInt(match[2] ?? '')]
}

/**
 * Negative, zero or positive as `a` is before, at or after `b`.
 *
 * Both halves are unsigned 64-bit numbers, so neither text order nor doubles would do.
 *
 * @throws TypeError when either is no complete stream id
 */
export function compareStreamIds(a: string, b: string): number {
  const [aTime, aSequence] = parts(a)
  const [bTime, bSequence] = parts(b)
  if (aTime !== bTime) return aTime < bTime ? -1 : 1
  if (aSequence !== bSequence) return aSequence < bSequence ? -1 : 1
  return 0
}

/**
 * Unix time in milliseconds at which the entry was added, by the clock of Redis.
 *
 * @throws TypeError when it is no complete stream id
 */
export function streamIdTime(id: string): number {
  return Number(parts(id)[0])
}
