// Makes the completion scripts of bash, zsh and fish from the table of commands.

import type { Command, CommandOption, Run } from './command.ts'
import { COMMANDS } from './commands.ts'
import { printJson } from './output.ts'

interface Options {
  readonly json?: boolean | undefined
}

/** `caracal-gateway completion`. */
export const completion: Run<Options> = async ({ json }, _env, shell) => {
  const script = SCRIPTS.get(shell)?.() ?? ''
  if (json) printJson({ shell, script })
  else process.stdout.write(script)
  return 0
}

const SCRIPTS: ReadonlyMap<string, () => string> = new Map([
  ['bash', bash],
  ['zsh', zsh],
  ['fish', fish],
])

const HELP: CommandOption = { type: 'boolean', short: 'h', help: 'print what the command takes' }

const optionsOf = ({ options }: Command): [name: string, option: CommandOption][] => [
  ...Object.entries(options),
  ['help', HELP],
]

const takesFile = ({ value }: CommandOption) => value === 'FILE' || value === 'DIRECTORY'

function bash(): string {
  const cases = COMMANDS.flatMap(command => {
    const words = optionsOf(command).map(([name]) => `--${name}`)
    const files = optionsOf(command).filter(([, option]) => takesFile(option))
    const values = optionsOf(command).filter(
      ([, option]) => option.type === 'string' && !takesFile(option),
    )
    return [
      `    ${command.name})`,
      '      case "$previous" in',
      ...(files.length === 0
        ? []
        : [
            `        ${files.map(([name]) => `--${name}`).join('|')}) COMPREPLY=($(compgen -f -- "$word")); return ;;`,
          ]),
      ...(values.length === 0
        ? []
        : [`        ${values.map(([name]) => `--${name}`).join('|')}) return ;;`]),
      '      esac',
      `      words="${[...(command.operand?.choices ?? []), ...words].join(' ')}" ;;`,
    ]
  })
  return `# Completes caracal-gateway in bash.
_caracal_gateway() {
  local word="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}" words
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="${COMMANDS.map(({ name }) => name).join(' ')} --help --version"
  else
    case "\${COMP_WORDS[1]}" in
${cases.map(line => `  ${line}`).join('\n')}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -F _caracal_gateway caracal-gateway
`
}

function zsh(): string {
  const cases = COMMANDS.flatMap(command => [
    `    ${command.name})`,
    '      _arguments \\',
    ...(command.operand
      ? [`        '1:${command.operand.name}:(${command.operand.choices.join(' ')})' \\`]
      : []),
    ...optionsOf(command).map(([name, option], index, all) => {
      const value =
        option.type === 'boolean'
          ? ''
          : `:${zshText(option.value ?? name)}:${takesFile(option) ? '_files' : ''}`
      const again = option.multiple === true ? '*' : ''
      const end = index === all.length - 1 ? ' ;;' : ' \\'
      return `        '${again}--${name}[${zshText(option.help)}]${value}'${end}`
    }),
  ])
  return `#compdef caracal-gateway
# Completes caracal-gateway in zsh.
_caracal_gateway() {
  local -a commands
  commands=(
${COMMANDS.map(({ name, summary }) => `    '${name}:${zshText(summary)}'`).join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    _arguments '--help[print the commands]' '--version[print the version]'
    return
  fi
  local command=\${words[2]}
  shift words
  (( CURRENT-- ))
  case $command in
${cases.join('\n')}
  esac
}
compdef _caracal_gateway caracal-gateway
`
}

/** What means something to `_arguments`, or ends a quoted word, is written otherwise. */
function zshText(text: string): string {
  return text.replaceAll("'", '').replaceAll(/[\\:[\]]/g, sign => `\\${sign}`)
}

function fish(): string {
  const none = `not __fish_seen_subcommand_from ${COMMANDS.map(({ name }) => name).join(' ')}`
  const lines = COMMANDS.flatMap(command => {
    const seen = `-n '__fish_seen_subcommand_from ${command.name}'`
    return [
      `complete -c caracal-gateway -n '${none}' -a ${command.name} -d ${fishText(command.summary)}`,
      ...(command.operand
        ? [`complete -c caracal-gateway ${seen} -a '${command.operand.choices.join(' ')}'`]
        : []),
      ...optionsOf(command).map(([name, option]) => {
        const value = option.type === 'boolean' ? '' : takesFile(option) ? ' -rF' : ' -x'
        return `complete -c caracal-gateway ${seen} -l ${name}${value} -d ${fishText(option.help)}`
      }),
    ]
  })
  return `# Completes caracal-gateway in fish.
complete -c caracal-gateway -f
${lines.join('\n')}
`
}

function fishText(text: string): string {
  return `'${text.replaceAll(/[\\']/g, sign => `\\${sign}`)}'`
}
