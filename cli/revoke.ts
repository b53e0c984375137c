// Publishes a revocation as Caracal does: one signed message, which every gateway obeys (contract section 6).

import { loadRevocationConfig } from '../config.ts'
import { hmacKey, signStreamEntry } from '../lib/stream-signature.ts'
import { REVOCATION_STREAM } from '../plugins/revocations/messages.ts'
import { type Run, UsageError } from './command.ts'
import { printable, printJson, printLine } from './output.ts'
import { connect } from './store.ts'

interface Options {
  readonly session?: string | undefined
  readonly 'agent-session'?: string | undefined
  readonly edge?: string | undefined
  readonly json?: boolean | undefined
}

/** The options, and the fields that the stream has for them. */
const FIELDS = [
  ['session', 'session_id'],
  ['agent-session', 'agent_session_id'],
  ['edge', 'delegation_edge_id'],
] as const

/** `caracal-gateway revoke`. */
export const revoke: Run<Options> = async (values, env) => {
  const given = FIELDS.flatMap(([option, field]) => {
    const id = values[option]
    return id === undefined ? [] : [{ field, id }]
  })
  const [only, ...more] = given
  if (only === undefined || more.length > 0) {
    throw new UsageError('exactly one of --session, --agent-session and --edge is needed')
  }
  // The signed text has a line for each field: an id with a line break could stand for another message.
  if (!/^[^\s\p{Cc}]+$/u.test(only.id))
    throw new UsageError('the id must not be empty or hold white space')
  const config = loadRevocationConfig(env)
  const key = config.streamsHmacKey
  const fields: Record<string, string> = { [only.field]: only.id }
  if (key !== undefined) {
    fields['_sig'] = signStreamEntry(
      hmacKey('STREAMS_HMAC_KEY', key.reveal()),
      REVOCATION_STREAM,
      fields,
    )
  }
  const store = await connect(config)
  try {
    const [error] = await store.append(REVOCATION_STREAM, [fields])
    if (error !== undefined) throw error
  } finally {
    store.close()
  }
  if (values.json) {
    printJson({ stream: REVOCATION_STREAM, signed: key !== undefined, [only.field]: only.id })
  } else printLine(`revoked: ${only.field} ${printable(only.id)}${key ? '' : ' (not signed)'}`)
  return 0
}
