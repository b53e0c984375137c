/**
 * The methods that the gateway serves.
 */
import { METHODS } from 'node:http'

/** Every method that Node's parser knows, but `CONNECT`, which opens a tunnel (contract section 1). */
export const PROXIED_METHODS: readonly string[] = METHODS.filter(method => method !== 'CONNECT')
