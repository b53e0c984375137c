// The schema that Caracal's audit service holds events to.
import { readFileSync } from 'node:fs'
import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'

const ajv = new Ajv2020({ strict: false })
addFormats.default(ajv)

/** Whether an event is valid; if not, `errors` says why. */
export const validEvent = ajv.compile(
  JSON.parse(
    readFileSync(
      new URL('./schemas/caracal-audit-event-2026-05-21.schema.json', import.meta.url),
      'utf8',
    ),
  ),
)
