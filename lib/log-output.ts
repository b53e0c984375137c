/**
 * Guarantees that a log line holds up neither a request nor the end of the process, though whoever reads the log be slow
 * or gone, and that what was logged before an orderly end is written.
 */
import { writeSync } from 'node:fs'

/** Characters that wait for the reader; what comes on top is dropped and counted. */
const CAPACITY = 1_048_576
/** Bytes that a pipe takes whole or not at all (`PIPE_BUF` of Linux), whoever else writes to it. */
const WHOLE_BYTES = 4_096
/** Milliseconds between two attempts to write what the reader does not take. */
const RETRY_INTERVAL = 50
/** Milliseconds that the end of the process waits for a reader that takes nothing. */
const EXIT_PATIENCE = 250
/** Milliseconds between two attempts then. */
const EXIT_INTERVAL = 5

/**
 * The standard output, as a destination for pino: written by writes that do not block, the first line of a turn of the event
 * loop at once and the others at its end. Several processes may write to one pipe: no line of up to 4,096 bytes is torn.
 *
 * pino's own destination blocks a thread on a pipe that is full, for which the end of the process then waits, and in the
 * exit it tries for ever to write to a pipe whose reader has just gone.
 */
export class LogOutput {
  /** A line is dropped. */
  onDrop: () => void = () => undefined
  /** Lines were dropped, and there is room again: how many. */
  onRoom: (dropped: number) => void = () => undefined
  readonly #fd: number
  readonly #sleeper = new Int32Array(new SharedArrayBuffer(4))
  #lines: string[] = []
  /** Characters in {@link LogOutput.#lines}. */
  #length = 0
  /** What was begun to be written. */
  #rest = Buffer.alloc(0)
  #dropped = 0
  #pending = false

  /** @param fd a file descriptor that does not block; standard output unless told */
  constructor(fd?: number) {
    // Node makes a pipe non-blocking when its stream is first asked for.
    if (fd === undefined) void process.stdout
    this.#fd = fd ?? 1
  }

  /** Takes a line with its end; never throws, never blocks. */
  write(line: string): void {
    if (this.#length + this.#rest.length + line.length > CAPACITY) {
      this.#dropped += 1
      this.onDrop()
      return
    }
    this.#lines.push(line)
    this.#length += line.length
    if (this.#pending) return
    this.#pending = true
    process.once('exit', this.#onExit)
    this.#writeOut()
    setImmediate(this.#work)
  }

  /** Writes what waits, for as long as the end of the process may take. pino calls it after a `fatal` line. */
  flushSync(): void {
    const deadline = performance.now() + EXIT_PATIENCE
    while (this.#writeOut() === 'full' && performance.now() < deadline) {
      Atomics.wait(this.#sleeper, 0, 0, EXIT_INTERVAL)
    }
  }

  readonly #onExit = () => this.flushSync()

  readonly #work = () => {
    if (this.#writeOut() !== 'done') {
      setTimeout(this.#work, RETRY_INTERVAL).unref()
      return
    }
    this.#pending = false
    process.off('exit', this.#onExit)
    const dropped = this.#dropped
    this.#dropped = 0
    if (dropped > 0) this.onRoom(dropped)
  }

  /** As many lines as a pipe takes whole, one at least. */
  #take(): Buffer<ArrayBuffer> {
    let bytes = 0
    let count = 0
    for (const line of this.#lines) {
      bytes += Buffer.byteLength(line)
      if (count > 0 && bytes > WHOLE_BYTES) break
      count += 1
    }
    const text = this.#lines.splice(0, count).join('')
    this.#length -= text.length
    return Buffer.from(text)
  }

  #writeOut(): 'done' | 'full' | 'failed' {
    try {
      for (;;) {
        if (this.#rest.length === 0) {
          if (this.#lines.length === 0) return 'done'
          this.#rest = this.#take()
        }
        this.#rest = this.#rest.subarray(writeSync(this.#fd, this.#rest))
      }
    } catch (error) {
      const full = error instanceof Error && 'code' in error && error.code === 'EAGAIN'
      return full ? 'full' : 'failed'
    }
  }
}
