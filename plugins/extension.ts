/**
 * What a team's plugin may do with a request beside reading it (contract section 12). Nothing of it costs a request that
 * no plugin asks anything for.
 */
import { type Duplex, Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { Denial } from '../denial.ts'
import { AddedHeaders, type UpstreamHeaders } from '../lib/added-headers.ts'
import { type Annotations, annotated } from '../lib/annotations.ts'
import type { AuthMode } from '../lib/directive.ts'
import { HeldBody } from '../lib/held-body.ts'
import { awaitsContinue, BodyTooLarge, hasBody } from '../lib/request-body.ts'
import type { RewrittenBody } from '../lib/rewritten-body.ts'
import { type Check, granted, type Passage, passageOf } from './passage.ts'

export type { UpstreamHeaders } from '../lib/added-headers.ts'

/** What the exchange granted: the STS's directive, without its tokens (contract section 4). */
export interface GrantedExchange {
  /** Where the request goes: the directive's URL, without its query. */
  readonly url: string
  /** Its host, with the port where it is not the scheme's own. */
  readonly host: string
  /** How the upstream authenticates the gateway. */
  readonly authMode: AuthMode
  /** The provider whose credential goes with the request, where the directive names one. */
  readonly providerId: string | undefined
  /** The connection to that provider. */
  readonly connectionId: string | undefined
}

declare module 'fastify' {
  interface FastifyRequest {
    /** What the exchange granted. Reading it before the exchange, or on a route of a plugin's own, throws. */
    readonly exchange: GrantedExchange
    /** Headers to be sent to the upstream. */
    readonly upstreamHeaders: UpstreamHeaders
    /**
     * Notes something of the request for its evidence: `metadata_json.annotations` of every event that it leaves from now
     * on, of its refusal too. Never a token, nor anything of a body.
     *
     * @param key - `^[A-Za-z][A-Za-z0-9_.-]{0,63}$`; 16 of them at most, and a second value replaces the first
     * @param value - 256 characters at most
     * @throws TypeError or RangeError outside of these bounds
     */
    annotate(key: string, value: string): void
    /**
     * The request's body, whole; the upstream gets the same bytes. Asked again, it gives the same.
     *
     * @param limit - bytes; `MAX_REQUEST_BYTES` holds as well
     * @throws Denial `request_too_large` for a longer one
     */
    readBody(limit: number): Promise<Buffer>
  }
  interface FastifyReply {
    /**
     * Sends the upstream's body through a stream. `Content-Length`, `ETag` and digests of it are dropped; an answer that
     * has no body (`HEAD`, 204, 304) stays as it is. A stream that fails breaks the answer off. Several are applied in
     * the order of the calls. To be called in a hook, `onSend` at the latest.
     *
     * @throws TypeError when it is no stream, or the answer is on its way
     */
    rewriteBody(transform: Duplex): void
  }
  interface FastifyContextConfig {
    /** Of a plugin's own route: whether it passes every check, the last of which spends the mandate. Default: none. */
    protected?: boolean
  }
}

/** What plugins have asked for one request. */
export class Extension {
  annotations: Annotations | undefined
  headers: AddedHeaders | undefined
  /** The body that a plugin has read, or is reading. */
  body: HeldBody | undefined
  /** Whether the caller was told to send its body. */
  continued = false
  transforms: Duplex[] = []
  /** The upstream's body on its way through the transforms. */
  rewritten: RewrittenBody | undefined
  /** Whether the answer's headers are settled: it is too late to rewrite its body. */
  sending = false
  /** Ends the wait for a plugin's hook; undefined while none runs. */
  endHook: (() => void) | undefined

  /** Ends what the request waits for on behalf of plugins. */
  abandon(reason: Error | undefined): void {
    this.endHook?.()
    this.body?.cancel(reason ?? new Error('the request is over'))
  }
}

/** What plugins have asked for a request, from the first time on. */
export function extensionOf(passage: Passage): Extension {
  passage.extension ??= new Extension()
  return passage.extension
}

/** Options of the plugin. */
export interface ExtensionOptions {
  /** Bytes. */
  readonly maxRequestBytes: number
}

async function extension(app: FastifyInstance, options: ExtensionOptions): Promise<void> {
  app.decorateRequest('exchange', {
    getter(this: FastifyRequest) {
      const { upstream, authMode } = granted(passageOf(this).directive, 'exchange')
      const { facts } = passageOf(this)
      return {
        url: upstream.origin + upstream.path,
        host: upstream.host,
        authMode,
        providerId: facts?.providerId,
        connectionId: facts?.connectionId,
      }
    },
  })
  app.decorateRequest('upstreamHeaders', {
    getter(this: FastifyRequest) {
      const passage = passageOf(this)
      const extension = extensionOf(passage)
      extension.headers ??= new AddedHeaders(() => passage.call !== undefined)
      return extension.headers
    },
  })
  app.decorateRequest('annotate', function annotate(this: FastifyRequest, key, value) {
    const passage = passageOf(this)
    const extension = extensionOf(passage)
    extension.annotations = annotated(extension.annotations ?? {}, key, value)
    // The facts were written down for an earlier event.
    if (passage.requestFacts !== undefined) {
      passage.requestFacts = { ...passage.requestFacts, annotations: extension.annotations }
    }
  })
  app.decorateRequest('readBody', function readBody(this: FastifyRequest, limit) {
    if (!Number.isSafeInteger(limit) || limit < 0) {
      throw new TypeError('readBody: limit must be a whole number of bytes')
    }
    return bodyOf(this, Math.min(limit, options.maxRequestBytes))
  })
  app.decorateReply('rewriteBody', function rewriteBody(this: FastifyReply, transform) {
    if (!isDuplex(transform)) throw new TypeError('rewriteBody: transform must be a duplex stream')
    const extension = extensionOf(passageOf(this.request))
    if (extension.sending) {
      throw new TypeError(
        'rewriteBody: the answer is on its way; call it in an onSend hook at the latest',
      )
    }
    extension.transforms.push(transform)
  })
}

async function bodyOf(request: FastifyRequest, limit: number): Promise<Buffer> {
  const { raw } = request
  const passage = passageOf(request)
  const extension = extensionOf(passage)
  if (extension.body === undefined) {
    if (!hasBody(raw)) return Buffer.alloc(0)
    if (Number(raw.headers['content-length'] ?? 0) > limit) throw new Denial('request_too_large')
    if (passage.call !== undefined || raw.readableDidRead) {
      throw new Error('readBody: the body is on its way already; read it in an earlier hook')
    }
    if (awaitsContinue(raw)) {
      extension.continued = true
      const turns = request.server.connections.turns(raw.socket)
      turns.find(turn => turn.request === raw)?.response.writeContinue()
    }
    extension.body = new HeldBody(raw, limit)
  }
  const bytes = await extension.body.bytes.catch(bodyFailed)
  if (bytes.length > limit) throw new Denial('request_too_large')
  return bytes
}

function bodyFailed(cause: unknown): never {
  throw cause instanceof BodyTooLarge ? new Denial('request_too_large', { cause }) : cause
}

/** Lets no request go on before a body that a plugin began to read is there, or after it failed to come. */
export const awaitBody: Check = (_request, { extension }) => {
  const bytes = extension?.body?.bytes
  return bytes?.then(() => undefined, bodyFailed)
}

function isDuplex(value: unknown): value is Duplex {
  return value instanceof Readable && 'write' in value && typeof value.write === 'function'
}

export default fp(extension, {
  name: 'extension',
  fastify: '5.x',
  dependencies: ['connections', 'passage'],
})
