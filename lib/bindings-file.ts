/**
 * Guarantees that a bindings file means what it says: whatever is misspelt, doubled or could never
 * match is a problem with its place in the file, and a file with a problem yields no bindings.
 */

import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument } from 'yaml'
import type { Document, Node } from 'yaml'
import { operationsOf, resourceProblem, zoneProblem } from './binding-rules.ts'
import { bindingSet } from './bindings.ts'
import type { BindingDefinition, BindingSet, Enforcement } from './bindings.ts'
import { parseDuration } from './duration.ts'
import { fieldsOf, isFields, MAX_PROBLEMS, refuseOthers, Report } from './problem-report.ts'
import type { Locate, Step } from './problem-report.ts'

/** A file's bindings, or everything that is wrong with it (one line each, at most 51). */
export type BindingsFile =
  | { readonly ok: true; readonly set: BindingSet }
  | { readonly ok: false; readonly problems: readonly string[] }

// How often anchors may be used: enough for a list that many resources share, too few to blow up.
const MAX_ALIASES = 1000
// The longest that a timer of Node can wait.
const MAX_TIMEOUT = 2 ** 31 - 1

// In our words, where the parser's speak of its interface.
const YAML_RULES: Readonly<Record<string, string>> = {
  MULTIPLE_DOCS: 'must be one document',
  NON_STRING_KEY: 'a name must be text',
}

function isEnforcement(value: unknown): value is Enforcement {
  return value === 'enforced' || value === 'transport_uniform' || value === 'observe'
}

const RESOURCE_FIELDS = [
  'operation_enforcement',
  'operations',
  'preserve_encoded_slash',
  'stream_idle_timeout',
]

function bindingOf(
  zone: string,
  resource: string,
  value: unknown,
  path: readonly Step[],
  report: Report,
): BindingDefinition | undefined {
  const misnamed = resourceProblem(resource)
  if (misnamed !== undefined) report.add(path, misnamed)
  const fields = fieldsOf(value, path, report, [])
  if (fields === undefined) return undefined
  refuseOthers(fields, path, report, RESOURCE_FIELDS)
  const given = (name: string) => Object.hasOwn(fields, name)

  let enforcement: Enforcement = given('operations') ? 'enforced' : 'transport_uniform'
  if (isEnforcement(fields['operation_enforcement'])) enforcement = fields['operation_enforcement']
  else if (given('operation_enforcement')) {
    const rule = 'must be enforced, transport_uniform or observe'
    report.add([...path, 'operation_enforcement'], rule)
  }

  const operations = given('operations')
    ? operationsOf(fields['operations'], [...path, 'operations'], report, 'file')
    : []

  const slash = given('preserve_encoded_slash') ? fields['preserve_encoded_slash'] : false
  if (typeof slash !== 'boolean') {
    report.add([...path, 'preserve_encoded_slash'], 'must be true or false')
  } else if (slash && enforcement !== 'transport_uniform') {
    // What is matched would not be what is sent.
    const rule = `must not be true with operation_enforcement ${enforcement}`
    report.add([...path, 'preserve_encoded_slash'], rule)
  }

  const definition = {
    zone,
    resource,
    enforcement,
    operations,
    preserveEncodedSlash: slash === true,
  }
  if (!given('stream_idle_timeout')) return definition
  const text = fields['stream_idle_timeout']
  const streamIdleTimeout = typeof text === 'string' ? parseDuration(text) : undefined
  if (streamIdleTimeout === undefined || streamIdleTimeout < 1 || streamIdleTimeout > MAX_TIMEOUT) {
    const rule = 'must be a duration such as 90s or 10m, from 1ms to 596h'
    report.add([...path, 'stream_idle_timeout'], rule)
    return undefined
  }
  return { ...definition, streamIdleTimeout: Math.round(streamIdleTimeout) }
}

/** Every binding of the parsed file; reports what is wrong with it. */
function definitionsOf(root: unknown, report: Report): BindingDefinition[] {
  const definitions: BindingDefinition[] = []
  const file = fieldsOf(root, [], report, ['version', 'zones'])
  if (file === undefined) return definitions
  refuseOthers(file, [], report, ['version', 'zones'])
  if (Object.hasOwn(file, 'version') && file['version'] !== 1) {
    report.add(['version'], 'must be the number 1')
  }
  if (!Object.hasOwn(file, 'zones')) return definitions
  if (!isFields(file['zones'])) {
    report.add(['zones'], 'must be a mapping of zones')
    return definitions
  }
  for (const [zone, value] of Object.entries(file['zones'])) {
    const path = ['zones', zone]
    const misnamed = zoneProblem(zone)
    if (misnamed !== undefined) report.add(path, misnamed)
    const fields = fieldsOf(value, path, report, ['resources'])
    if (fields === undefined) continue
    refuseOthers(fields, path, report, ['resources'])
    if (!Object.hasOwn(fields, 'resources')) continue
    if (!isFields(fields['resources'])) {
      report.add([...path, 'resources'], 'must be a mapping of resources')
      continue
    }
    for (const [resource, entry] of Object.entries(fields['resources'])) {
      if (report.full) return definitions
      const place = [...path, 'resources', resource]
      const binding = bindingOf(zone, resource, entry, place, report)
      if (binding !== undefined) definitions.push(binding)
    }
  }
  return definitions
}

