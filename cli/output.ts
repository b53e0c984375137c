// Guarantees that what is printed moves no cursor, whoever wrote it, and has colours on a terminal alone.

import { styleText } from 'node:util'

/** What colours stand for. */
export type Tone = 'good' | 'bad' | 'doubtful' | 'quiet'

const FORMATS = { good: 'green', bad: 'red', doubtful: 'yellow', quiet: 'dim' } as const

/** A text in its colour; as it is where standard output is no terminal, or `NO_COLOR` is set. */
export function toned(tone: Tone, text: string): string {
  return styleText(FORMATS[tone], text, { stream: process.stdout })
}

/** Writes a line to standard output. */
export function printLine(text: string): void {
  process.stdout.write(`${text}\n`)
}

/** Writes a value to standard output as one line of JSON. */
export function printJson(value: unknown): void {
  printLine(JSON.stringify(value))
}

/** A text that moves no cursor, 300 characters of it. */
export function printable(text: string): string {
  const plain = text.replaceAll(
    /[^\x20-\x7e]/g,
    character => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
  return plain.length > 300 ? `${plain.slice(0, 300)}...` : plain
}

/** Rows as lines, their columns aligned by what a reader sees of them. */
export function columns(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = []
  for (const row of rows) {
    for (const [at, cell] of row.entries()) widths[at] = Math.max(widths[at] ?? 0, cell.length)
  }
  return rows.map(row =>
    row
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}
