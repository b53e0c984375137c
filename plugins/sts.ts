/**
 * Guarantees one signed, bounded, never repeated token exchange per request (contract section 4).
 */
import type { KeyObject } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { Pool } from 'undici'
import { Denial } from '../denial.ts'
import { type BoundedAnswer, BoundedRequest, RequestTimeout } from '../lib/bounded-request.ts'
import { Circuit } from '../lib/circuit.ts'
import { connector } from '../lib/connector.ts'
import {
  type ExchangeAnswer,
  type ExchangeRequest,
  exchangeBody,
  exchangeSignature,
  parseExchangeAnswer,
  parseExchangeRefusal,
} from '../lib/exchange.ts'
import { isFieldValue, joinedLines } from '../lib/headers.ts'
import { RandomHex } from '../lib/random-hex.ts'
import { hmacKey } from '../lib/stream-signature.ts'

declare module 'fastify' {
  interface FastifyInstance {
    sts: Sts
  }
}

/** The STS's answer to one exchange. Holds tokens. */
export type Exchange = ExchangeAnswer

/** The STS, as the gateway uses it. */
export interface Sts {
  /**
   * Whether the circuit would refuse a request now.
   *
   * @returns the denial to throw, or `undefined`
   */
  refusal(): Denial | undefined
  /**
   * Exchanges a mandate.
   *
   * @param onStart takes what ends the request to the STS, which then counts for nothing
   * @throws Denial every check named `sts_*` of contract section 2; what it was cancelled with
   */
  exchange(request: ExchangeRequest, onStart?: (cancel: Cancel) => void): Promise<Exchange>
  /** Whether `GET /health` answers 2xx within the time, in milliseconds. Never rejects. */
  healthy(timeout: number): Promise<boolean>
  readonly circuitOpen: boolean
}

/** Ends what nobody waits for any more. */
export type Cancel = (reason: unknown) => void

/** Options of the STS plugin. */
export interface StsOptions {
  /** Without a trailing slash; a path is kept as a prefix. */
  readonly url: string
  /** For a whole exchange, in milliseconds. */
  readonly timeout: number
  /** Hex key that signs exchanges; absent only in `dev`. */
  readonly hmacKey?: string | undefined
  /** PEM certificates that the STS's is verified against, instead of the well-known ones. */
  readonly ca?: string | undefined
  /** PEM chain that is shown to an STS that asks for one; goes together with `key`. */
  readonly cert?: string | undefined
  /** PEM private key of `cert`. */
  readonly key?: string | undefined
  readonly onCircuitOpen?: () => void
  /** Called with each exchange's duration, in milliseconds, and its result. */
  readonly onExchange?: (
    milliseconds: number,
    result: 'success' | 'refused' | 'unavailable',
  ) => void
  /** Unix time in milliseconds, for the signature. */
  readonly now?: () => number
  /** Milliseconds of a clock that is never set back, for the circuit. */
  readonly clock?: () => number
}

const MAX_ANSWER_BYTES = 16 * 1024
const CIRCUIT = { threshold: 3, openFor: 10_000 }
const USER_AGENT = 'caracal-gateway'
const FIXED_HEADERS = [
  'content-type',
  'application/x-www-form-urlencoded',
  'accept',
  'application/json',
  'user-agent',
  USER_AGENT,
] as const
const NONCE_BYTES = 32

