/**
 * A worker: one gateway of several that are one service. It ends in order when its supervisor says so, when the supervisor
 * is gone, or by a SIGTERM of its own.
 */
import cluster from 'node:cluster'
import { createGateway } from '../app.ts'
import { type Config, loadConfig, workerShare } from '../config.ts'
import { boundHeap, settleHeap } from '../heap.ts'
import { isSupportedNode } from '../lib/node-version.ts'
import { BROKEN, type End, ENDING, endInOrder, listen } from '../lifetime.ts'
import { SupervisorLink } from './supervisor-link.ts'

const supported = isSupportedNode(process.versions.node)
if (supported) boundHeap()
// A terminal sends these to all processes of the group: the supervisor hears them too, and tells.
for (const signal of ENDING) process.on(signal, () => undefined)
process.on('SIGTERM', leave)
const link = new SupervisorLink()
link.onDrain = leave
// Node.js would end a worker whose supervisor is gone at once, in the middle of its requests.
if (cluster.worker !== undefined) cluster.worker.exitedAfterDisconnect = true
// What it names may have changed since the service started.
const config = await link.texts.then(loadConfig).then(workerShare).catch(startFailed)
const app = await createGateway(config).catch(startFailed)
const end = endInOrder(app, config, [...BROKEN, ...ENDING])
process.off('SIGTERM', leave).on('SIGTERM', () => end.begin())
link.onDrain = () => end.begin()
app.service.join(link)
await serve(config, end)

async function serve({ host }: Config, ending: End): Promise<void> {
  try {
    await app.ready()
    link.watch(() => app.readiness.reason())
    link.onAsk = async question =>
      question === 'reload'
        ? { revocations: await app.revocations.reload() }
        : { figures: await app.meters.registry.getMetricsAsJSON() }
    const port = await link.prepared()
    await listen(app, { host, port }, ending, address => `worker takes connections at ${address}`)
  } catch (error) {
    if (ending.begun) return
    await startFailed(error instanceof Error ? error : new Error(String(error)))
  }
  if (supported) settleHeap()
}

/** Until there is something to be drained. */
function leave(): void {
  process.exit(0)
}

async function startFailed({ message }: Error): Promise<never> {
  await link.failed(message)
  process.exit(1)
}
