/**
 * Names events in the order of their making (UUIDv7, RFC 9562 section 5.7).
 */
import crypto from 'node:crypto'
import { v7 } from 'uuid'

/** A new UUIDv7. Node's own, ten times as fast, came with 24.16. */
export const uuidv7: () => string = crypto.randomUUIDv7 ?? v7
