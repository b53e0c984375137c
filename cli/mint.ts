// Asks the development STS for a mandate, so that a request can be tried by hand.

import { Agent } from 'undici'
import { isRecord } from '../lib/exchange.ts'
import { readBearer } from '../lib/bearer.ts'
import { BoundedRequest } from '../lib/bounded-request.ts'
import { type Run, UsageError } from './command.ts'
import { printable, printJson, printLine } from './output.ts'

/** Where the demo's STS is. */
const DEMO_STS = 'http://127.0.0.1:8080'
const BOUNDS = { timeout: 10_000, limit: 64 * 1024 }

interface Options {
  readonly sts?: string | undefined
  readonly resource?: string[] | undefined
  readonly scope?: string | undefined
  readonly zone?: string | undefined
  readonly client?: string | undefined
  readonly ttl?: string | undefined
  readonly json?: boolean | undefined
}

/** `caracal-gateway mint`. */
export const mint: Run<Options> = async (values, env) => {
  const { resource = [], scope, zone, client, ttl } = values
  const sts = URL.parse(values.sts ?? (env['STS_URL'] || DEMO_STS))
  if (!/^https?:$/.test(sts?.protocol ?? '') || sts === null) {
    throw new UsageError('--sts must be an absolute http or https URL')
  }
  if (resource.length === 0) throw new UsageError('--resource is needed')
  const wanted = { scope, zone_id: zone, client_id: client, ttl: ttl && Number(ttl) }
  const token = await askFor({ ...wanted, resource }, sts)
  if (values.json) printJson({ token, claims: readBearer(token)?.claims })
  else printLine(token)
  return 0
}

async function askFor(wanted: Readonly<Record<string, unknown>>, sts: URL): Promise<string> {
  const agent = new Agent()
  try {
    const request = {
      origin: sts.origin,
      path: `${sts.pathname.replace(/\/$/, '')}/mint`,
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json' },
      body: JSON.stringify(wanted),
    } as const
    const { status, text = '' } = await new BoundedRequest(agent, request, BOUNDS).answer
    const answer = jsonObject(text)
    const { token, error_description: reason } = answer
    if (status === 200 && typeof token === 'string') return token
    if (status === 404) throw new Error('this STS does not mint: only the development STS does')
    const why = typeof reason === 'string' ? `: ${printable(reason)}` : ''
    throw new Error(`the STS answered ${status}${why}`)
  } finally {
    await agent.destroy()
  }
}

function jsonObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text)
    return isRecord(value) ? value : {}
  } catch {
    return {}
  }
}