async function sts(app: FastifyInstance, options: StsOptions): Promise<void> {
  const { now = Date.now, clock = () => performance.now() } = options
  const { origin, pathname } = new URL(options.url)
  const prefix = pathname.replace(/\/$/, '')
  const path = `${prefix}/oauth/2/token`
  const key = options.hmacKey === undefined ? undefined : hmacKey('hmacKey', options.hmacKey)
  const pool = new Pool(origin, {
    pipelining: 1,
    headersTimeout: options.timeout,
    bodyTimeout: options.timeout,
    connect: connector({
      timeout: options.timeout,
      rejectUnauthorized: true,
      ca: options.ca,
      cert: options.cert,
      key: options.key,
    }),
  })
  const nonces = new RandomHex()
  const circuit = new Circuit({
    ...CIRCUIT,
    onOpen: () => {
      app.log.warn({ openFor: CIRCUIT.openFor }, 'sts circuit opened')
      options.onCircuitOpen?.()
    },
  })

  const circuitOpen = () =>
    new Denial('sts_circuit_open', {
      headers: { 'retry-after': String(Math.max(1, Math.ceil(circuit.waitFor(clock()) / 1000))) },
    })

  const bounds = { timeout: options.timeout, limit: MAX_ANSWER_BYTES }
  function post(request: ExchangeRequest): BoundedRequest {
    const body = exchangeBody(request)
    const headers = [...FIXED_HEADERS, 'x-request-id', request.requestId]
    if (key !== undefined) {
      const nonce = nonces.draw(NONCE_BYTES)
      headers.push(...signatureHeaders(key, { nonce, path, body }, now()))
    }
    return new BoundedRequest(pool, { path, method: 'POST', headers, body }, bounds)
  }

  app.decorate('sts', {
    get circuitOpen() {
      return circuit.open
    },
    refusal() {
      return circuit.refuses(clock()) ? circuitOpen() : undefined
    },
    async exchange(request, onStart) {
      const entry = circuit.enter(clock())
      if (entry === undefined) throw circuitOpen()
      const startedAt = performance.now()
      let cancelled = false
      try {
        const posted = post(request)
        onStart?.(reason => {
          cancelled = true
          posted.cancel(reason)
        })
        const exchange = readAnswer(await posted.answer)
        circuit.leave(entry, 'success', clock())
        options.onExchange?.(performance.now() - startedAt, 'success')
        return exchange
      } catch (error) {
        if (cancelled) {
          // Nobody waited for the answer: it says nothing of the STS.
          circuit.leave(entry, 'neutral', clock())
          throw error
        }
        const denial = error instanceof Denial ? error : noAnswer(error)
        const failed = denial.error === 'sts_unavailable' && denial.statusCode >= 500
        circuit.leave(entry, failed ? 'failure' : 'neutral', clock())
        const result = denial.check === 'sts_refused' ? 'refused' : 'unavailable'
        options.onExchange?.(performance.now() - startedAt, result)
        throw denial
      }
    },
    async healthy(timeout) {
      const headers = { 'user-agent': USER_AGENT }
      const get = { path: `${prefix}/health`, method: 'GET', headers } as const
      const { answer } = new BoundedRequest(pool, get, { timeout, limit: MAX_ANSWER_BYTES })
      const status = await answer.then(
        got => got.status,
        () => 0,
      )
      return status >= 200 && status < 300
    },
  } satisfies Sts)

  app.addHook('onClose', async () => {
    await pool.destroy()
  })
}

function signatureHeaders(
  key: KeyObject,
  request: { readonly nonce: string; readonly path: string; readonly body: string },
  now: number,
): string[] {
  const timestamp = Math.floor(now / 1000)
  return [
    'x-caracal-gateway-timestamp',
    String(timestamp),
    'x-caracal-gateway-request',
    request.nonce,
    'x-caracal-gateway-signature',
    exchangeSignature(key, { ...request, timestamp, method: 'POST' }),
  ]
}

function isTimeout(cause: unknown): boolean {
  if (cause instanceof RequestTimeout) return true
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined
  return (
    code === 'UND_ERR_HEADERS_TIMEOUT' ||
    code === 'UND_ERR_BODY_TIMEOUT' ||
    code === 'UND_ERR_CONNECT_TIMEOUT'
  )
}

/** The denial of an STS that did not answer. */
function noAnswer(cause: unknown): Denial {
  return new Denial(isTimeout(cause) ? 'sts_timeout' : 'sts_unreachable', { cause })
}

function readAnswer({ status, headers, text }: BoundedAnswer): Exchange {
  if (status >= 400 && status <= 599) throw refusal(status, headers, text)
  const exchange =
    status === 200 && text !== undefined && isJson(headers['content-type'])
      ? parseExchangeAnswer(text)
      : undefined
  if (exchange === undefined) throw new Denial('sts_response_invalid')
  return exchange
}

function refusal(
  status: number,
  headers: BoundedAnswer['headers'],
  text: string | undefined,
): Denial {
  const refused = text === undefined ? undefined : parseExchangeRefusal(text)
  const statusText = STATUS_CODES[status] ?? `status ${status}`
  return new Denial('sts_refused', {
    status,
    error: refused?.error ?? 'sts_unavailable',
    description: refused === undefined ? statusText : (refused.description ?? statusText),
    ...(refused && { members: refused.members }),
    headers: kept(headers, 'retry-after', 'www-authenticate'),
  })
}

function kept(headers: BoundedAnswer['headers'], ...names: string[]): Record<string, string> {
  const result: Record<string, string> = {}
  for (const name of names) {
    const text = joinedLines(headers[name])
    if (text !== undefined && isFieldValue(text)) result[name] = text
  }
  return result
}

function isJson(contentType: string | string[] | undefined): boolean {
  return typeof contentType === 'string' && /^application\/json\s*(;|$)/i.test(contentType.trim())
}

export default fp(sts, { name: 'sts', fastify: '5.x' })
