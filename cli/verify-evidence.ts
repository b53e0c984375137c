// Guarantees that evidence that does not hold is told: proves the journal and a range of the audit stream, and writes to
// neither (contract section 13).

import { setFlagsFromString } from 'node:v8'
import { type EvidenceConfig, loadEvidenceConfig } from '../config.ts'
import { compareStreamIds } from '../lib/stream-id.ts'
import { rangeEnd, rangeStart } from '../lib/stream-range.ts'
import { hmacKey } from '../lib/stream-signature.ts'
import { AUDIT_STREAM } from '../plugins/audit/sink.ts'
import { type Run, UsageError } from './command.ts'
import { Look, type OpenIntent } from './evidence/directory.ts'
import { type EvidenceCheck, type Finding, Findings } from './evidence/findings.ts'
import { Proof, SEEN } from './evidence/proof.ts'
import { type Range, StreamReader } from './evidence/stream.ts'
import { printable } from './output.ts'
import { connect } from './store.ts'

const DAY = 24 * 60 * 60 * 1000
/** What moves on while it is looked at is looked for again. */
const LOOKS = 3
const LOOK_PAUSE = 500
/** Milliseconds by which clocks may differ. */
const SKEW = 60_000
/** Open intents that are listed. */
const LISTED = 100

/** What `--json` prints. */
export interface Verdict {
  readonly holds: boolean
  /** Stream ids, both included; `until` is null for what was there. */
  readonly since: string
  readonly until: string | null
  readonly directory: string | null
  readonly counts: Counts
  /** How many findings of each check there are. */
  readonly failures: Readonly<Partial<Record<EvidenceCheck, number>>>
  /** The first of each check. */
  readonly findings: readonly Finding[]
  /** Requests under way in gateways that live; at most 100. */
  readonly open: readonly OpenIntent[]
}

/** What there was. */
export interface Counts {
  /** Entries of the stream, and the events that they hold. */
  readonly entries: number
  readonly events: number
  /** Entries that hold an event again, to the byte. */
  readonly resends: number
  readonly unsigned: number
  /** Events on disk that are not in the range of the stream. */
  readonly waiting: number
  /** Requests under way in gateways that live. */
  readonly open: number
  /** Journals of gateways that live, and of gateways that have ended. */
  readonly alive: number
  readonly ended: number
  /** Replay files. */
  readonly files: number
}

/** The options of the command. */
interface Options {
  readonly dir?: string | undefined
  readonly since?: string | undefined
  readonly until?: string | undefined
  readonly json?: boolean | undefined
}

/** `caracal-gateway verify-evidence`. */
export const verifyEvidence: Run<Options> = async (values, env) => {
  const range = {
    since: bound('since', values.since, rangeStart) ?? `${Date.now() - DAY}-0`,
    until: bound('until', values.until, rangeEnd),
  }
  if (range.until !== undefined && compareStreamIds(range.since, range.until) > 0) {
    throw new UsageError('--since must not be later than --until')
  }
  const config = loadEvidenceConfig(env)
  // What is read is garbage a moment later: a new space that grew with it would take half as much memory again.
  setFlagsFromString('--semi-space-growth-factor=1')
  const verdict = await verify(config, values.dir ?? config.auditReplayDir, range)
  process.stdout.write(values.json ? `${JSON.stringify(verdict)}\n` : report(verdict))
  return verdict.holds ? 0 : 1
}

function bound(
  name: string,
  text: string | undefined,
  read: (text: string) => string | undefined,
): string | undefined {
  const id = text === undefined ? undefined : read(text)
  if (text !== undefined && id === undefined) {
    throw new UsageError(`--${name} must be an RFC 3339 time or a stream id`)
  }
  return id
}

async function verify(
  config: EvidenceConfig,
  directory: string | undefined,
  range: Range,
): Promise<Verdict> {
  const key = config.auditHmacKey
  const proof = new Proof(key && hmacKey('AUDIT_HMAC_KEY', key.reveal()))
  const failure = new Findings()
  const fail = (error: unknown) => {
    failure.add('unreadable', AUDIT_STREAM, error instanceof Error ? error.message : 'unknown')
    return undefined
  }
  const store = await connect(config).catch(fail)
  const stream = store && new StreamReader(store, range, proof)
  let look: Look | undefined
  for (let looks = 1; looks <= LOOKS; looks += 1) {
    // The directory first: what leaves it meanwhile is found in the stream.
    look = directory === undefined ? undefined : new Look(directory, proof)
    await look?.read()
    await stream?.read().catch(fail)
    const wholeSince =
      range.until === undefined && failure.total === 0 ? stream?.wholeSince : undefined
    if (look === undefined || failure.total > 0 || settles(look, proof, wholeSince)) break
    if (looks === LOOKS && look.disturbed) {
      look.findings.add('unreadable', directory ?? '', 'is moved about while it is read: try again')
    }
    if (looks < LOOKS) await new Promise(resolve => setTimeout(resolve, LOOK_PAUSE))
  }
  store?.close()

  const all = [failure, stream?.findings, look?.findings].filter(findings => findings !== undefined)
  const open = look?.intents.filter(({ id }) => proof.seen(id) === 0) ?? []
  const alive = open.filter(intent => intent.alive)
  return {
    holds: all.every(({ total }) => total === 0),
    since: range.since,
    until: range.until ?? null,
    directory: directory ?? null,
    counts: {
      entries: proof.entries,
      events: proof.events,
      resends: proof.resends,
      unsigned: proof.unsigned,
      waiting: proof.waiting,
      open: alive.length,
      alive: look?.alive ?? 0,
      ended: look?.ended ?? 0,
      files: look?.files ?? 0,
    },
    failures: Findings.sum(all),
    findings: all.flatMap(({ kept }) => kept),
    open: alive.slice(0, LISTED),
  }
}

/**
 * Adds to a look's findings what only shows beside the stream.
 *
 * @param wholeSince Unix milliseconds from which on whatever was delivered must have been seen; undefined: nothing must
 * @returns whether nothing is left that may have been on its way
 */
function settles(look: Look, proof: Proof, wholeSince: number | undefined): boolean {
  const { findings } = look
  const before = findings.total
  for (const { id, where, alive } of look.intents) {
    if (alive || proof.seen(id) !== 0) continue
    findings.add('pending_recovery', where, 'its gateway has ended; the next tells the outcome', id)
  }
  for (const [id, { at, where }] of wholeSince === undefined ? [] : look.delivered) {
    if (at < (wholeSince ?? 0) + SKEW) continue
    if ((proof.seen(id) & (SEEN.stream | SEEN.waiting)) !== 0) continue
    findings.add('missing', where, 'was delivered, and is neither in the stream nor on disk', id)
  }
  return !look.disturbed && findings.total === before
}

function report({ findings, open, failures, counts, holds }: Verdict): string {
  const lines = findings.map(({ check, where, id, detail }) =>
    [check, where, ...(id === undefined ? [] : [id]), detail].map(printable).join('  '),
  )
  for (const [check, count] of Object.entries(failures)) {
    const more = count - findings.filter(finding => finding.check === check).length
    if (more > 0) lines.push(`${check}  ${more} more`)
  }
  for (const { where, id, requestId } of open) {
    lines.push(['open', where, id, `request ${requestId} is under way`].map(printable).join('  '))
  }
  const failed = Object.values(failures).reduce((sum, count) => sum + count, 0)
  const summary = Object.entries(counts).map(([name, count]) => `${name} ${count}`)
  lines.push(`${holds ? 'the evidence holds' : `${failed} findings`}: ${summary.join(', ')}`)
  return `${lines.join('\n')}\n`
}
