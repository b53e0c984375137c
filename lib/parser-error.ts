/**
 * Names what Node's HTTP parser gave up on in the gateway's words (contract section 2, `malformed_request`).
 */
import { Denial } from '../denial.ts'

/** The denial of a request whose headers cannot be read, or came too late. */
export function headerDenial(error: NodeJS.ErrnoException): Denial {
  switch (error.code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return malformed(408, 'request headers timed out')
    case 'HPE_HEADER_OVERFLOW':
      return isTargetOverflow(error)
        ? malformed(414, 'request target too long')
        : malformed(431, 'request header fields too large')
    default:
      return malformed(400, 'malformed HTTP request')
  }
}

/** The denial of a request whose body cannot be read, or came too late. */
export function bodyDenial(error: NodeJS.ErrnoException): Denial {
  return error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
    ? new Denial('request_timeout')
    : malformed(400, 'malformed request body')
}

function malformed(status: number, description: string): Denial {
  return new Denial('malformed_request', { status, description })
}

/** Whether the bytes that overflowed are still the request line's; known only when it began with them. */
function isTargetOverflow(error: Error): boolean {
  const packet = 'rawPacket' in error ? error.rawPacket : undefined
  if (!Buffer.isBuffer(packet)) return false
  return /^[A-Z-]+ [^\r\n]+$/.test(packet.subarray(0, 16 * 1024).toString('latin1'))
}
