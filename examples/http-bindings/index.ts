// Takes the bindings from an HTTP endpoint that answers in the form of a bindings file, and reads it again and again.
import { type BindingSet, readBindingsFile } from 'caracal-gateway'
import type { FastifyInstance } from 'fastify'

/** URL of the endpoint: `BINDINGS_URL`. */
const url = process.env['BINDINGS_URL'] ?? ''

/** Milliseconds between two reads: `BINDINGS_INTERVAL` (10000). */
const interval = Number(process.env['BINDINGS_INTERVAL'] ?? 10_000)

/** Longest time for a read, in milliseconds. */
const TIMEOUT = 5_000

export default async function httpBindings(app: FastifyInstance): Promise<void> {
  // Without a first set there is nothing to decide with: the gateway does not start.
  let set = await read()
  let stale = false
  app.bindings.use({
    hasZone: zone => set.hasZone(zone),
    find: (zone, resource) => set.find(zone, resource),
    healthy: () => true,
    get stale() {
      return stale
    },
    get size() {
      return set.size
    },
  })
  let reading: Promise<void> | undefined
  const timer = setInterval(() => {
    reading ??= read()
      .then(
        next => {
          set = next
          stale = false
        },
        (error: unknown) => {
          stale = true
          app.log.warn({ err: error }, 'bindings cannot be read, the last good set serves')
        },
      )
      .finally(() => {
        reading = undefined
      })
  }, interval)
  app.addHook('onClose', async () => {
    clearInterval(timer)
    await reading
  })
}

async function read(): Promise<BindingSet> {
  const answer = await fetch(url, { redirect: 'error', signal: AbortSignal.timeout(TIMEOUT) })
  if (!answer.ok) throw new Error(`BINDINGS_URL answers with ${answer.status}`)
  const bindings = readBindingsFile(await answer.text())
  if (!bindings.ok) throw new Error(`BINDINGS_URL: ${bindings.problems.join('; ')}`)
  return bindings.set
}
