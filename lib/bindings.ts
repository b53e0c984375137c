/**
 * Guarantees that a request matches a declared operation exactly or not at all: case-sensitive, on
 * the decoded path, with no leniency for trailing or doubled slashes (contract section 10).
 */

import Router from 'find-my-way'

/** How a resource's operations are enforced (contract section 10). */
export type Enforcement = 'enforced' | 'transport_uniform' | 'observe'

/** One call that a resource declares. */
export interface Operation {
  /** Upper-case HTTP method. `HEAD` is not implied by `GET`. */
  readonly method: string
  /** Decoded path; where the source has parameters, a segment that begins with `:` stands for one non-empty segment. */
  readonly path: string
  /** The scope that the mandate must carry; empty when the operation needs none. */
  readonly scope: string
}

/** What the gateway knows about one resource of one zone. */
export interface Binding {
  /** The zone, as the mandate's `zone_id` has it. */
  readonly zone: string
  /** The resource's identifier, as `X-Caracal-Resource` carries it. */
  readonly resource: string
  /** What becomes of an operation that is not declared. */
  readonly enforcement: Enforcement
  /** Whether `%2F` is forwarded as it came; true with `transport_uniform` only. */
  readonly preserveEncodedSlash: boolean
  /** Longest silence of an upstream body, in milliseconds; absent: the gateway's own setting. */
  readonly streamIdleTimeout?: number
  /**
   * The declared operation that the request matches, a literal segment winning over a parameter.
   *
   * @param method - the request's method
   * @param decodedPath - the path, decoded once, without query
   */
  operation(method: string, decodedPath: string): Operation | undefined
}

/** Where bindings come from: always one whole set, never a mixture of two. */
export interface BindingSource {
  /** Whether any binding names the zone. */
  hasZone(zone: string): boolean
  /** The binding of the resource in the zone. */
  find(zone: string, resource: string): Binding | undefined
  /**
   * Reads anew what is about to be refused: one resource, or, without `resource`, which zones there are. Resolves
   * when the source knows, or has waited long enough, and never rejects. `undefined`: nothing would be read, what the
   * source says stands. A source that notices every change by itself leaves it out.
   */
  reread?(zone: string, resource?: string): Promise<void> | undefined
  /** Whether there is a set to decide with. */
  healthy(): boolean
  /** Whether the source is invalid at present and an older set serves in its place. */
  readonly stale: boolean
  /** Number of bindings in the set. */
  readonly size: number
}

/** The bindings as checks see them. */
export interface Bindings extends Required<BindingSource> {
  /** False when there is no source: then the STS alone decides, and `healthy()` is true. */
  readonly configured: boolean
}

/** What a source says about one resource. */
export interface BindingDefinition {
  /** The zone's id. */
  readonly zone: string
  /** The resource's identifier. */
  readonly resource: string
  /** What becomes of a request for an operation that is not declared. */
  readonly enforcement: Enforcement
  /** The declared operations. */
  readonly operations: readonly Operation[]
  /** Whether `%2F` within a path segment stays as it is. */
  readonly preserveEncodedSlash: boolean
  /** The longest silence within an answer's body, in milliseconds; `STREAM_IDLE_TIMEOUT` unless given. */
  readonly streamIdleTimeout?: number
}

/** An immutable set of bindings, found by zone and resource. */
export interface BindingSet {
  /** Whether any binding names the zone. */
  hasZone(zone: string): boolean
  /** The binding of the resource in the zone. */
  find(zone: string, resource: string): Binding | undefined
  /** Number of bindings. */
  readonly size: number
}

/** Finds the operation that a method and a decoded path match. */
export type OperationMatcher = (method: string, decodedPath: string) => Operation | undefined

/**
 * What makes two declared paths the same: parameters count by position, whatever their names.
 *
 * @param path - a declared path
 */
export function pathShape(path: string): string {
  return path.replace(/\/:[^/]*/g, '/:')
}

