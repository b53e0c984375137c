// Says what the gateway would say to a request: its own checks, one by one, on a gateway that listens nowhere and whose
// store can only be read.

import { text } from 'node:stream/consumers'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { createGateway } from '../app.ts'
import { type Config, loadConfig } from '../config.ts'
import { type Check, Denial, isCheck } from '../denial.ts'
import { exchangeOf } from '../hooks/exchange.ts'
import { requestChecks } from '../hooks/index.ts'
import { DENIAL_HELP } from '../lib/denial-help.ts'
import { exchangeBody } from '../lib/exchange.ts'
import { subjectFingerprint } from '../lib/mandate.ts'
import { PROXIED_METHODS } from '../lib/methods.ts'
import { createMemoryStore } from '../dev/memory-store.ts'
import passagePlugin, { Passage } from '../plugins/passage.ts'
import { type Run, UsageError } from './command.ts'
import { columns, printable, printJson, printLine, toned } from './output.ts'
import { connect, readOnly } from './store.ts'

interface Options {
  readonly token?: string | undefined
  readonly resource?: string | undefined
  readonly method?: string | undefined
  readonly path?: string | undefined
  readonly header?: string[] | undefined
  readonly json?: boolean | undefined
}

/** What one check says. */
export interface CheckResult {
  readonly check: Check
  readonly result: 'pass' | 'deny' | 'skipped'
  readonly detail?: string
}

/** What `--json` prints (contract section 13). */
export interface Explanation {
  readonly verdict: 'pass' | 'deny'
  readonly checks: readonly CheckResult[]
  readonly denial?: {
    readonly status: number
    readonly error: string
    readonly error_description: string
  }
  /** The exchange that would be made, its token masked. */
  readonly exchange?: {
    readonly method: 'POST'
    readonly url: string
    readonly signed: boolean
    readonly form: Readonly<Record<string, string>>
  }
}

/** What only a gateway that runs knows of itself. */
const OF_A_PROCESS: Partial<Record<Check, string>> = {
  overloaded: 'depends on what a gateway has under way',
  evidence_unavailable: 'depends on the directory and the queue of a gateway; its /ready says so',
}

/** Paths that are the gateway's own, whatever the method. */
const OWN_PATHS = new Set(['/health', '/ready', '/metrics', '/metrics.json'])

/** `caracal-gateway explain`. */
export const explain: Run<Options> = async (values, env) => {
  const { method = 'GET', path = '/' } = values
  if (!PROXIED_METHODS.includes(method)) {
    throw new UsageError('--method must be an HTTP method in upper case, other than CONNECT')
  }
  if (!/^\/[!-~]*$/.test(path)) {
    throw new UsageError('--path must begin with "/" and be as it is sent: percent-encoded')
  }
  if (OWN_PATHS.has(path.split('?')[0] ?? '')) {
    throw new UsageError("--path is an endpoint of the gateway's own, which is not proxied")
  }
  const headers = headersOf(values)
  if (values.token === '-') {
    headers['authorization'] = `Bearer ${(await text(process.stdin)).trim()}`
  }
  const explanation = await judge(loadConfig(env), { method, path, headers })
  if (values.json) printJson(explanation)
  else for (const line of report(explanation)) printLine(line)
  return explanation.verdict === 'pass' ? 0 : 1
}

function headersOf({ token, resource, header = [] }: Options): Record<string, string> {
  const headers: Record<string, string> = { host: 'gateway' }
  for (const line of header) {
    const [, name, value] = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)$/.exec(line) ?? []
    if (name === undefined || value === undefined) {
      throw new UsageError("--header must be 'NAME: VALUE'")
    }
    headers[name.toLowerCase()] = value
  }
  if (token !== undefined && token !== '-') headers['authorization'] = `Bearer ${token}`
  // A header holds bytes: a gateway reads them as UTF-8.
  if (resource !== undefined) {
    headers['x-caracal-resource'] = Buffer.from(resource).toString('latin1')
  }
  return headers
}

interface Asked {
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
}

async function judge(config: Config, asked: Asked): Promise<Explanation> {
  const gateway = await observer(config)
  try {
    return await ask(asked, (request, reply) =>
      new Explaining(gateway, config, request, reply).explain(),
    )
  } finally {
    await gateway.close()
  }
}

