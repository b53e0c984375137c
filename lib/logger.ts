/**
 * Guarantees that whatever is logged passes `loggable`, whoever logs it: no serializer of a library gets to see it before.
 */
import { type DestinationStream, type Logger, pino } from 'pino'
import { loggable, loggableLine } from './log-line.ts'

/** A logger whose lines are JSON, one each, and hold nothing that must not be told (contract section 8). */
export function createLogger(level: string, output: DestinationStream): Logger {
  return pino(
    {
      level,
      serializers: { err: asItIs, req: asItIs, res: asItIs },
      formatters: { log: loggable, bindings: loggable },
      hooks: { streamWrite: loggableLine },
    },
    output,
  )
}

function asItIs<T>(value: T): T {
  return value
}
