/**
 * The life of a gateway as a process: it listens, and ends in order, whatever ends it.
 */
import { setTimeout as pause } from 'node:timers/promises'
import closeWithGrace, { type Signals } from 'close-with-grace'
import type { FastifyInstance } from 'fastify'
import { type Config, SHUTDOWN_SHARES } from './config.ts'

/** Signals that say that the process is broken: a handler would keep it alive, and what they tell of from being seen. */
export const BROKEN: readonly Signals[] = [
  'SIGABRT',
  'SIGBUS',
  'SIGFPE',
  'SIGILL',
  'SIGSEGV',
  'SIGTRAP',
  'SIGUSR2',
]

/** Signals that ask a process to end. */
export const ENDING = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const

/**
 * Connections that may wait to be accepted; the system's own limit is lower where it is. With Node's 511 a burst of new
 * callers is dropped before anybody can tell them that the gateway is overloaded, and they try again after a second.
 */
const BACKLOG = 4_096

/** The end of a process's gateway. */
export interface End {
  /** Whether it has begun. */
  readonly begun: boolean
  /** Drains the gateway and ends the process, with status 0 when all went well; a second call does nothing. */
  begin(): void
}

/**
 * Sees to it that the gateway drains, within `SHUTDOWN_TIMEOUT`, before the process ends by a signal or an unexpected error.
 *
 * @param notOurs signals that somebody else handles, or nobody
 */
export function endInOrder(app: FastifyInstance, config: Config, notOurs: readonly Signals[]): End {
  let begun = false
  const grace = closeWithGrace(
    { delay: config.shutdownTimeout, logger: app.log, skip: [...notOurs] },
    async ({ err: error, signal }: { err?: Error | undefined; signal?: string | undefined }) => {
      begun = true
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
  return {
    get begun() {
      return begun
    },
    begin() {
      if (!begun) grace.close()
    },
  }
}

/**
 * Takes connections from now on.
 *
 * @param told what the log says, of an address; default: Fastify's words
 * @throws Error that names the variables, when the address is not to be had; what a plugin's `onReady` hook fails with
 */
export async function listen(
  app: FastifyInstance,
  { host, port }: Pick<Config, 'host' | 'port'>,
  end: End,
  told?: (address: string) => string,
): Promise<void> {
  const address = {
    port,
    host,
    backlog: BACKLOG,
    ...(told !== undefined && { listenTextResolver: told }),
  }
  // What a plugin waits for at last fails in its own words.
  await app.ready().then(
    () => undefined,
    (error: unknown) => {
      if (!end.begun) throw error
    },
  )
  await app.listen(address).catch((error: Error) => {
    // Told to stop before it listened.
    if (!end.begun) throw new Error(`HOST and PORT: ${error.message}`)
  })
}
