/**
 * Says what is wrong with an audit event, by the ledger's schema (contract section 8).
 */

/** Members that have to be there, and be text. */
const TEXTS = ['id', 'zone_id', 'event_type', 'request_id', 'evaluation_status', 'occurred_at']
const LISTS = ['determining_policies_json', 'diagnostics_json']
/** What else the ledger knows; other services than the gateway write it. */
const OTHERS = [
  'decision',
  'metadata_json',
  'policy_set_id',
  'policy_set_version_id',
  'manifest_sha',
]
const MEMBERS = new Set([...TEXTS, ...LISTS, ...OTHERS])

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/

/** An event that fits the schema; more members than these may be there. */
export interface FormedEvent {
  readonly id: string
  readonly zone_id: string
  readonly event_type: string
  readonly request_id: string
  readonly occurred_at: string
  readonly metadata_json?: Readonly<Record<string, unknown>>
}

/** The event that a text holds, or what is wrong with it: the end of a sentence, free of the text's content. */
export function formedEvent(data: string): FormedEvent | string {
  const event = parsed(data)
  if (!isObject(event)) return 'is no JSON object'
  return isFormed(event) ? event : (faultOf(event) ?? 'is no event')
}

function isFormed(event: Readonly<Record<string, unknown>>): event is FormedEvent & typeof event {
  return faultOf(event) === undefined
}

function faultOf(event: Readonly<Record<string, unknown>>): string | undefined {
  for (const name of TEXTS) {
    const text = event[name]
    if (typeof text !== 'string' || text === '') return `has no ${name}`
  }
  const { decision, occurred_at: time, metadata_json: metadata } = event
  if (decision !== 'allow' && decision !== 'deny') return 'has no decision'
  if (!TIME.test(String(time)) || Number.isNaN(Date.parse(String(time)))) {
    return 'has an occurred_at that is no RFC 3339 time'
  }
  for (const name of LISTS) {
    const list = event[name]
    if (!Array.isArray(list) || !list.every(isObject)) return `has no list of objects ${name}`
  }
  if (metadata !== undefined && !isObject(metadata)) return 'has a metadata_json that is no object'
  return Object.keys(event).every(name => MEMBERS.has(name))
    ? undefined
    : 'has a member that the ledger does not know'
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
