/**
 * Guarantees that a row of the `resources` table means what it says: what could never match, or contradicts itself, is
 * a problem that names the row, and a row with a problem yields no binding (contract sections 10 and 14).
 */
import { operationsOf, resourceProblem, zoneProblem } from './binding-rules.ts'
import {
  type Binding,
  type Operation,
  operationMatcher,
  type OperationMatcher,
} from './bindings.ts'
import { MAX_PROBLEMS, quoted, Report } from './problem-report.ts'

/** A live row of the table. Its columns are taken for what they should be only once they were looked at. */
export interface ResourceRow {
  readonly zone_id: unknown
  readonly identifier: unknown
  /** The `jsonb` as text. */
  readonly operations: unknown
  readonly operation_enforcement: unknown
}

/** Text of a row's operations, in characters: parsing more than this would hold up every request. */
const MAX_OPERATIONS = 1024 * 1024

/** The binding that a row is. */
export class TableBinding implements Binding {
  readonly zone: string
  readonly resource: string
  readonly enforcement: 'enforced' | 'transport_uniform'
  readonly preserveEncodedSlash = false
  // Most bindings of a large table see no traffic between two changes, and the text takes half the memory that its
  // operations would.
  readonly #operations: string
  #matcher: OperationMatcher | undefined

  /** @param operations what the row says, as JSON without problems */
  constructor(
    zone: string,
    resource: string,
    enforcement: 'enforced' | 'transport_uniform',
    operations: string,
  ) {
    this.zone = zone
    this.resource = resource
    this.enforcement = enforcement
    this.#operations = operations
  }

  /** Whether a row for the same resource says the same. */
  isSaidBy({ operations, operation_enforcement: enforcement }: ResourceRow): boolean {
    return operations === this.#operations && enforcement === this.enforcement
  }

  operation(method: string, decodedPath: string): Operation | undefined {
    this.#matcher ??= operationMatcher(declared(this.#operations, new Report()), true)
    return this.#matcher(method, decodedPath)
  }
}

/** The bindings of the table. A single one can be replaced; each is whole at any time. */
export class BindingTable {
  readonly #zones = new Map<string, Map<string, TableBinding>>()
  #size = 0

  /** Number of bindings. */
  get size(): number {
    return this.#size
  }

  hasZone(zone: string): boolean {
    return this.#zones.has(zone)
  }

  find(zone: string, resource: string): TableBinding | undefined {
    return this.#zones.get(zone)?.get(resource)
  }

  /** Makes a zone known, before any of its bindings. */
  addZone(zone: string): void {
    if (!this.#zones.has(zone)) this.#zones.set(zone, new Map())
  }

  set(binding: TableBinding): void {
    const { zone, resource } = binding
    this.addZone(zone)
    const resources = this.#zones.get(zone)
    if (resources?.has(resource) === false) this.#size += 1
    resources?.set(resource, binding)
  }

  /** Removes a binding; its zone stays known. */
  delete(zone: string, resource: string): void {
    if (this.#zones.get(zone)?.delete(resource) === true) this.#size -= 1
  }
}

/** Takes rows one by one; what they say is in `table`, what is wrong with them in `problems`. */
export class TableReading {
  readonly table = new BindingTable()
  /** One line each. */
  readonly problems: string[] = []
  readonly #known: BindingTable
  readonly #faulty = new Set<string>()
  #differs = false

  /** @param known what was read before: a row that says the same is not read again */
  constructor(known: BindingTable) {
    this.#known = known
  }

  /** Whether there are more problems than anybody would read. */
  get hopeless(): boolean {
    return this.problems.length > MAX_PROBLEMS
  }

  /** Whether, after the last row, the table says something else than what was known. */
  get changed(): boolean {
    return this.#differs || this.table.size !== this.#known.size
  }

  /** Whether a row of this resource had a problem. */
  isFaulty(zone: string, resource: string): boolean {
    return this.#faulty.has(keyOf(zone, resource))
  }

  /** Takes a row. Never throws, whatever the row holds. */
  add(row: ResourceRow): void {
    const { zone_id: zone, identifier: resource } = row
    if (typeof zone !== 'string' || typeof resource !== 'string') {
      this.problems.push('a row without zone or resource: zone_id and identifier must be text')
      return
    }
    const report = new Report()
    const binding = this.#bindingOf(zone, resource, row, report)
    if (this.table.find(zone, resource) !== undefined) {
      report.add(['identifier'], 'must be that of one row only, the others archived')
    }
    if (binding !== undefined && report.problems.length === 0) {
      this.table.set(binding)
      return
    }
    this.#faulty.add(keyOf(zone, resource))
    const name = `zone ${quoted(zone)}, resource ${quoted(resource)}`
    for (const line of report.lines()) this.problems.push(`${name}: ${line}`)
  }

  #bindingOf(
    zone: string,
    resource: string,
    row: ResourceRow,
    report: Report,
  ): TableBinding | undefined {
    const known = this.#known.find(zone, resource)
    // What is known is right, and is not judged again: most rows of most readings say what they said before.
    if (known?.isSaidBy(row) === true) return known
    this.#differs = true
    const { operations, operation_enforcement: enforcement } = row
    const zoneRule = zoneProblem(zone)
    if (zoneRule !== undefined) report.add(['zone_id'], zoneRule)
    const resourceRule = resourceProblem(resource)
    if (resourceRule !== undefined) report.add(['identifier'], resourceRule)
    declared(operations, report)
    if (enforcement !== 'enforced' && enforcement !== 'transport_uniform') {
      report.add(['operation_enforcement'], 'must be enforced or transport_uniform')
      return undefined
    }
    return typeof operations === 'string'
      ? new TableBinding(zone, resource, enforcement, operations)
      : undefined
  }
}

function keyOf(zone: string, resource: string): string {
  return JSON.stringify([zone, resource])
}

/** The operations that a row declares; reports what is wrong with them. */
function declared(operations: unknown, report: Report): Operation[] {
  if (typeof operations === 'string' && operations.length > MAX_OPERATIONS) {
    report.add(['operations'], `must not be longer than ${MAX_OPERATIONS} characters`)
    return []
  }
  return operationsOf(parsed(operations), ['operations'], report, 'table')
}

function parsed(json: unknown): unknown {
  try {
    return typeof json === 'string' ? JSON.parse(json) : undefined
  } catch {
    return undefined
  }
}
