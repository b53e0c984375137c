/**
 * Guarantees that a binding says something that a request can meet, whichever source it comes from (contract
 * section 10): methods, paths, scopes and identifiers that could never match are problems.
 */

import { pathShape } from './bindings.ts'
import type { Operation } from './bindings.ts'
import { PROXIED_METHODS } from './methods.ts'
import { fieldsOf, type Fields, type Report, refuseOthers, type Step } from './problem-report.ts'

/**
 * How a source writes an operation. A `file` is written by hand: its paths may have parameters, and whatever it says
 * that nobody understands is a mistake. A `table` is written by Caracal's services: its paths are exact, as the STS
 * compares them, and members that are added one day are theirs.
 */
export type Dialect = 'file' | 'table'

const MAX_RESOURCE_LENGTH = 2048
const ZONE = /^[A-Za-z0-9._:-]{1,128}$/
const CONTROL = /[\x00-\x1f\x7f-\x9f]/
// RFC 6749 section 3.3, scope-token.
const SCOPE = /^[!#-[\]-~]+$/
const PARAMETER = /^:[A-Za-z_][A-Za-z0-9_]*$/
const DOT_SEGMENT = /^\.\.?(;|$)/
const DECLARABLE_METHODS: ReadonlySet<string> = new Set(PROXIED_METHODS)
const OPERATION_FIELDS = ['method', 'path', 'scope']

/** What keeps a mandate from naming this zone. */
export function zoneProblem(zone: string): string | undefined {
  return ZONE.test(zone) ? undefined : 'a zone is 1 to 128 letters, digits, ".", "_", ":" and "-"'
}

/** What keeps `X-Caracal-Resource` from naming this resource. */
export function resourceProblem(resource: string): string | undefined {
  if (resource === '' || resource !== resource.trim()) {
    return 'a resource identifier must not be empty or surrounded by white space'
  }
  if (resource.length > MAX_RESOURCE_LENGTH) {
    return `a resource identifier has at most ${MAX_RESOURCE_LENGTH} characters`
  }
  return CONTROL.test(resource) || !resource.isWellFormed()
    ? 'a resource identifier must not hold a control character'
    : undefined
}

function pathProblem(path: string, dialect: Dialect): string | undefined {
  if (!path.startsWith('/')) return 'must begin with "/"'
  if (!path.isWellFormed()) return 'must be well-formed Unicode'
  if (CONTROL.test(path)) return 'must not hold a control character'
  if (path.includes('\\')) return 'must not hold a backslash'
  if (path.includes('?')) return 'must not hold "?" (a query is not part of the path)'
  if (path.includes('#')) return 'must not hold "#"'
  if (path.includes('%')) return 'must not hold "%" (write the path decoded, "/a b" for "/a%20b")'
  for (const segment of path.split('/')) {
    if (DOT_SEGMENT.test(segment)) return 'must not hold a "." or ".." segment'
    if (dialect === 'file' && segment.startsWith(':') && !PARAMETER.test(segment)) {
      return 'a segment that begins with ":" needs a name of letters, digits and "_" (":id")'
    }
  }
  return undefined
}

/** The scope that an operation names, `''` for none; `undefined` when it is not one. */
function scopeOf(fields: Fields, dialect: Dialect): string | undefined {
  if (!Object.hasOwn(fields, 'scope')) return ''
  const { scope } = fields
  // By hand, a scope that is left empty is forgotten; a service writes the absence of one so.
  if (dialect === 'table' && (scope === null || scope === '')) return ''
  return typeof scope === 'string' && SCOPE.test(scope) ? scope : undefined
}

function operationOf(
  value: unknown,
  path: readonly Step[],
  report: Report,
  dialect: Dialect,
): Operation | undefined {
  const fields = fieldsOf(value, path, report, ['method', 'path'])
  if (fields === undefined) return undefined
  if (dialect === 'file') refuseOthers(fields, path, report, OPERATION_FIELDS)
  const { method, path: pattern } = fields
  const scope = scopeOf(fields, dialect)
  let usable = true
  const refuse = (name: string, rule: string) => {
    usable = false
    // An absent field is reported with its parent.
    if (Object.hasOwn(fields, name)) report.add([...path, name], rule)
  }
  if (typeof method !== 'string' || !DECLARABLE_METHODS.has(method)) {
    refuse('method', 'must be an HTTP method in upper case, other than CONNECT')
  }
  if (typeof pattern !== 'string') refuse('path', 'must be a string')
  else {
    const rule = pathProblem(pattern, dialect)
    if (rule !== undefined) refuse('path', rule)
  }
  if (scope === undefined) {
    refuse('scope', 'must be one scope, without spaces (leave the field out to require none)')
  }
  if (!usable || typeof method !== 'string' || typeof pattern !== 'string') return undefined
  return { method, path: pattern, scope: scope ?? '' }
}

/**
 * The operations that a resource declares; reports what is wrong with them.
 *
 * @param value - what the source has as the list
 * @param path - where it has it
 */
export function operationsOf(
  value: unknown,
  path: readonly Step[],
  report: Report,
  dialect: Dialect,
): Operation[] {
  if (!Array.isArray(value)) {
    report.add(path, 'must be a list')
    return []
  }
  const operations: Operation[] = []
  const seen = new Map<string, { readonly index: number; readonly scope: string }>()
  for (let index = 0; index < value.length && !report.full; index++) {
    const place = [...path, index]
    const operation = operationOf(value[index], place, report, dialect)
    if (operation === undefined) continue
    const shape = dialect === 'file' ? pathShape(operation.path) : operation.path
    // A method holds no space.
    const key = `${operation.method} ${shape}`
    const first = seen.get(key)
    if (first === undefined) {
      seen.set(key, { index, scope: operation.scope })
      operations.push(operation)
    } else if (dialect === 'file') {
      report.add(place, `duplicates operations[${first.index}] (same method, same path)`)
    } else if (first.scope !== operation.scope) {
      report.add(place, `contradicts operations[${first.index}] (same call, another scope)`)
    }
  }
  return operations
}
