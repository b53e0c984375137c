// Guarantees that a command line that cannot be understood is told so, by one sentence and the command's usage, and that
// usage, help and completion say what is parsed.

import { parseArgs } from 'node:util'

/** An option, as `parseArgs` takes it, and what help and completion say of it. */
export interface CommandOption {
  readonly type: 'string' | 'boolean'
  readonly short?: string
  readonly multiple?: boolean
  /** What stands for its value, `FILE` completes file names; for a `string` alone. */
  readonly value?: string
  /** The values that there are. */
  readonly choices?: readonly string[]
  readonly help: string
}

/** The options of a command by their names, without `help`, which every command has. */
export type CommandOptions = Readonly<Record<string, CommandOption>>

/** What a command says of itself. */
export interface CommandText {
  readonly name: string
  /** One line, for the list of commands. */
  readonly summary: string
  /** What it does and what it leaves alone, lines of 120 characters at most. */
  readonly about: string
  /** The word that follows the name, and the values that it can have. */
  readonly operand?: { readonly name: string; readonly choices: readonly string[] }
  readonly options: CommandOptions
  /** The variables that it reads, lines of 120 characters at most. */
  readonly environment?: string
  /** What exit status 0 and 1 say. */
  readonly exit: readonly [success: string, failure: string]
}

/** A command that can be run. */
export interface Command extends CommandText {
  /**
   * Loads the command and runs it.
   *
   * @returns the exit status
   * @throws UsageError when the arguments are wrong
   * @throws ConfigError when the environment is
   */
  run(args: string[], env: NodeJS.ProcessEnv): Promise<number>
}

/** What the options say. */
export type Values<Options extends CommandOptions> = ReturnType<typeof parse<Options>>['values']

/** What does a command's work; returns the exit status. */
export type Run<Given> = (values: Given, env: NodeJS.ProcessEnv, operand: string) => Promise<number>

/** A command line that cannot be understood: one sentence without a full stop. */
export class UsageError extends Error {}

/** Makes a command of what it says of itself and of what does its work, which is loaded when it is asked for. */
export function command<const Options extends CommandOptions>(
  text: CommandText & { readonly options: Options },
  load: () => Promise<Run<Values<Options>>>,
): Command {
  return {
    ...text,
    async run(args, env) {
      const { values, positionals } = parse(args, text.options, text.operand !== undefined)
      checkChoices(values, text.options)
      const operand = operandOf(positionals, text.operand)
      const run = await load()
      return run(values, env, operand)
    },
  }
}

function parse<const Options extends CommandOptions>(
  args: string[],
  options: Options,
  allowPositionals: boolean,
) {
  try {
    return parseArgs({ args, options, allowPositionals })
  } catch (error) {
    const [sentence = ''] = (error instanceof Error ? error.message : String(error)).split('. ')
    throw new UsageError(sentence, { cause: error })
  }
}

function checkChoices(values: Readonly<Record<string, unknown>>, options: CommandOptions): void {
  for (const [name, { choices }] of Object.entries(options)) {
    const value = values[name]
    if (choices === undefined || typeof value !== 'string' || choices.includes(value)) continue
    throw new UsageError(`--${name} must be ${choices.join(', ')}`)
  }
}

function operandOf(given: readonly string[], operand: CommandText['operand']): string {
  if (operand === undefined) return ''
  const [word, ...more] = given
  if (word === undefined || more.length > 0 || !operand.choices.includes(word)) {
    throw new UsageError(`${operand.name} must be one of ${operand.choices.join(', ')}`)
  }
  return word
}

/** The one option that every command has. */
const HELP = { help: { type: 'boolean', short: 'h', help: 'print this' } } as const

/** What `--help` prints, and a command line that is wrong. */
export function usageOf({ name, about, operand, options, environment, exit }: CommandText): string {
  const all: CommandOptions = { ...options, ...HELP }
  const words = Object.entries(options).map(([option, { value, multiple }]) => {
    const word = `--${option}${value === undefined ? '' : ` ${value}`}`
    return `[${word}]${multiple === true ? '...' : ''}`
  })
  const head = ['usage: caracal-gateway', name, ...(operand ? [operand.choices.join('|')] : [])]
  const left = Object.entries(all).map(([option, { short, value }]) => {
    const long = `--${option}${value === undefined ? '' : ` ${value}`}`
    return short === undefined ? `    ${long}` : `-${short}, ${long}`
  })
  const width = Math.max(...left.map(text => text.length))
  const lines = Object.values(all).map(
    ({ help }, index) => `  ${(left[index] ?? '').padEnd(width)}  ${help}`,
  )
  return [
    wrapped(head.join(' '), words),
    about,
    lines.join('\n'),
    ...(environment === undefined ? [] : [`From the environment: ${environment}`]),
    `Exit status: 0 ${exit[0]}, 1 ${exit[1]}, 2 usage.\n`,
  ].join('\n\n')
}

/** The head of a usage and its options, in lines of 100 characters. */
function wrapped(head: string, words: readonly string[]): string {
  const lines = [head]
  for (const word of words) {
    const last = lines.at(-1) ?? ''
    if (last.length + 1 + word.length <= 100) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(`         ${word}`)
  }
  return lines.join('\n')
}