/** Whether JSON text, known to be valid, names a member of an object twice. */
function repeatsName(json: string): boolean {
  // One entry per open bracket; `undefined` for a list.
  const open: (Set<string> | undefined)[] = []
  let text = ''
  for (const [token] of json.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\]:]/g)) {
    if (token === '{') open.push(new Set())
    else if (token === '[') open.push(undefined)
    else if (token === '}' || token === ']') open.pop()
    else if (token === ':') {
      const name: unknown = JSON.parse(text)
      const names = open.at(-1)
      if (typeof name !== 'string' || names === undefined || names.has(name)) return true
      names.add(name)
    } else text = token
  }
  return false
}

/**
 * The bindings of a JSON file that has no problem. Reading YAML takes ten times as long and the
 * memory of a whole syntax tree, which is worth it only where there is something to point at.
 */
function fromJson(text: string): BindingSet | undefined {
  if (!text.trimStart().startsWith('{')) return undefined
  try {
    const report = new Report()
    const definitions = definitionsOf(JSON.parse(text), report)
    if (report.problems.length > 0 || repeatsName(text)) return undefined
    return bindingSet(definitions)
  } catch {
    // Not JSON, but it may be YAML; if it is not that either, the reader of YAML says where.
    return undefined
  }
}

/** Reports names that a mapping has twice. The parser's own check takes quadratic time. */
function reportDuplicates(node: unknown, path: readonly Step[], report: Report): void {
  if (isSeq(node)) {
    node.items.forEach((item, index) => reportDuplicates(item, [...path, index], report))
  } else if (isMap(node)) {
    const names = new Set<string>()
    for (const { key, value } of node.items) {
      const name = isScalar(key) ? String(key.value) : ''
      if (names.has(name)) report.add([...path, name], 'is there twice')
      names.add(name)
      reportDuplicates(value, [...path, name], report)
    }
  }
}

function locator(document: Document, counter: LineCounter): Locate {
  return path => {
    let node: unknown = document.contents
    let at: unknown = node
    for (const step of path) {
      if (isAlias(node)) node = node.resolve(document)
      if (isSeq(node) && typeof step === 'number') {
        node = node.items[step]
        at = node
      } else if (isMap(node)) {
        // The last one: where a name is there twice, it is the one to point at.
        const pair = node.items.findLast(({ key }) => isScalar(key) && key.value === step)
        node = pair?.value
        at = pair?.key
      } else return undefined
    }
    const range = isRanged(at) ? at.range : undefined
    if (range === undefined || range === null) return undefined
    const { line, col } = counter.linePos(range[0])
    return `${line}:${col}`
  }
}

function isRanged(node: unknown): node is Node {
  return typeof node === 'object' && node !== null && 'range' in node
}

function fromYaml(text: string): BindingsFile {
  const counter = new LineCounter()
  const document = parseDocument(text, {
    version: '1.2',
    schema: 'core',
    merge: false,
    resolveKnownTags: false,
    strict: true,
    stringKeys: true,
    uniqueKeys: false,
    // Prettified errors quote the file, and it may be another than was meant.
    prettyErrors: false,
    lineCounter: counter,
    logLevel: 'error',
  })
  const problems: string[] = []
  for (const { code, message, pos } of [...document.errors, ...document.warnings]) {
    if (problems.length === MAX_PROBLEMS) break
    const { line, col } = counter.linePos(pos[0])
    // Some messages end with the text that they are about: it stays out of the log.
    const rule = YAML_RULES[code] ?? message.replace(/(: ".*)?\s*$/s, '')
    problems.push(`file (${line}:${col}): ${rule}`)
  }
  if (document.directives?.yaml.explicit === true && document.directives.yaml.version !== '1.2') {
    problems.push('file (1:1): must be YAML 1.2')
  }
  if (problems.length > 0) return { ok: false, problems }

  const report = new Report()
  reportDuplicates(document.contents, [], report)
  const definitions = definitionsOf(document.toJS({ maxAliasCount: MAX_ALIASES }), report)
  if (report.problems.length > 0) {
    return { ok: false, problems: report.lines(locator(document, counter)) }
  }
  return { ok: true, set: bindingSet(definitions) }
}

/**
 * Reads a bindings file (contract section 10): YAML 1.2 or JSON, one document.
 *
 * Never throws. Problems name the place as a path and, where known, as `line:column`; they quote
 * names and rules, never values.
 *
 * @param text - the file's whole text
 */
export function readBindingsFile(text: string): BindingsFile {
  const set = fromJson(text)
  if (set !== undefined) return { ok: true, set }
  try {
    return fromYaml(text)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    return { ok: false, problems: [`file: cannot be read (${reason.replaceAll(/\s+/g, ' ')})`] }
  }
}
