// What may be refused, as the compiler sees it: a row of the closed table, or a refusal in full.

import { type Check, type CustomDenial, DENIALS, Denial } from '../../app.ts'

export const builtIn: Denial[] = [
  new Denial('revoked'),
  new Denial('sts_refused', {
    status: 409,
    members: { approval_id: 'a' },
    cause: new Error('why'),
  }),
  new Denial({ check: 'team_quota', status: 429, error: 'quota', description: 'quota used up' }),
]

// @ts-expect-error -- no such check
export const unknown = new Denial('revokd')
export function named(name: string): Denial {
  // @ts-expect-error -- a check's name is not any text
  return new Denial(name)
}
// @ts-expect-error -- a refusal of a team's own says everything: the status is missing
export const partial = new Denial({ check: 'team_quota', error: 'quota', description: 'used up' })
// @ts-expect-error -- a status is a number
export const status = new Denial('sts_refused', { status: '409' })
// @ts-expect-error -- headers are text
export const headers = new Denial('revoked', { headers: { 'retry-after': 1 } })

// @ts-expect-error -- the table is closed
DENIALS.team_quota = { status: 429, error: 'quota', description: 'quota used up' }
// @ts-expect-error -- and its rows are fixed
DENIALS.revoked.status = 200
// @ts-expect-error -- not even to be removed
delete DENIALS.revoked

/** Whoever handles every check by name learns of a new one from the compiler. */
type Handled = Record<Check, true>
// @ts-expect-error -- all the others are missing
export const few = { revoked: true } satisfies Handled
// @ts-expect-error -- there is no such check
export const many: Partial<Handled> = { revoked: true, team_quota: true }

export function reads(denial: Denial, custom: CustomDenial): [string, number] {
  // @ts-expect-error -- a refusal is not changed once it is made
  denial.statusCode = 200
  // @ts-expect-error -- nor its name
  denial.check = 'other'
  return [denial.check, custom.status]
}
