/**
 * Guarantees that a request in flight ends as soon as one of its mandate's anchors is revoked, whatever it waits for
 * (contract section 6).
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { Denial } from '../denial.ts'
import { anchorClaim, LiveIndex } from '../lib/live-index.ts'
import { RevocationReceipt } from '../lib/revocation-receipt.ts'
import {
  endRevoked,
  isOpenEventStream,
  mayHaveBody,
  revokedEvent,
} from '../lib/revoked-response.ts'
import type { UpstreamCall } from '../lib/upstream-call.ts'
import type { Check, Passage } from './passage.ts'

declare module 'fastify' {
  interface FastifyInstance {
    liveRequests: LiveRequests
  }
}

/** The requests that a revocation can still reach. */
export interface LiveRequests {
  /** Registers a request until its response closes. Belongs right behind the check `revoked`. */
  enter: Check
  /** Counts a response as an open stream until it closes: its headers go out now. */
  open(reply: FastifyReply): void
  /** Does what a request that was revoked leaves to be done: at once, or when no caller waits any more to be cut. */
  afterwards(work: () => void): void
  /** Responses whose headers are out and whose body is not. */
  readonly streams: number
  /** Anchors that a request in flight stands under. */
  readonly anchors: number
}

interface Live {
  readonly request: FastifyRequest
  readonly passage: Passage
  readonly reply: FastifyReply
}

/** Milliseconds of cutting at a time: others get their turn in between. */
const SLICE = 3

async function liveRequests(app: FastifyInstance): Promise<void> {
  const index = new LiveIndex<Live>()
  const revoked: Live[] = []
  /** Calls that are cut and whose connections are still to be closed. */
  const calls: UpstreamCall[] = []
  /** What else the cuts have left to be done: half of what a cut costs is its evidence. */
  const left: (() => void)[] = []
  let working = false
  let streams = 0

  app.decorate('liveRequests', {
    get streams() {
      return streams
    },
    get anchors() {
      return index.size
    },
    enter(request, passage, reply) {
      const { anchors } = request.mandate
      const live = { request, passage, reply }
      index.add(anchors, live)
      reply.raw.once('close', () => index.delete(anchors, live))
    },
    afterwards(work) {
      if (working) left.push(work)
      else work()
    },
    open({ raw }) {
      streams += 1
      raw.once('close', () => {
        streams -= 1
      })
    },
  } satisfies LiveRequests)

  app.revocations.onRevoked(({ kind, id, revokedAt }) => {
    // One for all: it tells nothing of the request.
    let refusal: Denial | undefined
    for (const live of index.under(kind, id)) {
      const { passage, request } = live
      if (passage.revocation !== undefined) continue
      // All of them at once, so that none gets any further until its turn comes.
      const anchor = anchorClaim(request.mandate.anchors, kind, id)
      refusal ??= new Denial('revoked')
      passage.revoke(new RevocationReceipt(anchor, revokedAt), refusal)
      passage.call?.hold()
      revoked.push(live)
    }
    if (working || !pending()) return
    working = true
    setImmediate(work)
  })

  const pending = () => revoked.length > 0 || calls.length > 0 || left.length > 0

  /** Callers come first: what reached them cannot be taken back, and nothing of their upstreams reaches them. */
  function step(): void {
    const live = revoked.pop()
    if (live !== undefined) cut(live)
    else if (calls.length > 0) calls.pop()?.close()
    else left.pop()?.()
  }

  function work(deadline = performance.now() + SLICE): void {
    try {
      step()
    } finally {
      // What goes wrong with one must not spare the others.
      working = pending()
      // Most of a cut is done by ticks that it leaves behind: they count as well.
      if (working) process.nextTick(goOn, deadline)
    }
  }

  function goOn(deadline: number): void {
    if (performance.now() < deadline) work(deadline)
    else setImmediate(work)
  }

  // Every response is over by now, and its evidence is to be there before the audit closes: the last to be registered is
  // the first to be closed.
  app.addHook('onClose', async () => {
    while (pending()) step()
  })

  function cut(live: Live): void {
    const { request, passage, reply } = live
    const { answer, call, interruption } = passage
    // Over, or refused already: there is nothing left to end.
    if (passage.closed || passage.denial !== undefined || interruption === undefined) return
    const rewritten = passage.extension?.rewritten
    if (call === undefined) {
      // The answer of a plugin's own route, under way.
      if (passage.own && reply.raw.headersSent) reply.raw.destroy()
      else passage.abandon()
    } else if (answer === undefined) call.abort(interruption)
    // All of it is on its way, or a team's hook still looks at it.
    else if (Buffer.isBuffer(answer.body) && rewritten === undefined) {
      if (!reply.raw.headersSent) reply.raw.destroy()
    }
    // Fastify makes a refusal of a body that fails before the headers are out.
    else if (!reply.raw.headersSent) {
      if (rewritten !== undefined) rewritten.destroy(interruption)
      else if (!Buffer.isBuffer(answer.body)) answer.body.destroy(interruption)
    } else if (mayHaveBody(request.method, answer.statusCode)) cutBody(live, call, interruption)
  }

  function cutBody({ request, passage, reply }: Live, call: UpstreamCall, refusal: Denial): void {
    const { raw } = reply
    // Before the cut, which reads on for nobody: what is dropped has not begun a line at the caller.
    const { lastByte } = passage
    passage.revocation?.stamp(Date.now())
    app.meters.count('streams_revoked')
    calls.push(call)
    const rewritten = passage.extension?.rewritten
    rewritten?.cut()
    const end = () => {
      const { error, description } = refusal
      const facts = { error, error_description: description, requestId: request.id }
      const event = isOpenEventStream(raw) ? revokedEvent(lastByte, facts) : undefined
      endRevoked(raw, event, bytes => call.drop(bytes))
    }
    // Of an answer that came at once nothing is left but what the plugins make of it.
    if (Buffer.isBuffer(passage.answer?.body)) end()
    else call.cut(end)
  }
}

export default fp(liveRequests, {
  name: 'live-requests',
  fastify: '5.x',
  dependencies: ['audit', 'metrics', 'passage', 'revocations'],
})
