/**
 * Lets plugins into the scope of the proxied routes, behind the built-in checks (contract section 12): none of their hooks
 * runs before a check, and none of their routes takes the place of the gateway's own.
 */
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import fp, { type PluginMetadata } from 'fastify-plugin'
import { KnownBody } from '../lib/held-body.ts'
import { OWN_PATHS } from '../lib/request-line.ts'
import { RewrittenBody } from '../lib/rewritten-body.ts'
import { firstLine, type GatewayPlugin, type NamedPlugin } from '../loader.ts'
import { extensionOf } from '../plugins/extension.ts'
import { failure } from '../plugins/passage.ts'
import { mayHaveBody } from '../lib/revoked-response.ts'
import { attendBody } from './pass-on.ts'

/** Milliseconds that a plugin may take to register. */
const REGISTRATION_TIMEOUT = 10_000

/** What a plugin's route carries in its `config`, which Fastify copies. */
const PASSAGE = Symbol('what a request for a route of a plugin passes')

/** Which routes of a scope are plugins' own, and what their requests pass. */
export class Routes {
  #any = false

  /** Takes note of a plugin's route. @throws Error when its path is the gateway's own */
  add(route: RouteOptions): void {
    if (OWN_PATHS.has(route.url)) {
      throw new Error(`${route.url} is the gateway's own; choose another path`)
    }
    this.#any = true
    const passes = route.config?.protected === true ? 'every check' : 'no check'
    route.config = Object.assign({}, route.config, { [PASSAGE]: passes })
  }

  /** What a request passes for a plugin's own route; undefined when it is to be proxied. */
  passedBy(request: FastifyRequest): unknown {
    if (!this.#any) return undefined
    const { config } = request.routeOptions
    return PASSAGE in config ? config[PASSAGE] : undefined
  }

  /** Whether a request is for a route that passes no check. */
  readonly isOpen = (request: FastifyRequest): boolean => this.passedBy(request) === 'no check'
}

/** The hooks of a plugin that run on routes that pass the checks only. */
const GUARDED_HOOKS = new Set(['onRequest', 'preValidation', 'preHandler'])

/** What a plugin cannot take over: errors are answered, counted, logged and audited in one place. */
const RESERVED = ['setErrorHandler', 'setNotFoundHandler'] as const

/**
 * Registers plugins in a scope, in order.
 *
 * @throws Error that names the plugin that cannot be registered
 */
export async function extend(
  scope: FastifyInstance,
  plugins: readonly NamedPlugin[],
  routes: Routes,
): Promise<void> {
  const addHook: unknown = Reflect.get(scope, 'addHook')
  let loading = true
  scope.addHook('onRoute', route => {
    if (!loading) return
    routes.add(route)
    scope.connections.sharesPaths = true
  })
  Object.defineProperty(scope, 'addHook', {
    configurable: true,
    // Fastify has one overload a hook, and each child of the scope inherits this.
    value(this: FastifyInstance, name: string, hook: unknown) {
      const guard = this === scope && GUARDED_HOOKS.has(name) && isHook(hook)
      return applied(addHook, this, [name, guard ? behindChecks(hook) : hook])
    },
  })
  for (const method of RESERVED) {
    const original: unknown = Reflect.get(scope, method)
    Object.defineProperty(scope, method, {
      configurable: true,
      value(this: FastifyInstance, ...args: unknown[]) {
        if (this === scope)
          throw new Error(`${method} is the gateway's own; throw a Denial instead`)
        return applied(original, this, args)
      },
    })
  }
  for (const { name, plugin } of plugins) {
    try {
      await scope.register(fp(within(plugin), metaOf(plugin)))
    } catch (cause) {
      throw new Error(`plugin ${name} cannot be registered: ${firstLine(cause)}`, { cause })
    }
  }
  loading = false
  for (const member of ['addHook', ...RESERVED]) Reflect.deleteProperty(scope, member)
}

function applied(method: unknown, scope: FastifyInstance, args: unknown[]): unknown {
  return typeof method === 'function' ? Reflect.apply(method, scope, args) : scope
}

/** Runs a plugin within its time. */
function within(plugin: GatewayPlugin) {
  return async (scope: FastifyInstance): Promise<void> => {
    const { promise: late, reject } = Promise.withResolvers<never>()
    const seconds = REGISTRATION_TIMEOUT / 1000
    const timer = setTimeout(
      () => reject(new Error(`it has not finished within ${seconds} s`)),
      REGISTRATION_TIMEOUT,
    )
    try {
      await Promise.race([registered(plugin, scope), late])
    } finally {
      clearTimeout(timer)
    }
  }
}

function registered(plugin: GatewayPlugin, scope: FastifyInstance): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (error?: Error) => (error ? reject(error) : resolve())
    const result: unknown = Reflect.apply(plugin, scope, [scope, {}, done])
    if (isThenable(result)) result.then(() => resolve(), reject)
    else if (plugin.length < 3) resolve()
  })
}

