// Denies a token that its zone did not sign, and grants the mandate of one that it did.
import { Denial } from '../denial.ts'
import { mandateOf } from '../lib/mandate.ts'
import type { KeySets, Verifier } from '../plugins/jwks.ts'
import type { Check, Passage } from '../plugins/passage.ts'
import type { Stages } from '../plugins/stages.ts'

/**
 * Denies a wrong signature, algorithm or key, a `crit` that nobody understands, and the `nbf` and `iss` that the
 * verifier looks at. The key sets throw `keys_unavailable` when the zone cannot be asked.
 */
export function denyInvalidSignature(keySets: KeySets, stages: Stages): Check {
  return (_request, passage) => {
    const { alg, kid } = passage.presented?.header ?? {}
    const zone = passage.presented?.claims['zone_id']
    // What cannot verify under any key must not cost a key fetch.
    if (alg !== 'ES256' || typeof kid !== 'string' || kid === '' || typeof zone !== 'string') {
      throw new Denial('invalid_signature')
    }
    const stage = stages.begin(passage, 'verify')
    const fail = (error: unknown) => {
      stage.fail(error)
      throw error
    }
    const decide = (verifier: Verifier | undefined) => {
      try {
        grant(passage, verifier)
      } catch (error) {
        fail(error)
      }
      stage.end()
    }
    const verifier = keySets.verifier(zone, kid)
    return verifier instanceof Promise ? verifier.then(decide, fail) : decide(verifier)
  }
}

function grant(passage: Passage, verifier: Verifier | undefined): void {
  const { presented } = passage
  if (presented === undefined || verifier === undefined) throw new Denial('invalid_signature')
  let claims: Record<string, unknown>
  try {
    claims = verifier(presented.token)
  } catch (cause) {
    throw new Denial('invalid_signature', { cause })
  }
  passage.mandate = mandateOf(presented, claims)
}
