/**
 * Runs `WORKERS` gateways as processes on one port, and keeps them running: who ends is replaced, and whichever of them is
 * asked answers for all (contract section 9).
 */
import cluster from 'node:cluster'
import { extname, join } from 'node:path'
import closeWithGrace from 'close-with-grace'
import type { Logger } from 'pino'
import type { Config } from '../config.ts'
import { LogOutput } from '../lib/log-output.ts'
import { createLogger } from '../lib/logger.ts'
import { type Family, mergeFamilies, totals } from '../lib/metric-families.ts'
import { BROKEN } from '../lifetime.ts'
import { UNREADY_REASONS, type UnreadyReason } from '../plugins/readiness.ts'
import { Member } from './member.ts'
import type { Answer, Question } from './messages.ts'

/** Milliseconds between two looks, and two heartbeats to the workers. */
const LOOK_INTERVAL = 500
/** Looks without a heartbeat after which a worker does not count for readiness. */
const QUIET_LOOKS = 6
/** And after which it is ended: nobody else sees that one of several workers hangs. Looks, for a machine may sleep. */
const HUNG_LOOKS = 60
/** Milliseconds for a worker's metrics; then its last ones count. */
const FIGURES_PATIENCE = 500
/** A reload is bounded by the time-outs of what it reads from. */
const RELOAD_PATIENCE = 50_000
/** Milliseconds until a worker is started again, at first and at last. */
const FIRST_DELAY = 100
const LAST_DELAY = 10_000
/** Milliseconds that a worker has to live for its next end to count as its first. */
const LONG_LIFE = 60_000

/**
 * Serves by `config.workers` processes until SIGTERM or SIGINT; the process ends with it.
 *
 * @param texts what the workers read their configuration from, which is `config`
 */
export async function supervise(
  config: Config,
  texts: Readonly<Record<string, string>>,
): Promise<void> {
  const output = new LogOutput()
  const log = createLogger(config.logLevel, output)
  output.onRoom = lines => log.warn({ lines }, 'log lines were dropped: their reader is slow')
  const supervisor = new Supervisor(config, texts, log)
  // Whatever ends this process, nobody may be left to serve without it.
  process.once('exit', () => supervisor.kill())
  closeWithGrace(
    { delay: config.shutdownTimeout, logger: log, skip: [...BROKEN] },
    async ({ err: error, signal }: { err?: Error | undefined; signal?: string | undefined }) => {
      if (error === undefined) log.info({ signal }, 'draining')
      else log.fatal({ err: error }, 'stopping after an unexpected error')
      await supervisor.drain()
      log.info('stopped')
    },
  )
  supervisor.start()
}

/** A worker's place: who holds it, and how often its holders have ended soon. */
interface Seat {
  member: Member | undefined
  failures: number
}

class Supervisor {
  readonly #config: Config
  readonly #texts: Readonly<Record<string, string>>
  readonly #log: Logger
  readonly #seats: readonly Seat[]
  readonly #startedAt = Date.now() / 1_000
  /** What `PORT` 0 has become. */
  #port: number | undefined
  /** The port that the workers ask for: those that ask for the same share it. */
  #asked: number
  /** Whether the service was up once: from then on a worker that ends is replaced. */
  #up = false
  #stopping = false
  /** What ended workers have counted. */
  #totals: readonly Family[] = []
  #restarts = 0
  #evidenceLost = false
  #told: UnreadyReason | undefined
  /** The workers that did not end as they were told. */
  #failed = 0
  #onEmpty: () => void = () => undefined

  constructor(config: Config, texts: Readonly<Record<string, string>>, log: Logger) {
    this.#config = config
    this.#texts = texts
    this.#log = log
    this.#asked = config.port
    this.#seats = Array.from({ length: config.workers }, () => ({ member: undefined, failures: 0 }))
  }

