/**
 * What the supervisor and its workers tell each other.
 */
import type { Family } from '../lib/metric-families.ts'
import type { UnreadyReason } from '../plugins/readiness.ts'

/** What is asked of a worker, and by a worker of all. */
export type Question = 'figures' | 'reload'

/** A question; whoever is asked answers with the same id. */
export interface Ask {
  readonly kind: 'ask'
  readonly id: number
  readonly question: Question
}

/** An answer; without what was asked for when that failed. */
export interface Answer {
  readonly kind: 'answer'
  readonly id: number
  readonly figures?: readonly Family[] | undefined
  /** Anchors that are revoked. */
  readonly revocations?: number | undefined
}

/** Why somebody is not ready; without a reason when ready. Told on every change, and as a heartbeat. */
export interface State {
  readonly kind: 'state'
  readonly reason?: UnreadyReason | undefined
}

/** From the supervisor to a worker. */
export type ToWorker =
  /** The first message: the environment that the configuration is read from. */
  | { readonly kind: 'begin'; readonly texts: Readonly<Record<string, string>> }
  | { readonly kind: 'listen'; readonly port: number }
  /** The service ends. */
  | { readonly kind: 'drain' }
  /** The service's. */
  | State
  | Ask
  | Answer

/** From a worker to the supervisor. */
export type ToSupervisor =
  /** All that it needs is there: it can listen. */
  | { readonly kind: 'prepared' }
  | { readonly kind: 'failed'; readonly message: string }
  /** Its own. */
  | State
  /** It ends: its last metrics. */
  | { readonly kind: 'goodbye'; readonly figures: readonly Family[] }
  | Ask
  | Answer

/** Whether a message of the channel is one of these; Node.js has messages of its own on it. */
export function isToWorker(message: unknown): message is ToWorker {
  return ['begin', 'listen', 'drain', 'state', 'ask', 'answer'].includes(kindOf(message))
}

/** As {@link isToWorker}. */
export function isToSupervisor(message: unknown): message is ToSupervisor {
  return ['prepared', 'failed', 'state', 'goodbye', 'ask', 'answer'].includes(kindOf(message))
}

function kindOf(message: unknown): string {
  if (typeof message !== 'object' || message === null || !('kind' in message)) return ''
  return String(message.kind)
}

/** Questions that wait for their answers. */
export class Questions {
  readonly #waiting = new Map<number, (answer: Answer | undefined) => void>()
  #asked = 0

  /**
   * Asks.
   *
   * @param send takes the question; whoever is asked may be gone
   * @param patience milliseconds
   * @returns `undefined` when no answer comes in time, or none can come any more
   */
  ask(send: (ask: Ask) => void, question: Question, patience: number): Promise<Answer | undefined> {
    const id = this.#asked
    this.#asked += 1
    const { promise, resolve } = Promise.withResolvers<Answer | undefined>()
    this.#waiting.set(id, resolve)
    const timer = setTimeout(resolve, patience, undefined)
    send({ kind: 'ask', id, question })
    return promise.finally(() => {
      clearTimeout(timer)
      this.#waiting.delete(id)
    })
  }

  /** An answer has come. */
  take(answer: Answer): void {
    this.#waiting.get(answer.id)?.(answer)
  }

  /** None will come. */
  giveUp(): void {
    for (const resolve of this.#waiting.values()) resolve(undefined)
  }
}
