// Every command: what it is called, what it takes, what it says of itself. Help and completion are made of this table.

import { type Command, command } from './command.ts'

const json = (help: string) => ({ type: 'boolean', help }) as const

const REDIS = 'CARACAL_MODE, REDIS_URL, REDIS_CA_FILE, REDIS_DIAL_TIMEOUT, REDIS_READ_TIMEOUT'

/** The shells that `completion` knows. */
export const SHELLS = ['bash', 'zsh', 'fish'] as const

/** All commands, in the order of the list that `--help` prints. */
export const COMMANDS: readonly Command[] = [
  command(
    {
      name: 'demo',
      summary: 'gateway, development STS and echo upstream on loopback, with a line to try',
      about:
        'Runs gateway, development STS and echo upstream on loopback until Ctrl-C, and prints a line to try.',
      options: { json: json('where everything is, as one JSON object, once it is ready') },
      environment: `DEMO_GATEWAY_PORT (8081), DEMO_STS_PORT (8080), DEMO_UPSTREAM_PORT (8082),
REDIS_URL (a store inside the process), LOG_LEVEL (info).`,
      exit: ['it was stopped', 'it could not start'],
    },
    async () => (await import('./demo.ts')).demo,
  ),
  command(
    {
      name: 'check',
      summary: 'whether the configuration is sound and every dependency is there',
      about: `Looks at the configuration, the files that it names, and every dependency, a line each: Redis, what is revoked,
PostgreSQL, the STS and its keys, the audit replay directory. Leaves nothing behind.`,
      options: {
        zone: {
          type: 'string',
          value: 'ZONE',
          help: 'the zone whose keys are looked at; without it none are',
        },
        json: json('one JSON object: ok, checks'),
      },
      environment: 'every variable of the gateway.',
      exit: ['all is well, or nothing worse than a warning', 'something failed'],
    },
    async () => (await import('./check.ts')).check,
  ),
  command(
    {
      name: 'explain',
      summary: 'what the gateway would say to a request, check by check',
      about: `Runs the checks of a request in their order, against the live configuration: keys, bindings, revocations, whether
the mandate is spent. Prints what each says, what to do about a refusal, and the exchange that would be made. Spends
nothing, exchanges nothing, dispatches nothing.`,
      options: {
        token: {
          type: 'string',
          value: 'TOKEN',
          help: 'the mandate; - reads it from standard input',
        },
        resource: { type: 'string', value: 'RESOURCE', help: 'what X-Caracal-Resource says' },
        method: { type: 'string', value: 'METHOD', help: 'the request method; default: GET' },
        path: {
          type: 'string',
          value: 'PATH',
          help: 'path and query as they are sent; default: /',
        },
        header: {
          type: 'string',
          multiple: true,
          value: "'NAME: VALUE'",
          help: 'a further header of the request',
        },
        json: json('one JSON object: verdict, checks, denial, exchange'),
      },
      environment: 'every variable of the gateway.',
      exit: ['it would pass', 'it would be refused, or could not be judged'],
    },
    async () => (await import('./explain.ts')).explain,
  ),
  command(
    {
      name: 'mint',
      summary: 'a mandate of the development STS',
      about: 'Asks the development STS for a mandate and prints it. Another STS mints none.',
      options: {
        sts: {
          type: 'string',
          value: 'URL',
          help: 'the STS; default: STS_URL, else http://127.0.0.1:8080',
        },
        resource: {
          type: 'string',
          multiple: true,
          value: 'RESOURCE',
          help: 'a resource that it is for; one at least',
        },
        scope: { type: 'string', value: 'SCOPES', help: 'its scopes, separated by spaces' },
        zone: { type: 'string', value: 'ZONE', help: "its zone; default: the STS's first" },
        client: { type: 'string', value: 'CLIENT', help: 'its client_id' },
        ttl: { type: 'string', value: 'SECONDS', help: 'how long it is good for' },
        json: json('one JSON object: token, claims'),
      },
      environment: 'STS_URL.',
      exit: ['it was minted', 'it was not'],
    },
    async () => (await import('./mint.ts')).mint,
  ),
  command(
    {
      name: 'revoke',
      summary: 'revoke a session, an agent session or a delegation edge',
      about: `Writes a signed message to the revocation stream: every gateway refuses the mandates that it names, for 24 hours,
and cuts what is under way. It cannot be taken back, and changes nothing in the database.`,
      options: {
        session: {
          type: 'string',
          value: 'ID',
          help: "an authority record: a mandate's sid or root_sid",
        },
        'agent-session': { type: 'string', value: 'ID', help: "a mandate's agent_session_id" },
        edge: { type: 'string', value: 'ID', help: "a mandate's delegation_edge_id" },
        json: json('one JSON object: stream, signed, and the field with its id'),
      },
      environment: `${REDIS},
STREAMS_HMAC_KEY.`,
      exit: ['the message was written', 'it was not'],
    },
    async () => (await import('./revoke.ts')).revoke,
  ),
  command(
    {
      name: 'replay',
      summary: 'the audit replay directory: list it, or send what it holds',
      about: `ls lists the replay files and the directories of processes, and changes nothing. drain sends the files, and what
processes that have ended left, to Redis, as a gateway does: what a gateway that lives has taken is left to it. Run it
as the user that the gateway runs as.`,
      operand: { name: 'ls or drain', choices: ['ls', 'drain'] },
      options: {
        dir: {
          type: 'string',
          value: 'DIRECTORY',
          help: 'the replay directory; default: AUDIT_REPLAY_DIR',
        },
        timeout: {
          type: 'string',
          value: 'DURATION',
          help: 'the longest that drain takes, such as 90s; default: 1m',
        },
        json: json('one JSON object'),
      },
      environment: `AUDIT_REPLAY_DIR; drain also AUDIT_HMAC_KEY,
${REDIS}.`,
      exit: ['it was listed, or nothing is left', 'it cannot be read, or something is left'],
    },
    async () => (await import('./replay.ts')).replay,
  ),
  command(
    {
      name: 'verify-evidence',
      summary: 'whether the audit evidence on disk and in Redis holds',
      about: `Says whether the audit evidence holds: every intent of the journal has its outcome, every event is well-formed and
signed, no id stands for two events, no request has two. Reads AUDIT_REPLAY_DIR and a range of the stream
caracal.audit.events, while gateways run, and changes nothing.`,
      options: {
        dir: {
          type: 'string',
          value: 'DIRECTORY',
          help: 'the replay directory; default: AUDIT_REPLAY_DIR',
        },
        since: {
          type: 'string',
          value: 'WHEN',
          help: 'begin of the range, an RFC 3339 time or a stream id; default: 24 hours ago',
        },
        until: { type: 'string', value: 'WHEN', help: 'its end, included; default: now' },
        json: json('the verdict as one JSON object'),
      },
      environment: `${REDIS},
AUDIT_HMAC_KEY, AUDIT_REPLAY_DIR.`,
      exit: ['all holds', 'something does not, or could not be read'],
    },
    async () => (await import('./verify-evidence.ts')).verifyEvidence,
  ),
  command(
    {
      name: 'suggest-operations',
      summary: 'bindings that cover what resources under observe were asked for',
      about: `Reads the evidence of what operation_enforcement: observe let through, and prints the YAML of the operations that
nobody declared, each with its count. Ids in paths are :id. What was declared already is not repeated.`,
      options: {
        file: {
          type: 'string',
          value: 'FILE',
          help: 'events to read instead of the stream, one JSON object a line; - is standard input',
        },
        since: {
          type: 'string',
          value: 'WHEN',
          help: 'begin of the range, an RFC 3339 time or a stream id; default: 24 hours ago',
        },
        until: { type: 'string', value: 'WHEN', help: 'its end, included; default: now' },
        json: json('one JSON object: operations, scopes, unread'),
      },
      environment: `without --file: ${REDIS},
AUDIT_HMAC_KEY.`,
      exit: ['it was read, even when there is nothing to suggest', 'it could not be read'],
    },
    async () => (await import('./suggest-operations.ts')).suggestOperations,
  ),
  command(
    {
      name: 'parity',
      summary: 'what two gateways answer otherwise',
      about: `Sends two gateways the same probes and the same requests that must be refused, and prints what differs: status, error,
headers that matter, metric names. No request carries a mandate that could be dispatched.`,
      options: {
        old: { type: 'string', value: 'URL', help: 'the gateway that is in place' },
        new: { type: 'string', value: 'URL', help: 'the gateway that is to take its place' },
        resource: {
          type: 'string',
          value: 'RESOURCE',
          help: 'what X-Caracal-Resource says; default: resource://parity',
        },
        zone: {
          type: 'string',
          value: 'ZONE',
          help: 'the zone that made-up tokens name; default: parity',
        },
        ca: {
          type: 'string',
          value: 'FILE',
          help: 'PEM authorities for https, instead of the well-known ones',
        },
        json: json('one JSON object: same, cases'),
      },
      environment:
        'METRICS_BEARER, for the names of the metrics; without it they are not compared.',
      exit: ['they answer alike', 'they differ, or one cannot be reached'],
    },
    async () => (await import('./parity.ts')).parity,
  ),
  command(
    {
      name: 'completion',
      summary: 'a script that completes this command line in a shell',
      about: `Prints a script for the shell. For this session alone:

  source <(caracal-gateway completion bash)
  source <(caracal-gateway completion zsh)
  caracal-gateway completion fish | source`,
      operand: { name: 'the shell', choices: SHELLS },
      options: { json: json('one JSON object: shell, script') },
      exit: ['it was printed', 'it was not'],
    },
    async () => (await import('./completion.ts')).completion,
  ),
]
