/**
 * Cuts a file that comes in pieces into lines, in bounded memory whatever the file holds.
 */
import { isUtf8 } from 'node:buffer'

/** Bytes of a line of audit evidence (contract section 8). */
export const MAX_LINE_BYTES = 1024 * 1024

/** A line without its newline. */
export interface Line {
  readonly bytes: Buffer
  /** Undefined when the bytes are no text, or the line is longer than a line may be: then it comes in several parts. */
  readonly text: string | undefined
}

const NEWLINE = 0x0a

/** Cuts what is pushed into it at every newline. */
export class LineCutter {
  readonly #limit: number
  #rest: Buffer = Buffer.alloc(0)
  // Within a line that was too long.
  #overlong = false

  /** @param limit bytes of the longest line */
  constructor(limit = MAX_LINE_BYTES) {
    this.#limit = limit
  }

  /** The lines that end in the chunk. */
  push(chunk: Buffer): Line[] {
    const lines: Line[] = []
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    let start = 0
    // What was kept holds no newline.
    let end = bytes.indexOf(NEWLINE, this.#rest.length)
    while (end !== -1) {
      lines.push(this.#line(bytes.subarray(start, end)))
      this.#overlong = false
      start = end + 1
      end = bytes.indexOf(NEWLINE, start)
    }
    const rest = bytes.subarray(start)
    if (rest.length > this.#limit) {
      this.#overlong = true
      lines.push(this.#line(rest))
      this.#rest = Buffer.alloc(0)
    } else {
      // A copy: the chunk may be read into again.
      this.#rest = Buffer.from(rest)
    }
    return lines
  }

  /** What follows the last newline, if anything does. */
  end(): Line | undefined {
    const rest = this.#rest
    this.#rest = Buffer.alloc(0)
    return rest.length > 0 ? this.#line(rest) : undefined
  }

  #line(bytes: Buffer): Line {
    const sound = !this.#overlong && bytes.length <= this.#limit && isUtf8(bytes)
    return { bytes, text: sound ? bytes.toString('utf8') : undefined }
  }
}