// What the router reads as anything but itself: percent-encoding, the delimiters of a query,
// parameters, wildcards, expressions; and the sign that replaces them. Paths are decoded text, so
// here each of them is a letter like any other.
const ROUTER_SYNTAX = /[%?#;:*()~]/g

/**
 * Decoded path text in the router's alphabet: equal texts stay equal, different ones different, and
 * nothing in the result has a meaning of its own to the router.
 */
export function routerLiteral(text: string): string {
  return text.replace(ROUTER_SYNTAX, sign => `~${sign.charCodeAt(0).toString(16)}`)
}

// The router's plain parameter would match an empty segment too.
const ONE_SEGMENT = ':segment([^/]+)'

function routerPattern(path: string): string {
  return path
    .split('/')
    .map(segment => (segment.startsWith(':') ? ONE_SEGMENT : routerLiteral(segment)))
    .join('/')
}

interface MethodTable {
  readonly exact: Map<string, Operation>
  parametric: ReturnType<typeof Router> | undefined
}

function unreachable(): never {
  throw new Error('operations are looked up, never dispatched')
}

/**
 * A matcher for the declared operations.
 *
 * @param operations - operations with valid paths, no two of the same method and {@link pathShape} (of the same method
 * and path, where paths are exact)
 * @param exactPaths - whether paths have no parameters
 * @throws Error when two operations are the same
 */
export function operationMatcher(
  operations: readonly Operation[],
  exactPaths = false,
): OperationMatcher {
  const methods = new Map<string, MethodTable>()
  for (const operation of operations) {
    let table = methods.get(operation.method)
    if (table === undefined) {
      table = { exact: new Map(), parametric: undefined }
      methods.set(operation.method, table)
    }
    if (exactPaths || !operation.path.includes('/:')) {
      if (table.exact.has(operation.path)) throw new Error('an operation is declared twice')
      table.exact.set(operation.path, operation)
      continue
    }
    table.parametric ??= Router({
      caseSensitive: true,
      ignoreTrailingSlash: false,
      ignoreDuplicateSlashes: false,
      // The default of 100 would make an operation unreachable for a long segment.
      maxParamLength: Number.MAX_SAFE_INTEGER,
    })
    // One router a method, each under the same name: the router's own list of methods is a
    // snapshot, Node's is the one that counts.
    table.parametric.on('GET', routerPattern(operation.path), unreachable, operation)
  }
  return (method, decodedPath) => {
    const table = methods.get(method)
    if (table === undefined) return undefined
    // A path without parameters beats every other that matches, so the router need not know it.
    const exact = table.exact.get(decodedPath)
    if (exact !== undefined) return exact
    // The router would take anything else for an absolute URL.
    if (table.parametric === undefined || !decodedPath.startsWith('/')) return undefined
    const found = table.parametric.find('GET', routerLiteral(decodedPath))
    return found === null ? undefined : found.store
  }
}

class DeclaredBinding implements Binding {
  readonly zone: string
  readonly resource: string
  readonly enforcement: Enforcement
  readonly preserveEncodedSlash: boolean
  declare readonly streamIdleTimeout?: number
  readonly #operations: readonly Operation[]
  #matcher: OperationMatcher | undefined

  constructor(definition: BindingDefinition) {
    this.zone = definition.zone
    this.resource = definition.resource
    this.enforcement = definition.enforcement
    this.preserveEncodedSlash = definition.preserveEncodedSlash
    if (definition.streamIdleTimeout !== undefined) {
      this.streamIdleTimeout = definition.streamIdleTimeout
    }
    this.#operations = definition.operations
  }

  operation(method: string, decodedPath: string): Operation | undefined {
    // Built at first use: a router costs more than everything else about a binding, and most
    // bindings of a large set see no traffic between two changes of it.
    this.#matcher ??= operationMatcher(this.#operations)
    return this.#matcher(method, decodedPath)
  }
}

/**
 * A set of bindings. Of two definitions for one resource of one zone the later counts; sources
 * refuse such duplicates before.
 */
export function bindingSet(definitions: readonly BindingDefinition[]): BindingSet {
  const zones = new Map<string, Map<string, Binding>>()
  for (const definition of definitions) {
    let resources = zones.get(definition.zone)
    if (resources === undefined) {
      resources = new Map()
      zones.set(definition.zone, resources)
    }
    resources.set(definition.resource, new DeclaredBinding(definition))
  }
  let size = 0
  for (const resources of zones.values()) size += resources.size
  return {
    hasZone: zone => zones.has(zone),
    find: (zone, resource) => zones.get(zone)?.get(resource),
    size,
  }
}