/** A gateway that keeps no evidence, sends no traces, listens nowhere, and cannot write to Redis. */
async function observer(config: Config): Promise<FastifyInstance> {
  const store =
    config.redisUrl === undefined
      ? createMemoryStore()
      : await connect({ ...config, redisUrl: config.redisUrl })
  const quiet: Config = {
    ...config,
    logLevel: 'silent',
    auditReplayDir: undefined,
    auditDurability: 'relaxed',
    otelExporterOtlpEndpoint: undefined,
  }
  return createGateway(quiet, { store: readOnly(store) }).catch((error: unknown) => {
    store.close()
    throw error
  })
}

/** Hands over a request as the gateway's routes get it: with its target as it was sent. */
async function ask<T>(
  { method, path, headers }: Asked,
  judge: (request: FastifyRequest, reply: FastifyReply) => Promise<T>,
): Promise<T> {
  const app = Fastify()
  const { promise, resolve, reject } = Promise.withResolvers<T>()
  await app.register(passagePlugin)
  app.addHook('onRequest', (request, reply) => {
    // Neither router nor client is asked: one knows fewer methods, the other resolves dot segments.
    Object.assign(request.raw, { method, originalUrl: path })
    judge(request, reply)
      .then(resolve, reject)
      .finally(() => void reply.code(204).send())
  })
  app.get('/', () => undefined)
  await Promise.all([
    promise.catch(() => undefined),
    app.inject({ method: 'GET', url: '/', headers }),
  ])
  await app.close()
  return promise
}

/** One request's way through the checks. */
class Explaining {
  readonly #gateway: FastifyInstance
  readonly #config: Config
  readonly #request: FastifyRequest
  readonly #reply: FastifyReply
  readonly #passage = new Passage()
  readonly #checks: CheckResult[] = []
  #denial: Denial | undefined
  #spentBy: string | undefined

  constructor(
    gateway: FastifyInstance,
    config: Config,
    request: FastifyRequest,
    reply: FastifyReply,
  ) {
    this.#gateway = gateway
    this.#config = config
    this.#request = request
    this.#reply = reply
    request.passage = this.#passage
  }

  async explain(): Promise<Explanation> {
    const { mandateUses, maxRequestBytes, jtiFailOpen } = this.#config
    const options = { mandateUses, maxRequestBytes, jtiFailOpen, now: Date.now }
    for (const { run, denies } of requestChecks(this.#gateway, options)) {
      const [first] = denies
      const unknown = first && OF_A_PROCESS[first]
      if (first !== undefined && unknown !== undefined) {
        this.#checks.push({ check: first, result: 'skipped', detail: unknown })
      } else {
        await this.#step(denies, () => run(this.#request, this.#passage, this.#reply))
      }
    }
    await this.#step(['replayed', 'replay_state_unavailable'], () => this.#askWhetherSpent())
    await this.#step(['sts_unreachable'], async () => {
      if (!(await this.#gateway.sts.healthy(this.#config.stsTimeout))) {
        throw new Denial('sts_unreachable')
      }
    })
    const denial = this.#denial
    if (denial === undefined) {
      return { verdict: 'pass', checks: this.#checks, exchange: this.#exchange() }
    }
    const { statusCode: status, error, description } = denial
    return {
      verdict: 'deny',
      checks: this.#checks,
      denial: { status, error, error_description: description },
    }
  }

  async #step(denies: readonly Check[], run: () => void | Promise<void>): Promise<void> {
    const denied = this.#denial === undefined ? await denialOf(run) : undefined
    if (this.#denial !== undefined) {
      for (const check of denies) this.#checks.push({ check, result: 'skipped' })
      return
    }
    this.#denial = denied
    let after = false
    for (const check of denies) {
      const detail = this.#detail(check)
      if (denied?.check === check) {
        this.#checks.push({ check, result: 'deny', detail: denyDetail(denied, detail) })
        after = true
      } else if (after) this.#checks.push({ check, result: 'skipped' })
      else this.#checks.push({ check, result: 'pass', ...(detail && { detail }) })
    }
    // The bindings were read anew, and refuse for a reason that comes before.
    if (denied !== undefined && !after && isCheck(denied.check)) {
      this.#checks.push({ check: denied.check, result: 'deny', detail: denied.description })
    }
  }

