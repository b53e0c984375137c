// Turns the evidence of observed resources into the operations that they lack, in the words of a bindings file.

import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { stringify } from 'yaml'
import { loadEvidenceConfig } from '../config.ts'
import { formedEvent } from '../lib/event-form.ts'
import { compareStreamIds } from '../lib/stream-id.ts'
import { rangeEnd, rangeStart } from '../lib/stream-range.ts'
import { AUDIT_STREAM } from '../plugins/audit/sink.ts'
import { type Run, UsageError } from './command.ts'
import { printable, printJson } from './output.ts'
import { connect } from './store.ts'

interface Options {
  readonly file?: string | undefined
  readonly since?: string | undefined
  readonly until?: string | undefined
  readonly json?: boolean | undefined
}

/** An operation that callers use and nobody declared. */
export interface Suggestion {
  readonly zone: string
  readonly resource: string
  readonly method: string
  readonly path: string
  /** Scopes that every caller had; one of them may be the one to ask for. */
  readonly common_scopes: readonly string[]
  count: number
}

/** A declared operation that callers use without its scope. */
export interface LackingScope {
  readonly zone: string
  readonly resource: string
  readonly method: string
  readonly path: string
  readonly scope: string
  count: number
}

/** What `--json` prints. */
export interface Suggestions {
  readonly operations: readonly Suggestion[]
  readonly scopes: readonly LackingScope[]
  /** Entries that hold no event, and events that name no operation. */
  readonly unread: number
}

const DAY = 24 * 60 * 60 * 1_000
const PAGE = 200

/** `caracal-gateway suggest-operations`. */
export const suggestOperations: Run<Options> = async (values, env) => {
  const tally = new Tally()
  if (values.file === undefined) await readStream(values, env, tally)
  else {
    if (values.since !== undefined || values.until !== undefined) {
      throw new UsageError('--since and --until are for the stream, not for --file')
    }
    const input = values.file === '-' ? process.stdin : createReadStream(values.file)
    for await (const line of createInterface({ input, crlfDelay: Infinity })) {
      if (line !== '') tally.take(line)
    }
  }
  const suggestions = tally.suggestions
  if (values.json) printJson(suggestions)
  else process.stdout.write(yaml(suggestions))
  return 0
}

async function readStream(values: Options, env: NodeJS.ProcessEnv, tally: Tally): Promise<void> {
  const since = values.since === undefined ? `${Date.now() - DAY}-0` : rangeStart(values.since)
  const until = values.until === undefined ? undefined : rangeEnd(values.until)
  if (since === undefined || (values.until !== undefined && until === undefined)) {
    throw new UsageError('--since and --until must be an RFC 3339 time or a stream id')
  }
  const store = await connect(loadEvidenceConfig(env))
  try {
    // Not for ever: a stream that is written to has no end.
    const end = until ?? (await store.info(AUDIT_STREAM))?.lastGeneratedId
    if (end === undefined) return
    for (let next = since; ; ) {
      const page = await store.range(AUDIT_STREAM, next, PAGE)
      for (const { id, fields } of page) {
        if (compareStreamIds(id, end) > 0) return
        tally.take(fields['data'] ?? '')
        next = `(${id}`
      }
      if (page.length < PAGE) return
    }
  } finally {
    store.close()
  }
}

/** Counts requests by operation; an event that comes again counts once. */
class Tally {
  readonly #seen = new Set<string>()
  readonly #operations = new Map<string, Suggestion>()
  readonly #scopes = new Map<string, LackingScope>()
  #unread = 0

  take(data: string): void {
    const event = formedEvent(data)
    if (typeof event === 'string') {
      this.#unread += 1
      return
    }
    const { metadata_json: metadata = {}, zone_id: zone, id } = event
    const check = metadata['would_deny']
    if (check === undefined || this.#seen.has(id)) return
    this.#seen.add(id)
    const [resource, method, path] = ['resource', 'method', 'operation_path'].map(name =>
      textOf(metadata[name]),
    )
    if (!resource || !method || !path) {
      this.#unread += 1
      return
    }
    const operation = { zone, resource, method, path }
    if (check === 'undeclared_operation') {
      this.#undeclared(operation, words(metadata['mandate_scope']))
    } else this.#lacking({ ...operation, scope: textOf(metadata['operation_scope']) })
  }

  #undeclared(operation: Omit<Suggestion, 'common_scopes' | 'count'>, scopes: string[]): void {
    const key = JSON.stringify(operation)
    const known = this.#operations.get(key)
    this.#operations.set(key, {
      ...operation,
      common_scopes: known?.common_scopes.filter(scope => scopes.includes(scope)) ?? scopes,
      count: (known?.count ?? 0) + 1,
    })
  }

  #lacking(operation: Omit<LackingScope, 'count'>): void {
    const key = JSON.stringify(operation)
    this.#scopes.set(key, { ...operation, count: (this.#scopes.get(key)?.count ?? 0) + 1 })
  }

  get suggestions(): Suggestions {
    return {
      operations: sorted(this.#operations),
      scopes: sorted(this.#scopes),
      unread: this.#unread,
    }
  }
}

const textOf = (value: unknown) => (typeof value === 'string' ? value : '')

function words(text: unknown): string[] {
  return textOf(text)
    .split(' ')
    .filter(word => word !== '')
}

function sorted<T extends { readonly zone: string; readonly resource: string; count: number }>(
  all: ReadonlyMap<string, T>,
): T[] {
  const key = ({ zone, resource }: T) => JSON.stringify([zone, resource])
  return [...all.values()].toSorted((a, b) =>
    key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : b.count - a.count,
  )
}

/** A bindings file of the suggestions alone. */
function yaml({ operations, scopes, unread }: Suggestions): string {
  const lines: string[] = []
  if (unread > 0) lines.push(`# ${unread} entries could not be read.`)
  for (const { zone, resource, method, path, scope, count } of scopes) {
    lines.push(
      comment(
        `${zone} ${resource}: ${method} ${path} was used ${times(count)} without scope ${scope}`,
      ),
    )
  }
  if (operations.length === 0) return `${[...lines, '# Nothing to declare.'].join('\n')}\n`
  lines.push('version: 1', 'zones:')
  let zone: string | undefined
  let resource: string | undefined
  for (const operation of operations) {
    if (operation.zone !== zone) {
      zone = operation.zone
      resource = undefined
      lines.push(`  ${flow(zone)}:`, '    resources:')
    }
    if (operation.resource !== resource) {
      resource = operation.resource
      lines.push(`      ${flow(resource)}:`, '        operations:')
    }
    lines.push(...entry(operation).map(line => `          ${line}`))
  }
  return `${lines.join('\n')}\n`
}

function entry({ method, path, common_scopes: common, count }: Suggestion): string[] {
  const [only] = common
  const scope = common.length === 1 && only !== undefined ? `, scope: ${flow(only)}` : ''
  const doubt =
    common.length === 1
      ? ''
      : common.length === 0
        ? '; no scope in common'
        : `; one of ${common.join(' ')}`
  return [`- { method: ${method}, path: ${flow(path)}${scope} } ${comment(times(count) + doubt)}`]
}

const times = (count: number) => (count === 1 ? 'once' : `${count} times`)
const comment = (text: string) => `# ${printable(text)}`

/** A text as YAML writes it within braces. */
function flow(text: string): string {
  // Plain in a block it may still be a list or a map in braces.
  return /^[\w/.-][\w/.:-]*[\w/.-]$|^\w$/.test(text) && stringify(text).trim() === text
    ? text
    : JSON.stringify(text)
}
