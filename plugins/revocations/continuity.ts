// Guarantees that a stream that lost entries, or was given some behind the reader's back, is not taken for one that was
// read whole.
import { streamIdTime } from '../../lib/stream-id.ts'
import type { StreamInfo } from '../store.ts'

/**
 * What became of a stream from one look to the next: `continuous` when its reader has read whatever was added in between,
 * `lost` when it must have lost some of that, `unknown` otherwise.
 *
 * Before Redis 7 nobody counts what was added; then the length must tell, and cannot once something was taken away.
 *
 * @param taken entries that were read between the two looks, up to the id that the second one names
 */
export function course(
  before: StreamInfo,
  after: StreamInfo,
  taken: number,
): 'continuous' | 'lost' | 'unknown' {
  if (before.entriesAdded !== undefined && after.entriesAdded !== undefined) {
    const added = after.entriesAdded - before.entriesAdded
    if (added === taken) return 'continuous'
    return added < taken ? 'lost' : 'unknown'
  }
  const sameStart = before.firstId === undefined || before.firstId === after.firstId
  return sameStart && after.length - before.length === taken ? 'continuous' : 'unknown'
}

/**
 * The time (Unix milliseconds) before which entries of the stream are gone, or may be; `undefined` when it holds all that
 * were ever added. Before Redis 7 nobody can tell a young stream from a trimmed one: it may have been.
 */
export function missingBefore(info: StreamInfo): number | undefined {
  const { length, entriesAdded, firstId, lastGeneratedId } = info
  if (length === entriesAdded) return undefined
  const time = streamIdTime(firstId ?? lastGeneratedId)
  return time === 0 ? undefined : time
}
