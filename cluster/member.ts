/**
 * A worker as its supervisor sees it.
 */
import cluster, { type Worker } from 'node:cluster'
import type { Family } from '../lib/metric-families.ts'
import type { UnreadyReason } from '../plugins/readiness.ts'
import { type Answer, isToSupervisor, type Question, Questions, type ToWorker } from './messages.ts'

/** What a worker has to say. */
export interface MemberEvents {
  prepared(member: Member): void
  failed(member: Member, message: string): void
  /** Its state is another. */
  changed(): void
  /** It takes connections. */
  listening(member: Member, port: number): void
  ended(member: Member, code: number | null, signal: string | null): void
  /** It asks something of all. */
  asked(question: Question): Promise<Omit<Answer, 'kind' | 'id'>>
}

/** A worker. */
export class Member {
  readonly #worker: Worker
  readonly #events: MemberEvents
  readonly #questions = new Questions()
  #ended = false
  /** `performance.now()`. */
  readonly startedAt = performance.now()
  prepared = false
  /** Whether it takes connections. */
  listening = false
  /** Why it is not ready, by its own word. */
  reason: UnreadyReason | undefined
  /** Looks since its last heartbeat. */
  silence = 0
  /** Its metrics, as it told them last. */
  figures: readonly Family[] = []

  /** Starts a process. @param texts the environment that it reads its configuration from */
  constructor(texts: Readonly<Record<string, string>>, events: MemberEvents) {
    this.#events = events
    this.#worker = cluster.fork()
    this.#worker.on('message', (message: unknown) => this.#take(message))
    this.#worker.on('listening', ({ port }) => {
      this.listening = true
      events.listening(this, port)
    })
    // Not `exit`: what it has sent is read by then.
    this.#worker.process.once('close', (code, signal) => this.#end(code, signal))
    this.#worker.on('error', () => {
      // A process that cannot be started, for want of memory say, may have no end either.
      if (this.pid === undefined) this.#end(null, null)
    })
    this.tell({ kind: 'begin', texts })
  }

  get pid(): number | undefined {
    return this.#worker.process.pid
  }

  /** Sends it a message; one that is gone gets none. */
  tell(message: ToWorker): void {
    if (this.#worker.isConnected()) this.#worker.process.send?.(message, undefined, {}, () => {})
  }

  /** @returns `undefined` when it does not answer in time. @param patience milliseconds */
  ask(question: Question, patience: number): Promise<Answer | undefined> {
    return this.#questions.ask(ask => this.tell(ask), question, patience)
  }

  /** Ends it at once. */
  kill(): void {
    this.#worker.process.kill('SIGKILL')
  }

  #end(code: number | null, signal: string | null): void {
    if (this.#ended) return
    this.#ended = true
    this.#questions.giveUp()
    this.#events.ended(this, code, signal)
  }

  #take(message: unknown): void {
    if (!isToSupervisor(message)) return
    this.silence = 0
    if (message.kind === 'prepared') {
      this.prepared = true
      this.#events.prepared(this)
    } else if (message.kind === 'failed') {
      this.#events.failed(this, message.message)
    } else if (message.kind === 'state') {
      const changed = this.reason !== message.reason
      this.reason = message.reason
      if (changed) this.#events.changed()
    } else if (message.kind === 'goodbye') {
      this.figures = message.figures
    } else if (message.kind === 'ask') {
      void this.#events
        .asked(message.question)
        .then(answer => this.tell({ ...answer, kind: 'answer', id: message.id }))
    } else {
      this.#questions.take(message)
    }
  }
}
