/**
 * Holds the bindings of `BINDINGS_FILE`: one whole, valid set at any time. A file that turns
 * invalid, unreadable or absent leaves the last good set serving (contract section 10).
 */

import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { readBindingsFile } from '../lib/bindings-file.ts'
import type { BindingSet } from '../lib/bindings.ts'
import { contentOf, fingerprint, watchFiles } from '../lib/watched-files.ts'

/** Options of the plugin. */
export interface BindingsFileOptions {
  /** Path of the YAML or JSON file. */
  readonly file: string
  /**
   * Called whenever the file came to say something else: `true` when the new set serves, `false`
   * when it is not valid and the old one goes on serving.
   */
  readonly onReload?: ((ok: boolean) => void) | undefined
  /** Milliseconds between two looks at the file beside the watcher's; default 2000. */
  readonly pollInterval?: number | undefined
}

/** A bindings file that cannot serve, with everything that is wrong with it. */
export class BindingsFileError extends Error {
  /** One line each. */
  readonly problems: readonly string[]

  constructor(file: string, problems: readonly string[]) {
    super(`bindings file ${file} is not valid:\n${problems.map(line => `- ${line}`).join('\n')}`)
    this.name = 'BindingsFileError'
    this.problems = problems
  }
}

const MAX_BYTES = 64 * 1024 * 1024

interface Judged {
  /** Equal for equal content, and for the same reason why there is none. */
  readonly digest: string
  readonly readable: boolean
  readonly set?: BindingSet
  readonly problems: readonly string[]
}

/** What the file says now; `known` spares the parsing of content that is known. Never rejects. */
async function judgementOf(file: string, known: string | undefined): Promise<Judged> {
  const content = await contentOf(file, MAX_BYTES)
  const { digest } = content
  if ('unreadable' in content) {
    return { digest, readable: false, problems: [`file: ${content.unreadable}`] }
  }
  if (digest === known) return { digest, readable: true, problems: [] }
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(content.bytes)
  } catch {
    return { digest, readable: true, problems: ['file: is not valid UTF-8'] }
  }
  const parsed = readBindingsFile(text)
  return parsed.ok
    ? { digest, readable: true, set: parsed.set, problems: [] }
    : { digest, readable: true, problems: parsed.problems }
}

async function bindingsFile(app: FastifyInstance, options: BindingsFileOptions): Promise<void> {
  const { file, onReload, pollInterval = 2000 } = options
  if (!Number.isFinite(pollInterval) || pollInterval <= 0) {
    throw new TypeError('pollInterval must be a positive number of milliseconds')
  }
  if (file === '') throw new TypeError('file must be a path')

  const judged = await fingerprint([file])
  const first = await judgementOf(file, undefined)
  if (first.set === undefined) throw new BindingsFileError(file, first.problems)
  let set: BindingSet = first.set
  let good = first.digest
  let latest = first.digest

  app.bindings.use({
    hasZone: zone => set.hasZone(zone),
    find: (zone, resource) => set.find(zone, resource),
    // There is a set from the start on, and none is ever taken away.
    healthy: () => true,
    get stale() {
      return latest !== good
    },
    get size() {
      return set.size
    },
  })

  /** Resolves to whether the file could be read, valid or not. */
  const judge = async (): Promise<boolean> => {
    const { digest, readable, set: next, problems } = await judgementOf(file, good)
    if (digest === latest) return readable
    latest = digest
    if (problems.length > 0) {
      app.log.error({ file, problems }, 'bindings file is not valid, the last good set serves')
      onReload?.(false)
      return readable
    }
    set = next ?? set
    good = digest
    app.log.info({ file, bindings: set.size }, 'bindings loaded')
    onReload?.(true)
    return readable
  }

  const watching = watchFiles({
    files: [file],
    judged,
    pollInterval,
    judge,
    warn: (error, problem) => app.log.warn({ file, err: error }, `bindings file ${problem}`),
  })
  app.addHook('onClose', () => watching.close())
}

export default fp(bindingsFile, {
  name: 'bindings-file',
  fastify: '5.x',
  dependencies: ['bindings'],
})
