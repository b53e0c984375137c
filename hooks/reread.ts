// Guarantees that a refusal by a copy of the bindings stands only when the source, read anew, refuses too.
import type { Denial } from '../denial.ts'

/**
 * Judges again once the source was read anew.
 *
 * @param denial what the copy says
 * @param reread the reading; `undefined`: nothing is read, and the denial stands
 * @param judge the same judgement, from the binding on
 * @throws Denial at once, or as a rejection
 */
export function afterReread(
  denial: Denial,
  reread: Promise<void> | undefined,
  judge: () => Denial | undefined,
): Promise<void> {
  if (reread === undefined) throw denial
  return reread.then(() => {
    const still = judge()
    if (still !== undefined) throw still
  })
}
