/**
 * Guarantees that a problem tells its place and the rule that is broken, quotes names and never values, and that a
 * list of them stays short enough to read.
 */

/** The most problems that are listed. */
export const MAX_PROBLEMS = 50

/** One step of the way to a place: a name in a mapping, or an index in a list. */
export type Step = string | number

/** A mapping that was parsed. */
export type Fields = Readonly<Record<string, unknown>>

/** Where a path lies in the text that was parsed, as `line:column`, both from 1. */
export type Locate = (path: readonly Step[]) => string | undefined

interface Problem {
  readonly path: readonly Step[]
  readonly rule: string
}

/** Collects what is wrong with one source. */
export class Report {
  readonly problems: Problem[] = []

  add(path: readonly Step[], rule: string): void {
    if (!this.full) this.problems.push({ path, rule })
  }

  /** One more than is listed, so that the list can say that it is cut. */
  get full(): boolean {
    return this.problems.length > MAX_PROBLEMS
  }

  /** One line a problem: `place (line:column): rule`. */
  lines(locate: Locate = () => undefined): string[] {
    const lines = this.problems.map(({ path, rule }) => {
      const position = locate(path)
      const place = placeName(path)
      return `${place}${position === undefined ? '' : ` (${position})`}: ${rule}`
    })
    return listed(lines)
  }
}

/** The lines that are shown of these: all, or the first {@link MAX_PROBLEMS} and a word that there are more. */
export function listed(lines: readonly string[]): string[] {
  if (lines.length <= MAX_PROBLEMS) return [...lines]
  const cut = `further problems are not listed (the first ${MAX_PROBLEMS} are)`
  return [...lines.slice(0, MAX_PROBLEMS), cut]
}

/** A name in quotes, cut where it is too long to read. */
export function quoted(name: string): string {
  return JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}...` : name)
}

function placeName(path: readonly Step[]): string {
  if (path.length === 0) return 'file'
  let name = ''
  for (const step of path) {
    if (typeof step === 'number') name += `[${step}]`
    else if (/^[A-Za-z_][A-Za-z0-9_-]*$/.test(step)) name += name === '' ? step : `.${step}`
    else name += `[${quoted(step)}]`
  }
  return name
}

/** Whether a parsed value is a mapping. */
export function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The value as a mapping with these fields; reports what is missing, or that it is none. */
export function fieldsOf(
  value: unknown,
  path: readonly Step[],
  report: Report,
  required: readonly string[],
): Fields | undefined {
  if (!isFields(value)) {
    report.add(path, 'must be a mapping')
    return undefined
  }
  for (const name of required) {
    if (!Object.hasOwn(value, name)) report.add(path, `must have the field ${name}`)
  }
  return value
}

/** Reports the fields that nobody knows. */
export function refuseOthers(
  fields: Fields,
  path: readonly Step[],
  report: Report,
  known: readonly string[],
): void {
  for (const name of Object.keys(fields)) {
    if (!known.includes(name)) {
      report.add([...path, name], `unknown field (known here: ${known.join(', ')})`)
    }
  }
}
