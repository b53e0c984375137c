/**
 * Finds the plugins that `GATEWAY_PLUGINS` names, before anything serves.
 */
import { existsSync } from 'node:fs'
import module from 'node:module'
import { isAbsolute, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { FastifyInstance, FastifyPluginOptions } from 'fastify'

/** A plugin of a team's own: an ordinary Fastify plugin, which gets no options (contract section 12). */
export type GatewayPlugin = (
  app: FastifyInstance,
  options: FastifyPluginOptions,
  done: (error?: Error) => void,
) => void | Promise<void>

/** A plugin, and what a message about it calls it. */
export interface NamedPlugin {
  readonly name: string
  readonly plugin: GatewayPlugin
}

/**
 * Imports modules, in order.
 *
 * @param names - packages, which are looked for from the working directory on, or paths relative to it
 * @throws Error that names the one that cannot be loaded or exports no plugin
 */
export async function loadPlugins(names: readonly string[]): Promise<NamedPlugin[]> {
  const plugins: NamedPlugin[] = []
  for (const name of names) plugins.push({ name, plugin: await load(name) })
  return plugins
}

async function load(name: string): Promise<GatewayPlugin> {
  let exported: unknown
  try {
    exported = await import(locate(name))
  } catch (cause) {
    throw new Error(`GATEWAY_PLUGINS: ${name} cannot be loaded: ${firstLine(cause)}`, { cause })
  }
  const plugin = defaultOf(exported)
  if (!isPlugin(plugin)) {
    throw new Error(`GATEWAY_PLUGINS: ${name} exports no plugin; export a function as default`)
  }
  return plugin
}

/** The module's URL. */
function locate(name: string): string {
  const path = resolve(name)
  const isPath =
    isAbsolute(name) || /^\.\.?\//.test(name) || (/\.(?:js|mjs|ts)$/.test(name) && existsSync(path))
  if (isPath) return pathToFileURL(path).href
  // As a module in the working directory would find it; `import.meta.resolve` itself takes no such place.
  const parentURL = pathToFileURL(resolve('gateway.js')).href
  const hooks = module.registerHooks({
    resolve: (specifier, context, next) => next(specifier, { ...context, parentURL }),
  })
  try {
    return import.meta.resolve(name)
  } finally {
    hooks.deregister()
  }
}

/** What a module exports as default; what a CommonJS module calls so, too. */
function defaultOf(exported: unknown): unknown {
  const once = memberDefault(exported)
  return typeof once === 'function' ? once : memberDefault(once)
}

function memberDefault(value: unknown): unknown {
  return typeof value === 'object' && value !== null && 'default' in value
    ? value.default
    : undefined
}

function isPlugin(value: unknown): value is GatewayPlugin {
  return typeof value === 'function'
}

/** The first line of an error's message. */
export function firstLine(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error)
  return text.split('\n', 1)[0] ?? ''
}
