/**
 * The process: reads the environment, listens, and stops when it is told to. The only file with side effects.
 */
import { realpathSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import closeWithGrace from 'close-with-grace'
import { ConfigError, createGateway, loadConfig } from './app.ts'
import { SHUTDOWN_SHARES } from './config.ts'
import { boundHeap, settleHeap } from './heap.ts'
import { isSupportedNode, OLDEST_NODE } from './lib/node-version.ts'

/** Signals that say that the process is broken: a handler would keep it alive, and what they tell of from being seen. */
const NOT_OURS = ['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGTRAP', 'SIGUSR2'] as const

/**
 * Connections that may wait to be accepted; the system's own limit is lower where it is. With Node's 511 a burst of new
 * callers is dropped before anybody can tell them that the gateway is overloaded, and they try again after a second.
 */
const BACKLOG = 4_096

/**
 * Serves until SIGTERM or SIGINT. A configuration or a dependency that does not allow a start ends the process with
 * status 1 and one clear line for each problem, before anything listens.
 *
 * @param env usually `process.env`; nothing else reads it
 */
export async function serve(env: NodeJS.ProcessEnv): Promise<void> {
  const supported = isSupportedNode(process.versions.node)
  if (supported) boundHeap()
  const config = configOf(env)
  if (config === undefined) return
  // Until there is something to be drained. Without a handler the first process of a container hears no signal at all.
  process.on('SIGTERM', leave).on('SIGINT', leave)
  const app = await createGateway(config).catch(startFailed)
  if (app === undefined) return
  if (!supported)
    app.log.warn({ node: process.version }, `Node.js ${OLDEST_NODE} or newer is needed`)
  process.off('SIGTERM', leave).off('SIGINT', leave)
  let stopping = false
  closeWithGrace(
    { delay: config.shutdownTimeout, logger: app.log, skip: [...NOT_OURS] },
    async ({ err: error, signal }: { err?: Error | undefined; signal?: string | undefined }) => {
      stopping = true
      if (error === undefined) app.log.info({ signal }, 'draining')
      else app.log.fatal({ err: error }, 'stopping after an unexpected error')
      app.drain.begin()
      // What is still open then, an event stream say, ends in time to leave its evidence.
      const { service, lastAnswers } = SHUTDOWN_SHARES
      const cut = setTimeout(
        () => app.drain.cut(config.shutdownTimeout * lastAnswers),
        config.shutdownTimeout * service,
      )
      if (error === undefined) await pause(config.shutdownDelay)
      await app.close()
      clearTimeout(cut)
      app.log.info('stopped')
    },
  )
  const address = { port: config.port, host: config.host, backlog: BACKLOG }
  // What a plugin does last before its gateway serves.
  try {
    await app.ready()
  } catch (error) {
    return startFailed(error)
  }
  await app.listen(address).catch((error: Error) => {
    // Told to stop before it listened.
    if (!stopping) startFailed(new Error(`HOST and PORT: ${error.message}`))
  })
  if (supported) settleHeap()
}

function configOf(env: NodeJS.ProcessEnv) {
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
