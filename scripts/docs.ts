// Guarantees that what operators read of the configuration is what the schema says: writes
// `.env.example` and `docs/configuration.md` from it, `docs/denials.md` from the checks, and what the Helm chart repeats. `test/docs/generated.test.ts` and
// `test/deploy/chart.test.ts` fail when they differ.

import { writeFileSync } from 'node:fs'
import { type About, SECRETS, SECTIONS } from '../config.ts'
import { DENIALS, type DenialRow, isCheck } from '../denial.ts'
import { DENIAL_HELP } from '../lib/denial-help.ts'
import { chartFiles } from './chart.ts'

const WIDTH = 100

/** The text of `.env.example`: every variable that does something, set to its default or empty. */
export function renderEnvExample(): string {
  const lines = [
    ...comment(
      'Written by `npm run docs` from the schema in config.ts. Copy to `.env`, which `npm start` and `npm run dev` read, and remove the `#` from what you set. An empty value means unset. docs/configuration.md says more.',
    ),
  ]
  for (const { title, variables } of SECTIONS.slice(0, -1)) {
    lines.push('', `# --- ${title} ${'-'.repeat(WIDTH - title.length - 7)}`)
    for (const [name, about] of Object.entries(variables)) {
      const required = about.requiredIn ? ` Required in ${about.requiredIn}.` : ''
      const note = about.defaultNote ? ` Default: ${about.defaultNote}.` : ''
      const unit = about.unit ? ` In ${about.unit}.` : ''
      lines.push('', ...comment(`${about.description}${note}${unit}${required}`))
      // What every mode needs stands there uncommented, to be filled in.
      const mark = about.requiredIn === 'every mode' ? '' : '# '
      lines.push(`${mark}${name}=${about.default ?? ''}`)
    }
  }
  return `${lines.join('\n')}\n`
}

/** The text of `docs/configuration.md`. */
export function renderConfigurationDoc(): string {
  const lines = [
    '<!-- Written by `npm run docs` from the schema in config.ts; edit that. -->',
    '',
    '# Configuration',
    '',
    'The gateway is configured by environment variables alone. They are read once, before anything',
    'listens. Every problem is reported at once, a line each, by the name of the variable and never',
    'with its value, and the process exits with status 1.',
    '',
    '- An empty value means unset. Variables that are not listed here are ignored.',
    '- A **duration** is written as in Go: `5s`, `1m30s`, `250ms`, `1.5h`; a number alone is none,',
    '  except `0`. The longest is 596 hours.',
    '- A **boolean** is `true` or `false` (also `1`, `0`, `t`, `f`, `TRUE`, `FALSE`, `T`, `F`, `True`,',
    '  `False`).',
    '- A **list** is separated by commas; spaces around an entry do not count. A list that is set has',
    '  an entry.',
    '- A **path** names a file that the gateway can read. A relative one begins at the working',
    '  directory.',
    '- **Published** modes are `rc` and `stable`; the default is `stable`.',
    '',
    '## Secrets from files',
    '',
    'A secret may lie in a file, as container platforms mount it: the variable `NAME_FILE` then holds',
    'the path of the file for the variable `NAME`. White space at the end of the file is cut. A value',
    'in the variable itself wins over the file. A file that cannot be read or is empty is a problem',
    'that stops the start. This goes for',
    `${SECRETS.map(name => `\`${name}\``).join(',\n')}.`,
    'Other names that end in `_FILE` are listed below or ignored.',
  ]
  for (const { title, variables } of SECTIONS) {
    lines.push('', `## ${title}`, '')
    lines.push(
      '| Variable | Form | Default | Required in | Meaning |',
      '| --- | --- | --- | --- | --- |',
    )
    for (const [name, about] of Object.entries(variables)) {
      const form = about.unit ? `${about.form} (${about.unit})` : about.form
      lines.push(row(`\`${name}\``, form, defaultOf(about), about.requiredIn, about.description))
    }
  }
  return `${lines.join('\n')}\n`
}

const MANDATE = {
  unspent: 'can still be used',
  spent: 'is spent',
  either: 'may be spent',
} as const

/** The text of `docs/denials.md`. */
export function renderDenialsDoc(): string {
  const checks = Object.keys(DENIALS).filter(isCheck)
  const lines = [
    '<!-- Written by `npm run docs` from denial.ts and lib/denial-help.ts; edit those. -->',
    '',
    '# Denials',
    '',
    'Every check of the gateway, in the order in which they run. A check has one name: in the log',
    '(`check`), in the metric `denials_total{check}`, in the evidence, and here. The caller sees',
    'status, `error` and `error_description`; the `requestId` of the answer finds the log line that',
    'names the check.',
    '',
    'Whether a call can have happened, the answer says itself: `dispatched` is `no` until the first',
    'byte goes to the upstream, and `unknown` from then on. Whether the mandate can be used again is',
    'said below. Checks whose status or words vary have the usual ones here.',
    '',
    '| Check | Status | `error` | `error_description` | The mandate |',
    '| --- | --- | --- | --- | --- |',
    ...checks.map(check => {
      const { status, error, description }: DenialRow = DENIALS[check]
      const mandate = MANDATE[DENIAL_HELP[check].mandate]
      const link = `[\`${check}\`](#${check})`
      return row(link, String(status), `\`${error}\``, description, mandate)
    }),
  ]
  for (const check of checks) {
    const { status, error, description }: DenialRow = DENIALS[check]
    const { cause, cure, mandate } = DENIAL_HELP[check]
    lines.push(
      '',
      `## ${check}`,
      '',
      `${status} \`${error}\`, "${description}". The mandate ${MANDATE[mandate]}.`,
      '',
      `- **Cause**: ${cause}`,
      `- **Cure**: ${cure}`,
    )
  }
  return `${lines.join('\n')}\n`
}

function defaultOf(about: About): string | undefined {
  return about.default === undefined ? about.defaultNote : `\`${about.default}\``
}

function row(...cells: (string | undefined)[]): string {
  return `| ${cells.map(cell => cell?.replaceAll('|', '\\|') ?? '-').join(' | ')} |`
}

/** A text as comment lines of the usual width. Backticks mean nothing there. */
function comment(text: string): string[] {
  const lines: string[] = []
  let line = '#'
  for (const word of text.replaceAll('`', '').split(' ')) {
    if (line.length + 1 + word.length > WIDTH) {
      lines.push(line)
      line = '#'
    }
    line += ` ${word}`
  }
  return [...lines, line]
}

if (import.meta.main) {
  writeFileSync(new URL('../.env.example', import.meta.url), renderEnvExample())
  writeFileSync(new URL('../docs/configuration.md', import.meta.url), renderConfigurationDoc())
  writeFileSync(new URL('../docs/denials.md', import.meta.url), renderDenialsDoc())
  for (const { file, text } of chartFiles()) writeFileSync(file, text)
}
