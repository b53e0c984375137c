// Which stage of a request's way the samples of a CPU profile belong to.
import type { Profile, ProfileNode } from './inspector.ts'

/** Time of a stage, or of a function, in microseconds. */
export interface Share {
  readonly name: string
  readonly microseconds: number
}

type Rule = readonly [pattern: RegExp, stage: string]

/** Time in which nothing was to be done. */
const IDLE = '(idle)'
/** What V8 calls what is no function of anybody's. */
const PSEUDO: ReadonlyMap<string, string> = new Map([
  ['(garbage collector)', 'garbage collection, on the main thread'],
  ['(program)', 'native code below no JavaScript: system calls, event loop'],
])
const OTHER = 'other'

/** The gateway's own files: the nearest of them on the stack owns the time, whatever it calls. */
const OWNERS: readonly Rule[] = [
  [
    /dist\/(?:hooks\/invalid-signature|plugins\/jwks|lib\/(?:zone-key-set|mandate))|\/fast-jwt\//,
    'signature',
  ],
  [/dist\/(?:hooks\/replayed|plugins\/replay)/, 'replay claim'],
  [/dist\/(?:hooks\/exchange|plugins\/sts|lib\/(?:exchange|bounded-request))/, 'exchange'],
  [
    /dist\/(?:hooks\/unsafe-upstream|plugins\/egress|routes\/proxy|lib\/(?:directive|upstream-))/,
    'egress and upstream',
  ],
  [/dist\/(?:routes\/pass-on|lib\/revoked-response)/, 'response'],
  [
    /dist\/(?:hooks\/evidence|plugins\/(?:audit|evidence)|lib\/(?:evidence|audit-event|event-form|journal))/,
    'evidence',
  ],
  [/dist\/plugins\/(?:metrics|stages|gauges)|@prometheus-io/, 'metrics'],
  [
    /dist\/(?:hooks|plugins\/(?:passage|bindings|revocations|live-requests|overload)|lib\/(?:bearer|path|bindings|revocation))/,
    'checks',
  ],
  [/dist\/(?:plugins\/connections|listener|lib\/request-line)/, 'accept and parse'],
]

/** Packages and Node.js itself: they own what no file of the gateway's does, because a socket or a timer called them. */
const CLIENTS: readonly Rule[] = [
  [/\/undici\//, 'HTTP client: exchange or upstream'],
  [/\/ioredis\/|\/redis-parser\/|dist\/plugins\/store/, 'Redis client: claims and evidence'],
  [/\/reply-from\/|\/fastify\/lib\/reply|node:_http_outgoing/, 'response'],
  [/\/fastify\/|\/find-my-way\/|node:_http_(?:server|incoming|common)/, 'accept and parse'],
  [/\/pino\/|dist\/lib\/log/, 'log'],
]

/** Where the time of a profile went: by stage, and by function. Time without work is left out. */
export function sharesOf(profile: Profile): { stages: Share[]; functions: Share[] } {
  const nodes = new Map(profile.nodes.map(node => [node.id, node]))
  const parents = new Map<number, ProfileNode>()
  for (const node of profile.nodes)
    for (const child of node.children ?? []) parents.set(child, node)
  const owners = new Map<number, string>()
  const stages = new Map<string, number>()
  const functions = new Map<string, number>()
  for (const [index, id] of profile.samples.entries()) {
    const node = nodes.get(id)
    if (node === undefined || node.callFrame.functionName === IDLE) continue
    const spent = profile.timeDeltas[index] ?? 0
    const stage = owners.get(id) ?? stageOf(node, parents)
    owners.set(id, stage)
    stages.set(stage, (stages.get(stage) ?? 0) + spent)
    const name = nameOf(node)
    functions.set(name, (functions.get(name) ?? 0) + spent)
  }
  return { stages: largestFirst(stages), functions: largestFirst(functions) }
}

function stageOf(leaf: ProfileNode, parents: ReadonlyMap<number, ProfileNode>): string {
  const pseudo = PSEUDO.get(leaf.callFrame.functionName)
  if (pseudo !== undefined) return pseudo
  let client: string | undefined
  for (let node: ProfileNode | undefined = leaf; node !== undefined; node = parents.get(node.id)) {
    const { url } = node.callFrame
    const owner = match(OWNERS, url)
    if (owner !== undefined) return owner
    client ??= match(CLIENTS, url)
  }
  return client ?? OTHER
}

function match(rules: readonly Rule[], url: string): string | undefined {
  return rules.find(([pattern]) => pattern.test(url))?.[1]
}

/** Function and file, without the way to it. */
function nameOf({ callFrame: { functionName, url, lineNumber } }: ProfileNode): string {
  const file = url.replace(/^.*\/(?=dist\/|node_modules\/)/, '').replace('node_modules/', '')
  const place = file === '' ? '' : ` ${file}:${lineNumber + 1}`
  return `${functionName || '(anonymous)'}${place}`
}

function largestFirst(times: ReadonlyMap<string, number>): Share[] {
  return [...times]
    .map(([name, microseconds]) => ({ name, microseconds }))
    .toSorted((a, b) => b.microseconds - a.microseconds)
}
