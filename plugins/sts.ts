/**
 * Guarantees one signed, bounded, never repeated token exchange per request (contract section 4).
 */
import type { KeyObject } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { type Dispatcher, Pool } from 'undici'
import { Denial } from '../denial.ts'
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
   * Exchanges a mandate. A `signal` that aborts ends the request to the STS, which then counts for nothing.
   *
   * @throws Denial every check named `sts_*` of contract section 2; the signal's reason when it aborts
   */
  exchange(request: ExchangeRequest, signal?: AbortSignal): Promise<Exchange>
  /** Whether `GET /health` answers 2xx within the time, in milliseconds. Never rejects. */
  healthy(timeout: number): Promise<boolean>
  readonly circuitOpen: boolean
}

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

  async function ask(request: ExchangeRequest, signal?: AbortSignal): Promise<Exchange> {
    const body = exchangeBody(request)
    const headers: Record<string, string> = {
      'content-type': 'application/x-www-form-urlencoded',
      accept: 'application/json',
      'user-agent': USER_AGENT,
      'x-request-id': request.requestId,
      ...(key && signatureHeaders(key, { nonce: nonces.draw(NONCE_BYTES), path, body }, now())),
    }
    const post = { path, method: 'POST', headers, body } as const
    return readAnswer(await send(pool, post, options.timeout, signal))
  }

  app.decorate('sts', {
    get circuitOpen() {
      return circuit.open
    },
    refusal() {
      return circuit.refuses(clock()) ? circuitOpen() : undefined
    },
    async exchange(request, signal) {
      const entry = circuit.enter(clock())
      if (entry === undefined) throw circuitOpen()
      const startedAt = performance.now()
      try {
        const exchange = await ask(request, signal)
        circuit.leave(entry, 'success', clock())
        options.onExchange?.(performance.now() - startedAt, 'success')
        return exchange
      } catch (error) {
        if (signal?.aborted === true) {
          // Nobody waited for the answer: it says nothing of the STS.
          circuit.leave(entry, 'neutral', clock())
          throw error
        }
        const denial = error instanceof Denial ? error : undefined
        const failed = denial?.error === 'sts_unavailable' && denial.statusCode >= 500
        circuit.leave(entry, failed ? 'failure' : 'neutral', clock())
        const result = denial?.check === 'sts_refused' ? 'refused' : 'unavailable'
        options.onExchange?.(performance.now() - startedAt, result)
        throw error
      }
    },
    async healthy(timeout) {
      const request = {
        path: `${prefix}/health`,
        method: 'GET',
        headers: { 'user-agent': USER_AGENT },
      } as const
      const status = await send(pool, request, timeout).then(
        answer => answer.status,
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
) {
  const timestamp = Math.floor(now / 1000)
  return {
    'x-caracal-gateway-timestamp': String(timestamp),
    'x-caracal-gateway-request': request.nonce,
    'x-caracal-gateway-signature': exchangeSignature(key, {
      ...request,
      timestamp,
      method: 'POST',
    }),
  }
}

interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  /** `undefined` when it is larger than an answer may be. */
  readonly text: string | undefined
}

/** Sends one request; rejects with `sts_timeout`, `sts_unreachable` or the signal's reason. Follows no redirects. */
async function send(
  pool: Pool,
  request: Omit<Dispatcher.RequestOptions, 'origin'>,
  timeout: number,
  signal?: AbortSignal,
): Promise<Answer> {
  const deadline = new AbortController()
  const abort = () => deadline.abort()
  const timer = setTimeout(abort, timeout)
  signal?.addEventListener('abort', abort)
  try {
    const response = await pool.request({ ...request, signal: deadline.signal })
    return {
      status: response.statusCode,
      headers: response.headers,
      text: await limitedText(response.body, MAX_ANSWER_BYTES),
    }
  } catch (cause) {
    signal?.throwIfAborted()
    throw new Denial(
      isTimeout(cause) || deadline.signal.aborted ? 'sts_timeout' : 'sts_unreachable',
      {
        cause,
      },
    )
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', abort)
  }
}

async function limitedText(body: Dispatcher.ResponseData['body'], limit: number) {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of body as AsyncIterable<Buffer>) {
    length += chunk.length
    // Leaving the loop destroys the body, and with it the connection.
    if (length > limit) return undefined
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function isTimeout(cause: unknown): boolean {
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined
  return (
    code === 'UND_ERR_HEADERS_TIMEOUT' ||
    code === 'UND_ERR_BODY_TIMEOUT' ||
    code === 'UND_ERR_CONNECT_TIMEOUT'
  )
}

function readAnswer({ status, headers, text }: Answer): Exchange {
  if (status >= 400 && status <= 599) throw refusal(status, headers, text)
  const exchange =
    status === 200 && text !== undefined && isJson(headers['content-type'])
      ? parseExchangeAnswer(text)
      : undefined
  if (exchange === undefined) throw new Denial('sts_response_invalid')
  return exchange
}

function refusal(status: number, headers: Answer['headers'], text: string | undefined): Denial {
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

function kept(headers: Answer['headers'], ...names: string[]): Record<string, string> {
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
