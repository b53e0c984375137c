/**
 * Guarantees that the end of a caller's connection never takes an answer with it, and that nothing is executed whose
 * answer could no longer be sent.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/** A request on its connection, and what answers it. */
export interface Turn {
  readonly request: IncomingMessage
  readonly response: ServerResponse
}

/** Milliseconds of silence after which a caller is taken to have its answer, although its body is not whole. */
const LINGER = 1_000

/** Milliseconds after which that is so even if bytes still come. */
const MAX_LINGER = 30_000

/**
 * Ends a connection so that nobody takes for whole what reached the caller, and what did not is held no longer: an
 * orderly end could be that of the body, and would make the system keep it for a caller that does not read. Only TCP can
 * be reset; TLS has an end of its own, which does not come (RFC 8446 section 6.1).
 */
export function breakOff(socket: Socket): void {
  if (socket.remoteFamily === undefined || 'encrypted' in socket) socket.destroy()
  else socket.resetAndDestroy()
}

/** One connection of a caller. */
export class CallerConnection<T extends Turn = Turn> {
  /** Requests whose answers are not out yet, in order. */
  readonly open = new Set<T>()
  /** The request that came last. */
  latest: T | undefined
  /** Whether the last answer is out or under way; what comes after it must be dropped. */
  closing = false
  readonly socket: Socket
  /** Bytes that the caller has taken, by the last look. */
  #taken = 0
  /** `performance.now()` of the look since which it takes none of those that wait for it; milliseconds. */
  #stalledAt: number | undefined

  constructor(socket: Socket) {
    this.socket = socket
    // This is how Node ends a connection once the last answer is out. It drops what was not read of a body.
    const destroySoon = socket.destroySoon.bind(socket)
    socket.destroySoon = () => {
      if (this.latest?.request.complete === false) this.close()
      else destroySoon()
    }
  }

  /**
   * Takes on a request.
   *
   * @param idleTimeout for how long the connection may be idle once the request is over, in milliseconds
   */
  take(turn: T, idleTimeout: () => number): void {
    this.latest = turn
    this.open.add(turn)
    const { response } = turn
    response
      .once('close', () => {
        this.open.delete(turn)
        // Broken off while it waited behind others: Node would send what there is of it, and then nothing for ever.
        if (response.socket === null && !response.writableFinished) {
          response.once('socket', socket => socket.destroy())
        }
      })
      .once('finish', () => {
        if (!turn.request.complete) this.#readOn(turn, idleTimeout)
      })
  }

  /**
   * Closes for writing, and reads on for a moment: bytes that nobody reads are answered with a reset, which can
   * overtake the answer (RFC 9112 section 9.6).
   */
  close(): void {
    this.closing = true
    const socket = this.socket
    socket.end()
    socket.setTimeout(LINGER, () => socket.destroy())
    const timer = setTimeout(() => socket.destroy(), MAX_LINGER).unref()
    socket.once('close', () => clearTimeout(timer))
  }

  /**
   * Whether the caller has taken no byte for so long although some wait for it. To be asked again and again: it counts
   * from the first time that it finds bytes waiting.
   *
   * A byte is taken when the system takes it from the process, which knows no better: with what it buffers, the system
   * does so in steps.
   *
   * @param timeout milliseconds
   * @param now `performance.now()`
   */
  stalled(timeout: number, now: number): boolean {
    const { writableLength: waiting, bytesWritten } = this.socket
    // Node counts what waits as written.
    const taken = bytesWritten - waiting
    if (waiting === 0) this.#stalledAt = undefined
    else if (taken !== this.#taken || this.#stalledAt === undefined) this.#stalledAt = now
    this.#taken = taken
    return this.#stalledAt !== undefined && now - this.#stalledAt >= timeout
  }

  /** Reads what is left of the body of a request that has its answer, so that the connection can be used again. */
  #readOn(turn: T, idleTimeout: () => number): void {
    const { request } = turn
    request.resume()
    // When it is over, Node's own handler destroys the connection.
    this.socket.setTimeout(LINGER)
    request.once('end', () => {
      if (this.latest === turn && !this.closing) this.socket.setTimeout(idleTimeout())
    })
  }
}
