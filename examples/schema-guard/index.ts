// Refuses request bodies that do not fit the JSON schema of their operation.
import { readFile } from 'node:fs/promises'
import { Ajv, type ValidateFunction } from 'ajv'
import { Denial } from 'caracal-gateway'
import type { FastifyInstance } from 'fastify'

/** Longest body that is looked at, in bytes; a longer one is refused. */
const LIMIT = 64 * 1024

/** File of schemas by operation, `{ "POST /v1/invoices": { ... } }`: `BODY_SCHEMAS`. */
const file = process.env['BODY_SCHEMAS'] ?? 'body-schemas.json'

export default async function schemaGuard(app: FastifyInstance): Promise<void> {
  const ajv = new Ajv()
  const validators = new Map<string, ValidateFunction>()
  const schemas: Record<string, object> = JSON.parse(await readFile(file, 'utf8'))
  for (const [operation, schema] of Object.entries(schemas)) {
    validators.set(operation, ajv.compile(schema))
  }
  app.addHook('preValidation', async request => {
    const { operation } = request
    const fits = validators.get(`${operation?.method} ${operation?.path}`)
    if (fits === undefined) return
    const body = await request.readBody(LIMIT)
    if (fits(parsed(body))) return
    const [error] = fits.errors ?? []
    throw new Denial({
      check: 'body_schema',
      status: 422,
      error: 'invalid_request',
      // The place and the rule, never what stands there.
      description: `request body${error?.instancePath ?? ''} ${error?.message ?? 'is not valid'}`,
    })
  })
}

function parsed(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString())
  } catch {
    return undefined
  }
}
