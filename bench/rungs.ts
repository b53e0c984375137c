// The rungs of the ladder: what the gateway is compared with, and the gateway with one group of checks more at a time.
import type { Cleanup } from '../test/redis.ts'
import { findNginx, startNginx } from './nginx.ts'
import type { Stage } from './stage.ts'
import { startBare, startGateway, type Subject } from './subject.ts'

/** What is known of a rung before it runs. */
export interface Rung {
  readonly name: string
  readonly title: string
  /** Whether it spends the mandates that it is given. */
  readonly spends: boolean
  /** Resolves to undefined where it cannot be had. */
  readonly start: (ends: Cleanup, stage: Stage) => Promise<Subject | undefined>
}

/** The rung that all others are multiples of. */
export const BASE = 'reply-from'
/** The rung that is shipped. */
export const WHOLE = 'strict'

/** Checks that a rung without them has a stand-in for, in the order in which they run. */
const PARTS = [
  'hooks/invalid-signature.js',
  'hooks/replayed.js',
  'hooks/exchange.js',
  'hooks/unsafe-upstream.js',
  'hooks/evidence-unavailable.js',
] as const

function standIns(modules: readonly string[]): Record<string, string> {
  return Object.fromEntries(modules.map(module => [module, 'stand-ins.ts']))
}

function gateway(replaced: Record<string, string> | undefined, env: Record<string, string> = {}) {
  return (ends: Cleanup, stage: Stage) =>
    startGateway(ends, { ...stage.env, AUDIT_DURABILITY: 'strict', ...env }, { replaced })
}

/** All rungs, each of the gateway's with one part more than the one before it. */
export const RUNGS: readonly Rung[] = [
  {
    name: 'fastify',
    title: 'bare Fastify reply',
    spends: false,
    start: ends => startBare(ends),
  },
  {
    name: BASE,
    title: 'bare reply-from',
    spends: false,
    start: (ends, { upstream }) => startBare(ends, upstream),
  },
  {
    name: 'nginx',
    title: 'nginx proxy_pass',
    spends: false,
    async start(ends, { folder, upstream }) {
      const nginx = findNginx()
      return nginx && startNginx(ends, nginx, folder, upstream)
    },
  },
  {
    name: 'framework',
    title: 'gateway: framework and proxy',
    spends: false,
    start: gateway(standIns(['hooks/index.js'])),
  },
  {
    name: 'local',
    title: '+ checks of request, claims, binding',
    spends: false,
    start: gateway(standIns(PARTS)),
  },
  {
    name: 'signature',
    title: '+ signature',
    spends: false,
    start: gateway(standIns(PARTS.slice(1))),
  },
  {
    name: 'replay',
    title: '+ spending the jti',
    spends: true,
    start: gateway(standIns(PARTS.slice(2))),
  },
  {
    name: 'exchange',
    title: '+ exchange and egress',
    spends: true,
    start: gateway(standIns(PARTS.slice(4))),
  },
  {
    name: WHOLE,
    title: '+ strict evidence: the whole path',
    spends: true,
    start: gateway(undefined),
  },
  {
    name: 'relaxed',
    title: 'whole path, relaxed evidence',
    spends: true,
    start: gateway(undefined, { AUDIT_DURABILITY: 'relaxed' }),
  },
  {
    name: 'dispatch',
    title: 'whole path, undici dispatch (not shipped)',
    spends: true,
    start: gateway({ '@fastify/reply-from': 'dispatch-reply.ts' }),
  },
]
