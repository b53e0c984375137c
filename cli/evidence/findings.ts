// What does not hold of the evidence, counted to the last and kept up to a number that memory bears.

/** What was looked at. */
export type EvidenceCheck =
  | 'unreadable'
  | 'malformed'
  | 'signature'
  | 'id_reused'
  | 'request_twice'
  | 'pending_recovery'
  | 'missing'
  | 'set_aside'

/** Something that does not hold. */
export interface Finding {
  readonly check: EvidenceCheck
  /** An entry of the stream, or a file. */
  readonly where: string
  /** Of the event, where it is known. */
  readonly id?: string
  readonly detail: string
}

/** Findings of a check that are kept. */
const KEPT = 100

/** Findings, in the order of their coming. */
export class Findings {
  readonly kept: Finding[] = []
  readonly counts = new Map<EvidenceCheck, number>()

  add(check: EvidenceCheck, where: string, detail: string, id?: string): void {
    const count = (this.counts.get(check) ?? 0) + 1
    this.counts.set(check, count)
    if (count <= KEPT) this.kept.push({ check, where, ...(id !== undefined && { id }), detail })
  }

  /** How many there are of each check in all of them. */
  static sum(all: readonly Findings[]): Partial<Record<EvidenceCheck, number>> {
    const sum: Partial<Record<EvidenceCheck, number>> = {}
    for (const { counts } of all) {
      for (const [check, count] of counts) sum[check] = (sum[check] ?? 0) + count
    }
    return sum
  }

  /** How many there were. */
  get total(): number {
    return [...this.counts.values()].reduce((sum, count) => sum + count, 0)
  }
}