  /** Starts the workers, which listen when all are prepared. */
  start(): void {
    cluster.setupPrimary({
      exec: join(import.meta.dirname, `worker${extname(import.meta.filename)}`),
      args: [],
      // JSON has no infinity, which metrics have.
      serialization: 'advanced',
    })
    // Workers that accept from one socket divide kept-alive connections as chance has it, and all to one at times.
    cluster.schedulingPolicy = cluster.SCHED_RR
    for (const seat of this.#seats) this.#fill(seat)
    setInterval(() => this.#look(), LOOK_INTERVAL).unref()
  }

  /** Ends all workers in order. @throws Error when one of them did not manage */
  async drain(): Promise<void> {
    this.#stopping = true
    const { promise: empty, resolve } = Promise.withResolvers<void>()
    this.#onEmpty = resolve
    for (const member of this.#members) member.tell({ kind: 'drain' })
    if (this.#members.length > 0) await empty
    if (this.#failed > 0) throw new Error(`${this.#failed} of the workers did not stop in order`)
  }

  /** Ends all workers at once. */
  kill(): void {
    for (const member of this.#members) member.kill()
  }

  get #members(): Member[] {
    return this.#seats.flatMap(({ member }) => member ?? [])
  }

  #fill(seat: Seat): void {
    seat.member = new Member(this.#texts, {
      prepared: member => this.#prepared(member),
      failed: (member, message) => this.#startFailed(member, message),
      changed: () => this.#tell(),
      listening: (member, port) => this.#listening(member, port),
      ended: (member, code, signal) => this.#ended(seat, member, code, signal),
      asked: question => this.#ask(question),
    })
  }

  #prepared(member: Member): void {
    if (this.#stopping) return
    if (this.#up) this.#listen(member)
    else if (this.#members.every(({ prepared }) => prepared)) {
      for (const each of this.#members) this.#listen(each)
    }
  }

  #listen(member: Member): void {
    member.tell({ kind: 'listen', port: this.#asked })
  }

  #listening(member: Member, port: number): void {
    this.#port ??= port
    this.#tell()
    if (this.#up) {
      this.#log.info({ worker: member.pid }, 'a worker was replaced')
      return
    }
    if (!this.#members.every(({ listening }) => listening)) return
    this.#up = true
    const { host, tlsCertFile } = this.#config
    const authority = `${host.includes(':') ? `[${host}]` : host}:${port}`
    const scheme = tlsCertFile === undefined ? 'http' : 'https'
    this.#log.info(
      { workers: this.#members.map(({ pid }) => pid) },
      `Server listening at ${scheme}://${authority}`,
    )
  }

  #startFailed(member: Member, message: string): void {
    if (this.#up) this.#log.error({ worker: member.pid, reason: message }, 'a worker cannot start')
    else if (!this.#stopping) this.#giveUp(message)
  }

  /** What keeps the first workers from their start keeps any from it: that is for whoever started this. */
  #giveUp(message: string): never {
    process.stderr.write(`the gateway cannot start: ${message}\n`)
    process.exit(1)
  }

  #ended(seat: Seat, member: Member, code: number | null, signal: string | null): void {
    seat.member = undefined
    this.#totals = mergeFamilies([this.#totals, totals(member.figures)])
    if (this.#members.length === 0) {
      this.#asked = this.#port ?? this.#asked
    }
    if (this.#stopping) {
      // One that has not got so far has nothing to lose.
      if (code !== 0 && member.prepared) this.#failed += 1
      if (this.#members.length === 0) this.#onEmpty()
      return
    }
    if (!this.#up) this.#giveUp(`a worker ended early (${signal ?? `status ${code}`})`)
    this.#tell()
    if (performance.now() - member.startedAt >= LONG_LIFE) seat.failures = 0
    const milliseconds = this.#again(seat)
    this.#log[code === 0 ? 'info' : 'error'](
      { worker: member.pid, code, signal, milliseconds },
      'a worker ended and is started again',
    )
  }

  /** Fills a seat again, later and later. @returns the milliseconds until then */
  #again(seat: Seat): number {
    const longest = Math.min(LAST_DELAY, FIRST_DELAY * 2 ** seat.failures)
    const delay = Math.round(longest * (0.5 + Math.random() / 2))
    seat.failures += 1
    setTimeout(() => this.#restart(seat), delay)
    return delay
  }

  #restart(seat: Seat): void {
    if (this.#stopping) return
    this.#restarts += 1
    try {
      this.#fill(seat)
    } catch (error) {
      // The system has no process to give.
      this.#log.error({ err: error, milliseconds: this.#again(seat) }, 'a worker cannot be started')
    }
  }

  #look(): void {
    for (const member of this.#members) {
      if (!member.listening) continue
      member.silence += 1
      if (member.silence !== HUNG_LOOKS) continue
      this.#log.error({ worker: member.pid }, 'a worker hangs and is ended')
      member.kill()
    }
    this.#tell(true)
  }

  /** Tells the workers of the service's state. @param anyway also when they know */
  #tell(anyway = false): void {
    if (this.#stopping) return
    const reason = this.#reason()
    if (!anyway && reason === this.#told) return
    this.#told = reason
    for (const member of this.#members) member.tell({ kind: 'state', reason })
  }

  /**
   * Ready when every worker is that takes connections: whoever is not ready gets its share of the callers. One that is gone,
   * hangs or drains gets none.
   */
  #reason(): UnreadyReason | undefined {
    const serving = this.#members.filter(
      ({ listening, silence, reason }) =>
        listening && silence < QUIET_LOOKS && reason !== 'draining',
    )
    const reasons = new Set(serving.map(({ reason }) => reason))
    // It is lost for good, whatever becomes of the worker that lost it.
    this.#evidenceLost ||= reasons.has('audit_evidence_lost')
    if (this.#evidenceLost) reasons.add('audit_evidence_lost')
    if (serving.length === 0) reasons.add('draining')
    return UNREADY_REASONS.find(reason => reasons.has(reason))
  }

  async #ask(question: Question): Promise<Omit<Answer, 'kind' | 'id'>> {
    try {
      return question === 'reload'
        ? { revocations: await this.#reload() }
        : { figures: await this.#figures() }
    } catch (error) {
      this.#log.error({ err: error, question }, 'the workers cannot be asked')
      return {}
    }
  }

  async #figures(): Promise<Family[]> {
    const members = this.#members
    await Promise.all(
      members.map(async member => {
        const answer = await member.ask('figures', FIGURES_PATIENCE)
        if (answer?.figures !== undefined) member.figures = answer.figures
      }),
    )
    // One that ended meanwhile is in the totals.
    const living = this.#members.map(({ figures }) => figures)
    return mergeFamilies([this.#own(), this.#totals, ...living])
  }

  /** The supervisor's own metrics, and what only it knows. */
  #own(): Family[] {
    const { user, system } = process.cpuUsage()
    const [userSeconds, systemSeconds] = [user / 1e6, system / 1e6]
    return [
      family('caracal_gateway_ready', 'Whether /ready answers 200', 'gauge', 'first', [
        Number(this.#reason() === undefined),
      ]),
      family('caracal_gateway_workers', 'Processes that serve', 'gauge', 'first', [
        this.#members.filter(({ listening }) => listening).length,
      ]),
      family('caracal_gateway_worker_restarts_total', 'Workers started again', 'counter', 'sum', [
        this.#restarts,
      ]),
      family('process_start_time_seconds', 'Start of the service', 'gauge', 'first', [
        this.#startedAt,
      ]),
      family('process_resident_memory_bytes', 'Resident memory size in bytes.', 'gauge', 'sum', [
        process.memoryUsage.rss(),
      ]),
      family('process_cpu_user_seconds_total', 'User CPU time in seconds.', 'counter', 'sum', [
        userSeconds,
      ]),
      family('process_cpu_system_seconds_total', 'System CPU time in seconds.', 'counter', 'sum', [
        systemSeconds,
      ]),
      family('process_cpu_seconds_total', 'CPU time in seconds.', 'counter', 'sum', [
        userSeconds + systemSeconds,
      ]),
    ]
  }

  /** @returns `undefined` when one of those that serve did not manage */
  async #reload(): Promise<number | undefined> {
    const counts = await Promise.all(
      this.#members
        .filter(({ listening }) => listening)
        .map(async member => {
          const answer = await member.ask('reload', RELOAD_PATIENCE)
          // One that ended has nothing that would be old: its successor reads everything.
          return this.#members.includes(member) ? answer?.revocations : 0
        }),
    )
    const known = counts.filter(count => count !== undefined)
    return known.length === counts.length ? Math.max(...known) : undefined
  }
}

function family(
  name: string,
  help: string,
  type: 'counter' | 'gauge',
  aggregator: 'first' | 'sum',
  values: readonly number[],
): Family {
  return { name, help, type, aggregator, values: values.map(value => ({ value, labels: {} })) }
}
