/**
 * Measures the stages of a request's way: each has a duration in the metrics and, in a trace, a span.
 */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { TraceContext } from '../lib/trace.ts'
import type { Stage } from './metrics.ts'
import type { Passage } from './passage.ts'

declare module 'fastify' {
  interface FastifyInstance {
    stages: Stages
  }
}

/** Where stages are measured. */
export interface Stages {
  /** Begins a stage; it has to be ended, however it ends. */
  begin(passage: Passage, stage: Stage): StageUnderWay
}

/** A stage that has begun. */
export interface StageUnderWay {
  /** The context that goes on to whom the stage calls; `undefined` while nothing is traced. */
  readonly trace: TraceContext | undefined
  /** Ends the stage, with the HTTP status that answered it, if one did. */
  end(status?: number): void
  /** Ends the stage by what went wrong with it. */
  fail(error: unknown): void
}

async function stages(app: FastifyInstance): Promise<void> {
  app.decorate('stages', {
    begin(passage, stage) {
      const startedAt = performance.now()
      const span = passage.spans?.begin(stage)
      const measure = () => {
        const milliseconds = performance.now() - startedAt
        passage.durations[stage] = Math.round(milliseconds * 10) / 10
        app.meters.stage(stage, milliseconds / 1000, passage.spans?.exemplar)
      }
      return {
        trace: span?.trace,
        end(status) {
          measure()
          span?.end(status)
        },
        fail(error) {
          measure()
          span?.fail(error)
        },
      }
    },
  } satisfies Stages)
}

export default fp(stages, { name: 'stages', fastify: '5.x', dependencies: ['metrics'] })
