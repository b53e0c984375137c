// In place of reply-from, for one rung of the ladder: the gateway's own call by undici's `dispatch`, its answer written
// into the raw response past the framework. It bypasses `onSend` and what a revoked stream ends with: nothing to be
// shipped, a measure of what reply-from costs.
import type { OutgoingHttpHeaders } from 'node:http'
import type { Readable } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'

interface Answer {
  readonly statusCode: number
  readonly headers: OutgoingHttpHeaders
  readonly body: Readable
}

interface Options {
  readonly undici: {
    request(request: { headers: object }, respond: (error: null, answer: Answer) => void): void
  }
}

async function dispatchReply(app: FastifyInstance, { undici }: Options): Promise<void> {
  app.decorateReply('from', function from(_source, call) {
    const headers = call?.rewriteRequestHeaders?.(this.request, {}) ?? {}
    undici.request({ headers }, (_error, answer) => {
      void this.hijack()
      this.raw.writeHead(answer.statusCode, answer.headers)
      answer.body.pipe(this.raw)
    })
    return this
  })
}

export default fp(dispatchReply, { name: 'dispatch-reply', fastify: '5.x' })
