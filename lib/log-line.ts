/**
 * Guarantees that a log line holds plain data and no more of it than tells what happened: no request, socket or client of
 * a library, no member that holds a secret by its name, no query string, no token (contract section 8).
 */
import { loggedError } from './log-error.ts'

/** Members that are left out, whoever logs them, in whatever case they are written. */
const NEVER = new Set([
  'access_token',
  'authorization',
  'bearer',
  'body',
  'cookie',
  'headers',
  'password',
  'payload',
  'provider_token',
  'proxy-authorization',
  'query',
  'rawheaders',
  'search',
  'secret',
  'set-cookie',
  'subject_token',
  'token',
  'x-caracal-identity',
])

/** Characters of a text: a header can have 16 KiB, and strangers choose it. */
const MAX_TEXT = 2_048
/** Members of an array, and levels of objects in objects. */
const MAX_ITEMS = 50
const MAX_DEPTH = 4

/**
 * What an object that is logged becomes: pino's `log` and `bindings` formatter. An error becomes its name, code, message
 * and stack; what is neither data nor an error, the name of its class.
 */
export function loggable(facts: object | null): Record<string, unknown> {
  return facts === null ? {} : members(facts, 0)
}

/**
 * A line as it goes out, without what a text in it must not tell, whose text it may be: tokens and query strings. It is
 * JSON before and after: nothing that is cut holds a quotation mark or a backslash.
 */
export function loggableLine(line: string): string {
  return line
    .replace(TOKEN, '[redacted]')
    .replace(/\b(Bearer|Basic) [^\s"'\\]+/gi, '$1 [redacted]')
    .replace(/\?[^\s"'\\]+/g, '?[redacted]')
}

/** A JWS, whole or cut, looked for only where a word begins, or after an escape such as `\n`: else a long text would take for ever. */
const TOKEN = /(?<!(?<!\\)[\w-])eyJ[\w-]{8,}(?:\.[\w-]*){0,2}/g

function members(object: object, depth: number): Record<string, unknown> {
  const result: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(object)) {
    if (value === undefined || NEVER.has(name.toLowerCase())) continue
    result[name] = name === 'err' ? loggedErrorOf(value) : data(value, depth + 1)
  }
  return result
}

function data(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return cut(value)
  if (typeof value !== 'object' || value === null) return value
  if (value instanceof Error) return loggedErrorOf(value)
  if (value instanceof Date) return value.toJSON()
  if (depth > MAX_DEPTH) return '[...]'
  if (Array.isArray(value)) return value.slice(0, MAX_ITEMS).map(item => data(item, depth + 1))
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype === Object.prototype || prototype === null) return members(value, depth)
  return `[${value.constructor.name}]`
}

function loggedErrorOf(value: unknown): unknown {
  return cutTexts(loggedError(value))
}

function cutTexts(value: unknown): unknown {
  if (typeof value === 'string') return cut(value)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, text]) => [name, cutTexts(text)]))
}

function cut(text: string): string {
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}... (${text.length} characters)` : text
}
