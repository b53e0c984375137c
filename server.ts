/**
 * The process: reads the environment, listens, and stops when it is told to. The only file with side effects.
 */
import { realpathSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Config, ConfigError, configTexts, loadConfig } from './config.ts'
import { boundHeap, settleHeap } from './heap.ts'
import { isSupportedNode, OLDEST_NODE } from './lib/node-version.ts'

/**
 * Serves until SIGTERM or SIGINT. A configuration or a dependency that does not allow a start ends the process with
 * status 1 and one clear line for each problem, before anything listens.
 *
 * @param env usually `process.env`; nothing else reads it
 */
export async function serve(env: NodeJS.ProcessEnv): Promise<void> {
  if (isSupportedNode(process.versions.node)) boundHeap()
  const config = configOf(env)
  if (config === undefined) return
  if (config.workers === 1) return serveAlone(config)
  // What the supervisor does not need it does not load: its memory comes on top of the workers'.
  const { supervise } = await import('./cluster/supervisor.ts')
  await supervise(config, configTexts(env))
}

async function serveAlone(config: Config): Promise<void> {
  // Until there is something to be drained. Without a handler the first process of a container hears no signal at all.
  process.on('SIGTERM', leave).on('SIGINT', leave)
  const [{ createGateway }, { BROKEN, endInOrder, listen }] = await Promise.all([
    import('./app.ts'),
    import('./lifetime.ts'),
  ])
  const app = await createGateway(config).catch(startFailed)
  if (app === undefined) return
  const supported = isSupportedNode(process.versions.node)
  if (!supported)
    app.log.warn({ node: process.version }, `Node.js ${OLDEST_NODE} or newer is needed`)
  process.off('SIGTERM', leave).off('SIGINT', leave)
  const end = endInOrder(app, config, BROKEN)
  await listen(app, config, end).catch(startFailed)
  if (supported) settleHeap()
}

function configOf(env: NodeJS.ProcessEnv): Config | undefined {
  try {
    return loadConfig(env)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    process.stderr.write(`${error.message}\n`)
    process.exitCode = 1
    return undefined
  }
}

function leave(): void {
  process.exit(0)
}

/** A dependency that is away is no programming error: its message is what the operator needs. */
function startFailed(error: unknown): undefined {
  process.stderr.write(
    `the gateway cannot start: ${error instanceof Error ? error.message : String(error)}\n`,
  )
  process.exit(1)
}

/** Whether this file is what Node.js was started with; older versions have no `import.meta.main`. */
function isMain(): boolean {
  const [, entry = ''] = process.argv
  return import.meta.main ?? realpathSync(entry) === fileURLToPath(import.meta.url)
}

if (isMain()) await serve(process.env)
