// Asks two gateways the same, and says what they answer otherwise. Nothing that it sends can be dispatched: no token has a
// signature of any zone.

import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Client } from 'undici'
import { isRecord } from '../lib/exchange.ts'
import { type Run, UsageError } from './command.ts'
import { printable, printJson, printLine, toned } from './output.ts'

interface Options {
  readonly old?: string | undefined
  readonly new?: string | undefined
  readonly resource?: string | undefined
  readonly zone?: string | undefined
  readonly ca?: string | undefined
  readonly json?: boolean | undefined
}

interface Case {
  readonly name: string
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
}

/** What of an answer is compared. */
type Fact = string | number | boolean | null
type Facts = Readonly<Record<string, Fact>>

/** A case, and what differs in it: the old gateway's and the new one's. */
export interface Compared {
  readonly case: string
  readonly differences: Readonly<Record<string, readonly [old: Fact, new: Fact]>>
}

const TIMEOUT = 10_000
/** Headers whose values are compared. */
const HEADERS = ['content-type', 'cache-control', 'www-authenticate', 'retry-after', 'allow']

/** `caracal-gateway parity`. */
export const parity: Run<Options> = async (values, env) => {
  const { resource = 'resource://parity', zone = 'parity' } = values
  const ca = values.ca === undefined ? undefined : readFileSync(values.ca, 'utf8')
  const gateways = [urlOf('old', values.old), urlOf('new', values.new)].map(url => ({
    url,
    client: new Client(url, ca === undefined ? {} : { connect: { ca } }),
  }))
  const cases = corpus(resource, zone)
  const bearer = env['METRICS_BEARER'] || undefined
  const results: Compared[] = []
  try {
    for (const each of cases) {
      const [old, fresh] = await Promise.all(gateways.map(({ client }) => factsOf(client, each)))
      results.push({ case: each.name, differences: differencesOf(old ?? {}, fresh ?? {}) })
    }
    if (bearer !== undefined) {
      const [old, fresh] = await Promise.all(
        gateways.map(({ client }) => metricsOf(client, bearer)),
      )
      results.push({ case: 'metric names', differences: differencesOf(old ?? {}, fresh ?? {}) })
    }
  } finally {
    await Promise.all(gateways.map(({ client }) => client.destroy()))
  }
  const same = results.every(({ differences }) => Object.keys(differences).length === 0)
  if (values.json) printJson({ same, cases: results })
  else for (const line of report(results)) printLine(line)
  return same ? 0 : 1
}

function urlOf(name: string, text: string | undefined): string {
  const url = text === undefined ? null : URL.parse(text)
  if (url === null || !/^https?:$/.test(url.protocol)) {
    throw new UsageError(`--${name} must be an absolute http or https URL`)
  }
  return url.origin
}

function get(name: string, headers: Readonly<Record<string, string>>, path = '/v1/parity'): Case {
  return { name, method: 'GET', path, headers }
}

/** Probes, and one request for each refusal that can be had without a mandate. */
function corpus(resource: string, zone: string): Case[] {
  const claims = { zone_id: zone, client_id: 'parity', use: 'gateway', jti: randomUUID() }
  const exp = Math.floor(Date.now() / 1_000) + 600
  const good = token({ ...claims, exp })
  const routed = { 'x-caracal-resource': resource }
  const bearer = (text: string) => ({ ...routed, authorization: `Bearer ${text}` })
  return [
    get('probe /health', {}, '/health'),
    get('probe /ready', {}, '/ready'),
    get('metrics without a bearer', {}, '/metrics'),
    get('metrics with a wrong bearer', { authorization: 'Bearer wrong' }, '/metrics'),
    { ...get('reload without a token', {}, '/internal/revocations/reload'), method: 'POST' },
    get('missing_bearer', routed),
    get('missing_bearer, another scheme', { ...routed, authorization: 'Basic cGFyaXR5Og==' }),
    get('oversized_bearer', bearer('a'.repeat(5_000))),
    get('malformed_bearer', bearer('not-a-token')),
    get('expiring_bearer', bearer(token({ ...claims, exp: exp - 3_600 }))),
    get('client_id_header', { ...bearer(good), 'x-caracal-client-id': 'parity' }),
    get('missing_resource_header', { authorization: `Bearer ${good}` }),
    get('missing_zone', bearer(token({ client_id: 'parity', exp }))),
    get('missing_client', bearer(token({ zone_id: zone, exp }))),
    get('path_traversal', bearer(good), '/v1/%2e%2e/parity'),
    get('invalid_signature or unknown_zone', bearer(good)),
    { ...get('missing_bearer, POST', routed), method: 'POST' },
  ]
}

const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')

/** A token that nobody has signed. */
function token(claims: Readonly<Record<string, unknown>>): string {
  const header = { alg: 'ES256', kid: 'parity', typ: 'JWT' }
  return `${part(header)}.${part(claims)}.${Buffer.alloc(64, 1).toString('base64url')}`
}

async function factsOf(client: Client, { method, path, headers }: Case): Promise<Facts> {
  const requestId = randomUUID()
  const answer = await client.request({
    method,
    path,
    headers: { ...headers, 'x-request-id': requestId },
    headersTimeout: TIMEOUT,
    bodyTimeout: TIMEOUT,
  })
  const body = jsonObject(await answer.body.text())
  const facts: Record<string, string | number | boolean | null> = { status: answer.statusCode }
  for (const name of ['error', 'error_description', 'ok', 'ready', 'reason']) {
    const value = body[name]
    if (typeof value === 'string' || typeof value === 'boolean') facts[name] = value
  }
  for (const name of HEADERS) {
    const value = answer.headers[name]
    if (typeof value === 'string') facts[name] = value
  }
  facts['echoes x-request-id'] = answer.headers['x-request-id'] === requestId
  facts['body has requestId'] = body['requestId'] === requestId
  return facts
}

/** The names that each gateway has. */
async function metricsOf(client: Client, bearer: string): Promise<Facts> {
  const answer = await client.request({
    method: 'GET',
    path: '/metrics',
    headers: { authorization: `Bearer ${bearer}` },
    headersTimeout: TIMEOUT,
    bodyTimeout: TIMEOUT,
  })
  const text = await answer.body.text()
  if (answer.statusCode !== 200) return { status: answer.statusCode }
  const names = text.matchAll(/^# TYPE (caracal_\S+)/gm)
  return { status: 200, ...Object.fromEntries([...names].map(([, name = '']) => [name, true])) }
}

function differencesOf(old: Facts, fresh: Facts): Compared['differences'] {
  const names = new Set([...Object.keys(old), ...Object.keys(fresh)])
  const differences: Record<string, readonly [Fact, Fact]> = {}
  for (const name of names) {
    const [one, other] = [old[name] ?? null, fresh[name] ?? null]
    if (one !== other) differences[name] = [one, other]
  }
  return differences
}

function report(results: readonly Compared[]): string[] {
  const lines: string[] = []
  for (const { case: name, differences } of results) {
    const found = Object.entries(differences)
    lines.push(`${found.length === 0 ? toned('good', 'same') : toned('bad', 'differs')}  ${name}`)
    for (const [what, [old, fresh]] of found) {
      lines.push(`  ${printable(what)}: ${shown(old)} -> ${shown(fresh)}`)
    }
  }
  return lines
}

const shown = (value: Fact) => (value === null ? '(absent)' : printable(String(value)))

function jsonObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text)
    return isRecord(value) ? value : {}
  } catch {
    return {}
  }
}