  async #askWhetherSpent(): Promise<void> {
    const { mandate } = this.#request
    if (mandate.use === 'session') return
    let spentBy: string | undefined
    try {
      spentBy = await this.#gateway.replay.claimedBy(mandate.jti)
    } catch (cause) {
      if (!this.#config.jtiFailOpen) throw new Denial('replay_state_unavailable', { cause })
    }
    if (spentBy === undefined) return
    this.#spentBy = spentBy
    throw new Denial('replayed')
  }

  /** What is worth knowing of a check beside its result. */
  #detail(check: Check): string | undefined {
    const { presented, mandate, binding, operation, wouldDeny, path } = this.#passage
    switch (check) {
      case 'expiring_bearer': {
        const left = presented && Math.round(presented.exp - Date.now() / 1_000)
        return left === undefined ? undefined : `exp is in ${left} s`
      }
      case 'path_traversal':
        return path && `path ${path.decoded}`
      case 'unknown_zone':
        return this.#gateway.bindings.configured ? undefined : 'no bindings are configured'
      case 'invalid_signature':
        return (
          mandate &&
          `zone ${mandate.zoneId}, client ${mandate.clientId}, key ${String(presented?.header['kid'])}`
        )
      case 'mandate_use':
        return mandate && `use ${mandate.use || 'absent'}`
      case 'mandate_target':
        return mandate && `target ${mandate.target?.join(' ') ?? 'absent: any resource'}`
      case 'unbound_resource':
        if (!this.#gateway.bindings.configured) return 'no bindings are configured: the STS decides'
        return binding && `operation_enforcement ${binding.enforcement}`
      case 'undeclared_operation':
        if (wouldDeny === check) return 'let pass by observe: enforced would refuse it'
        return operation && `operation ${operation.method} ${operation.path}`
      case 'missing_scope':
        if (wouldDeny === check) return 'let pass by observe: enforced would refuse it'
        return operation?.scope ? `needs ${operation.scope}` : undefined
      case 'sts_circuit_open':
        return 'each gateway has a circuit of its own; this one is new'
      case 'replayed':
        if (mandate?.use === 'session') return 'a session mandate is not spent'
        return this.#spentBy && `spent by request ${this.#spentBy}`
      case 'sts_unreachable':
        return 'GET /health of the STS; what it says to the exchange only the exchange tells'
      default:
        return undefined
    }
  }

  #exchange(): NonNullable<Explanation['exchange']> {
    const { stsUrl, gatewayStsHmacKey } = this.#config
    const exchange = exchangeOf(this.#request, this.#passage)
    const token = `[masked: subject_fingerprint ${subjectFingerprint(exchange.token)}]`
    return {
      method: 'POST',
      url: `${stsUrl}/oauth/2/token`,
      signed: gatewayStsHmacKey !== undefined,
      form: Object.fromEntries(new URLSearchParams(exchangeBody({ ...exchange, token }))),
    }
  }
}

async function denialOf(run: () => void | Promise<void>): Promise<Denial | undefined> {
  try {
    await run()
    return undefined
  } catch (error) {
    if (error instanceof Denial) return error
    throw error
  }
}

function denyDetail({ check, description }: Denial, detail: string | undefined): string {
  const help = isCheck(check) ? DENIAL_HELP[check].cure.replaceAll('`', '') : ''
  return `${description}${detail === undefined ? '' : ` (${detail})`}. ${help}`
}

const TONES = { pass: 'good', deny: 'bad', skipped: 'quiet' } as const

function report({ verdict, checks, denial, exchange }: Explanation): string[] {
  const rows = columns(
    checks.map(({ check, result, detail = '' }) => [result, check, printable(detail)]),
  )
  const lines = rows.map((row, at) => {
    const result = checks[at]?.result ?? 'skipped'
    return result === 'skipped'
      ? toned('quiet', row)
      : row.replace(result, toned(TONES[result], result))
  })
  if (denial !== undefined) {
    const { status, error, error_description: description } = denial
    lines.push(
      '',
      `${toned('bad', verdict)}: ${status} ${printable(error)}, ${printable(description)}`,
    )
  }
  if (exchange !== undefined) {
    const signed = exchange.signed ? 'signed' : 'not signed: GATEWAY_STS_HMAC_KEY is not set'
    lines.push('', `${toned('good', verdict)}: this exchange would be made, ${signed}`, '')
    lines.push(`POST ${exchange.url}`)
    const form = Object.entries(exchange.form).map(([name, value]) => [
      `  ${name}`,
      printable(value),
    ])
    lines.push(...columns(form))
  }
  return lines
}
