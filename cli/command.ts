// Guarantees that a command line that cannot be understood is told so, by one sentence and the command's usage.

import { parseArgs, type ParseArgsOptionsConfig } from 'node:util'

/** A command, as it is loaded when it is asked for. */
export interface Command {
  /** What `--help` prints, and a command line that is wrong. */
  readonly usage: string
  /**
   * @returns the exit status
   * @throws UsageError when the arguments are wrong
   * @throws ConfigError when the environment is
   */
  run(args: string[], env: NodeJS.ProcessEnv): Promise<number>
}

/** A command line that cannot be understood: one sentence without a full stop. */
export class UsageError extends Error {}

/**
 * The options of a command that takes nothing else.
 *
 * @throws UsageError
 */
export function readOptions<const Options extends ParseArgsOptionsConfig>(
  args: string[],
  options: Options,
) {
  try {
    return parseArgs({ args, options, allowPositionals: false }).values
  } catch (error) {
    const [sentence = ''] = (error instanceof Error ? error.message : String(error)).split('. ')
    throw new UsageError(sentence, { cause: error })
  }
}
