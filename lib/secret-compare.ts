/**
 * Compares secrets without telling by the time it takes how much of them is right.
 */
import { createHash, timingSafeEqual } from 'node:crypto'

/** Whether two texts are equal, in time that depends on neither; their lengths are not told either. */
export function secretsEqual(given: string, expected: string): boolean {
  return timingSafeEqual(digest(given), digest(expected))
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
