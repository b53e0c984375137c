// Guarantees that long work leaves the event loop free in between.
import { setImmediate } from 'node:timers/promises'

/** Divides work that goes on for long into slices. */
export interface Pace {
  /** Whether the slice has lasted long enough: to be asked between two small steps. */
  isOver(): boolean
  /** Lets everybody else have a turn, and begins the next slice. */
  rest(): Promise<void>
}

/** Milliseconds. Two such works at a time, and what a page of a reply costs to parse, still stay under 20. */
const SLICE = 2

/** A pace whose first slice begins now. */
export function pace(milliseconds: number = SLICE): Pace {
  let began = performance.now()
  return {
    isOver: () => performance.now() - began >= milliseconds,
    async rest() {
      await setImmediate()
      began = performance.now()
    },
  }
}
