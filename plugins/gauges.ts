/**
 * Shows the state of what the gateway holds as gauges, read when somebody asks (contract section 11).
 */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'

/** What happened last, for gauges that show no present state. */
export interface LastSeen {
  /** Milliseconds. */
  exchangeLatency: number
  /** Seconds. */
  revocationPropagation: number
}

async function gauges(app: FastifyInstance, { lastSeen }: { lastSeen: LastSeen }): Promise<void> {
  const { meters, sts, audit, revocations, bindings, database, overload, liveRequests } = app
  meters.gauge(
    'ready',
    'Whether /ready answers 200',
    () => Number(app.readiness.reason() === undefined),
    'min',
  )
  // By itself it is one; the supervisor of several knows how many there are, and how often one was started again.
  meters.gauge('workers', 'Processes that serve', () => 1, 'sum')
  meters.gauge(
    'sts_exchange_latency_ms',
    'Duration of the last exchange',
    () => lastSeen.exchangeLatency,
    'max',
  )
  meters.gauge(
    'sts_circuit_open',
    'Whether the STS circuit is open',
    () => Number(sts.circuitOpen),
    'max',
  )
  meters.gauge('audit_queue_depth', 'Audit events that wait for Redis', () => audit.depth, 'sum')
  meters.gauge('audit_queue_capacity', 'Audit events that may wait', () => audit.capacity, 'sum')
  for (const [name, help, figure] of [
    ['audit_replay_files', 'Files of audit events that wait for Redis', 'files'],
    ['audit_replay_bytes', 'Size of the files of audit events that wait for Redis', 'bytes'],
    ['audit_replay_oldest_age_seconds', 'Age of the oldest file of audit events', 'ageSeconds'],
  ] as const) {
    meters.gauge(name, help, () => audit.backlog[figure], 'max')
  }
  meters.gauge('revocations_active', 'Anchors that are revoked', () => revocations.size, 'max')
  meters.gauge(
    'revocation_snapshot_age_seconds',
    'Age of the revocation state',
    () => revocations.snapshotAgeSeconds(),
    'max',
  )
  meters.gauge(
    'revocation_snapshot_fresh',
    'Whether the revocation state is fresh',
    () => Number(revocations.isFresh()),
    'min',
  )
  meters.gauge(
    'revocation_history_incomplete',
    'Whether the revocation stream lost entries of its last 24 hours, or may have',
    () => Number(revocations.historyIncomplete),
    'max',
  )
  meters.gauge(
    'revocation_propagation_seconds',
    'Time from a revocation message to its application, for the last one',
    () => lastSeen.revocationPropagation,
    'max',
  )
  meters.gauge('bindings_loaded', 'Bindings in force', () => bindings.size, 'max')
  meters.gauge(
    'bindings_stale',
    'Whether the binding source is invalid now',
    () => Number(bindings.stale),
    'max',
  )
  if (database !== undefined) {
    // These names are the same in every service of Caracal.
    meters.gauge(
      'caracal_db_pool_max_conns',
      'Connections to the database that there may be',
      () => database.maxConnections,
      'sum',
    )
    meters.gauge(
      'caracal_db_pool_acquired_conns',
      'Connections to the database in use',
      () => database.acquiredConnections,
      'sum',
    )
    meters.gauge(
      'caracal_db_pool_in_use_ratio',
      'Share of the connections to the database in use',
      () => database.acquiredConnections / database.maxConnections,
      'max',
    )
  }
  meters.gauge(
    'streams_open',
    'Responses whose headers are out and whose body is not',
    () => liveRequests.streams,
    'sum',
  )
  meters.gauge(
    'requests_in_flight',
    'Requests without response headers',
    () => overload.inFlight,
    'sum',
  )
}

export default fp(gauges, {
  name: 'gauges',
  fastify: '5.x',
  dependencies: [
    'metrics',
    'sts',
    'audit',
    'revocations',
    'bindings',
    'database',
    'overload',
    'live-requests',
    'readiness',
  ],
})
