// Refuses calls outside of business hours, and tells the evidence which they were.
import { Denial } from 'caracal-gateway'
import type { FastifyInstance } from 'fastify'

/** Business hours in UTC: `BUSINESS_HOURS` (`8-18`: from eight until six). */
const [opens = 0, closes = 0] = (process.env['BUSINESS_HOURS'] ?? '8-18').split('-').map(Number)

export default async function businessHours(app: FastifyInstance): Promise<void> {
  if (!Number.isInteger(opens) || !Number.isInteger(closes) || opens < 0 || closes > 24) {
    throw new Error('BUSINESS_HOURS must be two hours, 0 to 24, such as 8-18')
  }
  app.addHook('onRequest', async request => {
    request.annotate('business_hours', `${opens}-${closes}`)
    const hour = new Date().getUTCHours()
    if (hour >= opens && hour < closes) return
    throw new Denial({
      check: 'business_hours',
      status: 403,
      error: 'access_denied',
      description: `open from ${opens}:00 to ${closes}:00 UTC`,
    })
  })
}
