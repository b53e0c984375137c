/**
 * The supervisor as a worker sees it. One that is gone, or does not answer, costs a worker neither its requests nor its end.
 */
import type { Family } from '../lib/metric-families.ts'
import type { UnreadyReason } from '../plugins/readiness.ts'
import type { Workers } from '../plugins/service.ts'
import { type Answer, isToWorker, type Question, Questions, type ToSupervisor } from './messages.ts'

/** Milliseconds between two looks at the own state, and the looks between two heartbeats. */
const LOOK_INTERVAL = 100
const LOOKS_PER_HEARTBEAT = 5
/** Milliseconds for which what the supervisor told of the service counts. */
const STATE_AGE = 3_000
/** Milliseconds for an answer of the supervisor, which itself waits for the other workers. */
const FIGURES_PATIENCE = 2_000
/** A reload reads whole streams or tables, and is bounded by the time-outs of what it reads from. */
const RELOAD_PATIENCE = 60_000

/** The channel to the supervisor. */
export class SupervisorLink implements Workers {
  /** The environment that the configuration is read from. */
  readonly texts: Promise<Readonly<Record<string, string>>>
  /** The service ends, or the supervisor is gone. */
  onDrain: () => void = () => undefined
  /** Answers what the supervisor asks. */
  onAsk: (question: Question) => Promise<Omit<Answer, 'kind' | 'id'>> = async () => ({})
  readonly #questions = new Questions()
  readonly #port: Promise<number>
  #draining = false
  #reason: UnreadyReason | undefined
  #toldAt = -Infinity

  constructor() {
    const texts = Promise.withResolvers<Readonly<Record<string, string>>>()
    const port = Promise.withResolvers<number>()
    this.texts = texts.promise
    this.#port = port.promise
    process.on('message', (message: unknown) => {
      if (!isToWorker(message)) return
      if (message.kind === 'begin') texts.resolve(message.texts)
      else if (message.kind === 'listen') port.resolve(message.port)
      else if (message.kind === 'drain') this.#drain()
      else if (message.kind === 'state') this.#take(message.reason)
      else if (message.kind === 'ask') void this.#answer(message.id, message.question)
      else this.#questions.take(message)
    })
    process.once('disconnect', () => {
      this.#questions.giveUp()
      this.#drain()
    })
  }

  /** The gateway cannot start; resolves when the supervisor can know. */
  failed(message: string): Promise<void> {
    return this.#send({ kind: 'failed', message })
  }

  /** The gateway can listen. @returns the port, once it is to */
  async prepared(): Promise<number> {
    await this.#send({ kind: 'prepared' })
    return this.#port
  }

  /** Tells the supervisor of every change of the own state from now on. */
  watch(own: () => UnreadyReason | undefined): void {
    let looks = 0
    let last: UnreadyReason | undefined
    const look = () => {
      const reason = own()
      if (reason !== last || looks % LOOKS_PER_HEARTBEAT === 0) {
        void this.#send({ kind: 'state', reason })
      }
      looks += 1
      last = reason
    }
    // At once: nobody may take it for ready before it has said so.
    look()
    setInterval(look, LOOK_INTERVAL).unref()
  }

  reason(own: UnreadyReason | undefined): UnreadyReason | undefined {
    if (this.#draining) return 'draining'
    return performance.now() - this.#toldAt < STATE_AGE ? this.#reason : own
  }

  async figures(): Promise<readonly Family[]> {
    const answer = await this.#ask('figures', FIGURES_PATIENCE)
    if (answer?.figures === undefined) throw new Error('the supervisor does not answer')
    return answer.figures
  }

  async reload(): Promise<number> {
    const answer = await this.#ask('reload', RELOAD_PATIENCE)
    if (answer?.revocations === undefined) {
      throw new Error('not every worker has read the revocations again')
    }
    return answer.revocations
  }

  goodbye(figures: readonly Family[]): Promise<void> {
    return this.#send({ kind: 'goodbye', figures })
  }

  #ask(question: Question, patience: number): Promise<Answer | undefined> {
    return this.#questions.ask(ask => void this.#send(ask), question, patience)
  }

  async #answer(id: number, question: Question): Promise<void> {
    const answer = await this.onAsk(question).catch(() => ({}))
    await this.#send({ ...answer, kind: 'answer', id })
  }

  #take(reason: UnreadyReason | undefined): void {
    this.#reason = reason
    this.#toldAt = performance.now()
  }

  #drain(): void {
    this.#draining = true
    this.onDrain()
  }

  /** Resolves when it is sent, or cannot be any more: whoever is gone need not know. */
  async #send(message: ToSupervisor): Promise<void> {
    if (!process.connected) return
    await new Promise<void>(resolve => process.send?.(message, undefined, {}, () => resolve()))
  }
}
