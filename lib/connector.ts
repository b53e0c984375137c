/**
 * Guarantees that a request that was aborted opens no other connection.
 */
import { buildConnector, errors } from 'undici'

/** One for all: a stack for each, which nobody reads, would be a tenth of what it costs to end a stream. */
const ABORTED = new errors.SocketError('aborted')

/**
 * Connects as undici does by itself, save that an abort counts as the end of its request.
 *
 * When undici aborts a request it closes the connection under it with an error that means "not the request's fault",
 * takes the request for one that waits to be sent again, and opens a connection for it, which then idles for as long
 * as the other side lets it (undici issue 5845). Ten thousand streams that a revocation cuts would be ten thousand
 * new connections to their upstream.
 */
export function connector(options: buildConnector.BuildOptions): buildConnector.connector {
  const connect = buildConnector(readingAhead(options))
  return (target, callback) => {
    connect(target, (...result) => {
      const [error, socket] = result
      if (error === null && socket !== null) {
        const destroy = socket.destroy.bind(socket)
        socket.destroy = error => destroy(isAbort(error) ? ABORTED : error)
      }
      callback(...result)
    })
  }
}

/**
 * With little read ahead: undici would hold twice 64 KiB for each caller that does not take its answer, beside what the
 * answer holds itself.
 */
function readingAhead(options: buildConnector.BuildOptions): buildConnector.BuildOptions {
  const narrow = { ...options, highWaterMark: 16 * 1024 }
  return narrow
}

function isAbort(error: Error | undefined): boolean {
  return error instanceof errors.InformationalError && error.message === 'aborted'
}