/** What `fastify-plugin` has noted on a plugin: its name, and what it depends on. */
function metaOf(plugin: GatewayPlugin): PluginMetadata {
  const meta: unknown = Reflect.get(plugin, Symbol.for('plugin-meta'))
  return typeof meta === 'object' && meta !== null ? { ...meta, encapsulate: false } : {}
}

/** A hook of Fastify's that takes a request, a reply and a callback; the callback is left out when it is asynchronous. */
type Hook = (...args: unknown[]) => unknown

function isHook(hook: unknown): hook is Hook {
  // Fastify refuses an asynchronous one with a callback, and must see it as it is.
  return (
    typeof hook === 'function' && !(hook.constructor.name === 'AsyncFunction' && hook.length > 2)
  )
}

/**
 * A plugin's hook as it runs on requests that have passed the checks.
 *
 * It ends at once when the mandate is revoked, and a request whose caller has gone meanwhile goes no further.
 */
function behindChecks(run: Hook) {
  return function guarded(
    this: FastifyInstance,
    request: FastifyRequest,
    reply: FastifyReply,
    done: (error?: Error) => void,
  ): void {
    const { passage } = request
    if (passage === null) return done()
    const extension = extensionOf(passage)
    let over = false
    const finish = (error?: Error) => {
      if (over) return
      over = true
      extension.endHook = undefined
      // Whatever the hook says: it can have failed because the mandate was revoked.
      const refusal = passage.revocation === undefined ? error : passage.interruption
      if (!passage.closed) done(refusal ?? passage.interruption)
    }
    extension.endHook = () => finish()
    try {
      const result = Reflect.apply(run, this, [request, reply, finish])
      if (isThenable(result)) {
        result.then(
          () => finish(),
          (thrown: unknown) => finish(failure(thrown)),
        )
      }
    } catch (thrown) {
      finish(failure(thrown))
    }
  }
}

/** Lets nothing be spent for a request that was interrupted, or whose caller has gone, while a plugin looked at it. */
export function stillWanted(
  { passage }: FastifyRequest,
  _reply: FastifyReply,
  done: (error?: Error) => void,
): void {
  if (passage?.closed !== true) done(passage?.interruption)
}

/** Headers that tell of a body's bytes. */
const OF_BYTES = [
  'content-length',
  'etag',
  'content-md5',
  'digest',
  'content-digest',
  'repr-digest',
]

/** The last `onSend` hook: sends an answer's body the way that plugins want it. */
export function sendRewritten(app: FastifyInstance) {
  return (
    request: FastifyRequest,
    reply: FastifyReply,
    payload: unknown,
    done: (error?: Error | null, payload?: unknown) => void,
  ): void => {
    const { passage } = request
    if (passage === null || passage.denial !== undefined) return done()
    if (passage.own) return done(passage.interruption)
    const { answer, extension } = passage
    if (answer === undefined) return done()
    if (extension !== undefined) extension.sending = true
    const transforms = extension?.transforms ?? []
    const untouched = transforms.length === 0 && payload === answer.body
    if (untouched || !mayHaveBody(request.method, answer.statusCode)) return done()
    if (transforms.length === 0 && !(payload instanceof Readable)) {
      // A plugin's own text, or what it has read the upstream's body into.
      const { body } = answer
      reply.raw.once('close', () => {
        if (!Buffer.isBuffer(body)) body.destroy()
      })
      return done()
    }
    const source = payload instanceof Readable ? payload : Readable.from(payload ? [payload] : [])
    for (const name of OF_BYTES) void reply.removeHeader(name)
    const rewritten = new RewrittenBody(source, transforms)
    extensionOf(passage).rewritten = rewritten
    if (Buffer.isBuffer(answer.body)) attendBody(app, request, reply)
    done(null, rewritten)
  }
}

/** Gives the parser of a plugin's own route what a plugin has read before. */
export function heldPayload(
  { passage }: FastifyRequest,
  done: (error?: Error | null, payload?: KnownBody) => void,
): void {
  const bytes = passage?.extension?.body?.bytes
  if (bytes === undefined) return done()
  bytes.then(
    known => done(null, new KnownBody(known)),
    (error: unknown) => done(failure(error)),
  )
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return (
    typeof value === 'object' &&
    value !== null &&
    'then' in value &&
    typeof value.then === 'function'
  )
}
