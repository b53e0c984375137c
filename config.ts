// Guarantees that a configuration is whole and sound before anything listens, that every problem is
// told at once by the variable's name, and that no variable's text appears in a problem: whatever an
// operator pastes into the wrong place stays out of the log.

import { readFileSync } from 'node:fs'
import { BlockList, isIP } from 'node:net'
import envSchema, { type EnvSchemaOpt } from 'env-schema'
import { parseDatabaseUrl } from './lib/database-url.ts'
import { formatDuration, parseDuration } from './lib/duration.ts'
import { isFieldName, isFieldValue } from './lib/headers.ts'
import { keyPairProblems, readCertificates } from './lib/key-pair.ts'
import { parseKeyValues } from './lib/key-values.ts'
import { parseRedisUrl, REDIS_URL_FORMS } from './lib/redis-url.ts'
import { Secret } from './lib/secret.ts'

/** How `SHUTDOWN_TIMEOUT` is shared out: what is still under way when `service` is over ends. */
export const SHUTDOWN_SHARES = { service: 0.75, lastAnswers: 0.02, evidence: 0.1, traces: 0.1 }

/** What a text breaks: the rest of a sentence that begins with the variable's name. */
class Unfit {
  readonly rule: string

  constructor(rule: string) {
    this.rule = rule
  }
}

/** How the text of a variable is read, and what the documentation calls that form. */
interface Kind<T> {
  readonly form: string
  /** May be read from a file that the variable `NAME_FILE` names. */
  readonly secret?: boolean
  readonly read: (text: string) => T | Unfit
}

const kind = <T>(form: string, read: Kind<T>['read']): Kind<T> => ({ form, read })
const secret = (form: string, read: Kind<Secret>['read']): Kind<Secret> => ({
  form,
  read,
  secret: true,
})

const KINDS = {
  text: kind('text', text => text),
  file: kind('path', text => text),
  host: kind('address or name', readHost),
  hosts: kind('list of host names', readHosts),
  networks: kind('list of addresses and CIDRs', readNetworks),
  proxies: kind('boolean, or list of addresses and CIDRs', readProxies),
  uses: kind('list', readUses),
  modules: kind('list of modules', readModules),
  boolean: kind('boolean', readBoolean),
  port: kind('integer', text => readInteger(text, 0, 65_535)),
  workers: kind('integer', text => readInteger(text, 1, 64)),
  count: kind('integer', text => readInteger(text, 1, Number.MAX_SAFE_INTEGER)),
  amount: kind('integer', text => readInteger(text, 0, Number.MAX_SAFE_INTEGER)),
  share: kind('number', readShare),
  pause: kind('duration', text => readDuration(text, 0)),
  timeout: kind('duration', text => readDuration(text, 1)),
  durability: kind('`relaxed`, `strict`, `synced`', readDurability),
  stsUrl: kind('URL', readStsUrl),
  collectorUrl: kind('URL', readCollectorUrl),
  attributes: kind('list of `key=value`', readAttributes),
  redisUrl: secret('URL', readRedisUrl),
  databaseUrl: secret('URL', readDatabaseUrl),
  hmacKey: secret('hex, 32 bytes at least', readHmacKey),
  bearer: secret('text', readBearer),
  fields: secret('list of `key=value`', readFields),
}

type KindName = keyof typeof KINDS
type Fit<K extends KindName> = Exclude<ReturnType<(typeof KINDS)[K]['read']>, Unfit>

/** What the documentation says of a variable. */
export interface About {
  /** Meaning, and the risk where there is one. */
  readonly description: string
  /** As it would be written in the environment. */
  readonly default?: string
  /** The default in words, where it depends on another variable. */
  readonly defaultNote?: string
  /** Of a number that is no duration. */
  readonly unit?: string
  /** The modes in which the gateway does not start without the variable. */
  readonly requiredIn?: 'every mode' | '`rc` and `stable`'
}

/** An entry of the schema: documentation beside type, `form` and `secret` taken from the kind. */
interface Entry extends About {
  readonly form: string
  readonly secret: boolean
}

/**
 * A variable of the schema (JSON Schema). `T` is what it means, not the text that it is read from.
 *
 * Written by hand: TypeBox would say the same in the same words, and takes 75 ms of a start that has 600.
 */
interface Variable<T> extends Entry {
  readonly type: 'string'
  readonly parse?: KindName
  readonly enum?: readonly string[]
  /** For the types alone. */
  readonly meaning?: T
}

interface Optional<T> extends Variable<T> {
  readonly optional: true
}

/** A variable that always has a value, because it has a default. */
function variable<K extends KindName>(
  parse: K,
  about: About & { readonly default: string },
): Variable<Fit<K>> {
  const { form, secret = false }: Kind<unknown> = KINDS[parse]
  return { ...about, type: 'string', parse, form, secret }
}

/** A variable that may be absent. */
function optional<K extends KindName>(parse: K, about: About): Optional<Fit<K>> {
  const { form, secret = false }: Kind<unknown> = KINDS[parse]
  return { ...about, type: 'string', parse, form, secret, optional: true }
}

/** A variable that takes one of a few words. */
function words<const Words extends string[]>(
  values: readonly [...Words],
  about: About & { readonly default: Words[number] },
): Variable<Words[number]> {
  const form = `\`${values.join('`, `')}\``
  return { ...about, type: 'string', enum: values, form, secret: false }
}

const PUBLISHED = '`rc` and `stable`'

const service = {
  CARACAL_MODE: words(['dev', 'rc', 'stable'], {
    default: 'stable',
    description:
      'How strict the gateway is. `rc` and `stable` are published modes and equally strict; `dev` lets keys and Redis be absent and must never face a network.',
  }),
  HOST: optional('host', {
    defaultNote: '`::`, in `dev` `127.0.0.1`',
    description: 'Address to listen on.',
  }),
  PORT: variable('port', {
    default: '8081',
    description: 'Port to listen on, 0 to 65535; 0 lets the system choose one.',
  }),
  LOG_LEVEL: words(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'], {
    default: 'info',
    description:
      'Least severity that is logged. `info` logs denials and errors, `debug` every request.',
  }),
  TLS_CERT_FILE: optional('file', {
    description:
      'PEM certificate chain to serve TLS 1.2 and 1.3 with, the leaf first. Goes together with `TLS_KEY_FILE`. Both are read again when they change; a pair that is not sound leaves the last good one (`docs/tls.md`).',
  }),
  TLS_KEY_FILE: optional('file', {
    description: 'PEM private key of `TLS_CERT_FILE`, not encrypted.',
  }),
  TRUST_PROXY: variable('proxies', {
    default: 'false',
    description:
      'Proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed. `false`: none; `true`: whoever calls, so that any caller can forge its address.',
  }),
  MAX_REQUEST_BYTES: variable('count', {
    default: '10485760',
    unit: 'bytes',
    description: 'Largest request body that is passed on.',
  }),
  MAX_IN_FLIGHT: variable('count', {
    default: '1000',
    description:
      'Requests without response headers that are served at a time; more are refused as `overloaded`. Open streams do not count.',
  }),
  WORKERS: variable('workers', {
    default: '1',
    unit: 'processes',
    description:
      'Gateways that run as processes on one port, each with a core to use, and a supervisor beside them when there is more than one; 64 at most. `MAX_IN_FLIGHT`, `DB_MAX_CONNS` and `DB_MIN_CONNS` are shared out among them. Leave it 1 where replicas are as easy to have, in Kubernetes say (`docs/operations.md`).',
  }),
  MAX_EVENT_LOOP_DELAY: variable('timeout', {
    default: '1s',
    description: 'Delay of the event loop above which requests are refused as `overloaded`.',
  }),
  GATEWAY_PLUGINS: optional('modules', {
    description:
      'Plugins of your own, in the order in which they are loaded: package names, or paths of `.js`, `.mjs` or `.ts` files relative to the working directory (`docs/extending.md`). They are code that sees every request.',
  }),
  SHUTDOWN_DELAY: variable('pause', {
    default: '0s',
    description:
      'Time between the signal to stop and the end of accepting, for load balancers to notice. Part of `SHUTDOWN_TIMEOUT`, and less than three quarters of it.',
  }),
  SHUTDOWN_TIMEOUT: variable('timeout', {
    default: '15s',
    description:
      'Longest time from the signal to stop until the process exits. When three quarters are over, what is still under way is ended. Keep it under the grace period of whatever kills the process.',
  }),
}

const client = {
  READ_HEADER_TIMEOUT: variable('timeout', {
    default: '5s',
    description: 'Longest time from the first byte of a request to the end of its headers.',
  }),
  READ_TIMEOUT: variable('timeout', {
    default: '45s',
    description:
      'Longest time from the first byte of a request to the end of its body. Must exceed the sum of `STS_TIMEOUT` and `UPSTREAM_TIMEOUT`.',
  }),
  WRITE_TIMEOUT: variable('timeout', {
    default: '60s',
    description:
      'Longest time for which a caller may take no byte of an answer while some wait for it. Then its connection is broken off, and the request to the upstream with it.',
  }),
  IDLE_TIMEOUT: variable('timeout', {
    default: '120s',
    description: 'How long a kept-alive connection may stay without a request.',
  }),
}

const sts = {
  STS_URL: optional('stsUrl', {
    requiredIn: 'every mode',
    description:
      'Base URL of the security token service, without credentials, query and fragment. In `rc` and `stable` it is `https`, or `http` to a loopback or single-label host.',
  }),
  STS_ISSUER: optional('text', {
    description: 'When set, the `iss` claim of a mandate must equal it.',
  }),
  STS_TIMEOUT: variable('timeout', {
    default: '5s',
    description: 'Longest time for an exchange or a fetch of signing keys.',
  }),
  STS_CA_FILE: optional('file', {
    description:
      'PEM certificates of the only authorities that are trusted for the STS. Unset: those that Node.js trusts. Read at start alone.',
  }),
  STS_CERT_FILE: optional('file', {
    description:
      'PEM certificate chain that the gateway shows to the STS, the leaf first. Goes together with `STS_KEY_FILE` and an `https` `STS_URL`. Read at start alone.',
  }),
  STS_KEY_FILE: optional('file', {
    description: 'PEM private key of `STS_CERT_FILE`, not encrypted.',
  }),
  GATEWAY_STS_HMAC_KEY: optional('hmacKey', {
    requiredIn: PUBLISHED,
    description:
      'Key that signs exchanges. The STS of Caracal refuses a gateway that does not sign, in `dev` too.',
  }),
  MANDATE_USES: variable('uses', {
    default: 'gateway',
    description:
      'Values of the `use` claim that are accepted in a mandate: `gateway`, `session`, `resource`. A `session` mandate is not consumed by its first use.',
  }),
}

const upstream = {
  UPSTREAM_TIMEOUT: variable('timeout', {
    default: '30s',
    description: 'Longest time from dispatch to the response headers of the upstream.',
  }),
  STREAM_IDLE_TIMEOUT: variable('timeout', {
    default: '60s',
    description:
      'Longest time for which an upstream may send no byte of a body. A binding may set its own.',
  }),
  UPSTREAM_HOST_ALLOWLIST: optional('hosts', {
    description:
      'The only upstream hosts that are called; any host when unset. No ports, no wildcards.',
  }),
  UPSTREAM_PRIVATE_NETWORKS: words(['allow', 'deny'], {
    default: 'allow',
    description:
      'Whether upstreams on loopback, private, unique-local and CGNAT addresses are called. Link-local and metadata addresses never are.',
  }),
  UPSTREAM_CIDR_ALLOWLIST: optional('networks', {
    description: 'Private networks that are called although `UPSTREAM_PRIVATE_NETWORKS` is `deny`.',
  }),
  UPSTREAM_CA_FILE: optional('file', {
    description:
      'PEM certificates of a private CA that is trusted for upstreams too. Read at start alone.',
  }),
  BINDINGS_FILE: optional('file', {
    description:
      'YAML or JSON file of resources and their operations, read again when it changes. Unset: the `resources` table of `DATABASE_URL` says the same, and without that the STS alone decides.',
  }),
}

const redis = {
  REDIS_URL: optional('redisUrl', {
    requiredIn: PUBLISHED,
    description:
      '`redis://[user:password@]host[:6379][/database]` for one Redis server, `redis+sentinel://[user:password@]host[:26379],host/name[/database]` for the master that sentinels know by that name, `redis+cluster://[user:password@]host[:6379],host` for a cluster; `rediss` instead of `redis` for TLS, to the sentinels too. Sentinels that ask for a password of their own get it from `?sentinelPassword=` (and `?sentinelUsername=`). Credentials are percent-encoded. Unset in `dev`: a store inside the process, which forgets and shares nothing.',
  }),
  REDIS_CA_FILE: optional('file', {
    description:
      'PEM certificates of the only authorities that are trusted for Redis. Unset: those that Node.js trusts. Read at start alone.',
  }),
  REDIS_DIAL_TIMEOUT: variable('timeout', {
    default: '5s',
    description: 'Longest time for connecting to Redis.',
  }),
  REDIS_READ_TIMEOUT: variable('timeout', {
    default: '3s',
    description: 'Longest time for an answer of Redis.',
  }),
  STREAMS_HMAC_KEY: optional('hmacKey', {
    requiredIn: PUBLISHED,
    description:
      'Key that verifies revocation messages. Unset in `dev`: unsigned messages are believed.',
  }),
  STREAMS_HMAC_KEY_PREVIOUS: optional('hmacKey', {
    description: 'Key that verifies revocation messages too, while `STREAMS_HMAC_KEY` is rotated.',
  }),
  JTI_FAIL_OPEN: variable('boolean', {
    default: 'false',
    description:
      'Lets a request through when Redis cannot say whether its mandate was used. Refused in `rc` and `stable`: it turns an outage into an open door.',
  }),
}

const database = {
  DATABASE_URL: optional('databaseUrl', {
    description:
      "`postgres://` URL of Caracal's database, read as libpq reads it; its role needs no more than `SELECT`. `sslmode` is `disable`, `allow`, `prefer` (default: encrypted if the server will), `require` (encrypted, the server not verified), `verify-ca` or `verify-full` (without `sslrootcert`: by the authorities that Node.js trusts). Other parameters: `sslrootcert` (path of PEM certificates, or `system`), `host`, `port`, `user`, `password`, `dbname`, `application_name`, `options`, `connect_timeout` (seconds). Unset: the gateway uses no database.",
  }),
  DB_MAX_CONNS: variable('count', {
    default: '20',
    description: 'Connections that there may be to the database.',
  }),
  DB_MIN_CONNS: variable('amount', {
    default: '0',
    description: 'Connections that, once opened, stay open although nobody uses them.',
  }),
  DB_CONNECT_TIMEOUT: variable('timeout', {
    default: '10s',
    description:
      'Longest time for connecting to the database, and for waiting while all connections are in use. A shorter `connect_timeout` of `DATABASE_URL` counts.',
  }),
  DB_MAX_CONN_LIFETIME: variable('timeout', {
    default: '1h',
    description: 'Age at which a connection to the database is replaced.',
  }),
  DB_MAX_CONN_IDLE: variable('timeout', {
    default: '30m',
    description: 'How long a connection to the database stays open although nobody uses it.',
  }),
}

const audit = {
  AUDIT_HMAC_KEY: optional('hmacKey', {
    requiredIn: PUBLISHED,
    description: 'Key that signs audit events. Unset in `dev`: events are not signed.',
  }),
  AUDIT_DURABILITY: optional('durability', {
    defaultNote: '`strict`, in `dev` `relaxed`',
    description:
      'What evidence of a request survives before it reaches Redis. `strict`: the process, because it is written to `AUDIT_REPLAY_DIR` before the request goes to the upstream. `synced`: the machine too, because it is on the disk by then. `relaxed`: neither.',
  }),
  AUDIT_REPLAY_DIR: optional('file', {
    defaultNote: '`/var/lib/caracal/audit-replay`, in `dev` none',
    description:
      'Directory for evidence that Redis does not have yet; made if it is not there. Several gateways may share it. Unset in `dev`: evidence is in memory alone.',
  }),
}

const operators = {
  CARACAL_ADMIN_TOKEN: optional('bearer', {
    description:
      'Bearer token of `POST /internal/revocations/reload`. Unset: the endpoint answers 404.',
  }),
  METRICS_BEARER: optional('bearer', {
    description:
      'Bearer token of `/metrics` and `/metrics.json`. Unset: both are open in `dev` and closed otherwise.',
  }),
}

const traces = {
  OTEL_EXPORTER_OTLP_ENDPOINT: optional('collectorUrl', {
    description:
      'Base URL of an OpenTelemetry collector, without credentials, query and fragment: traces go to its `/v1/traces` by OTLP over HTTP. Unset: nothing is traced, and the SDK is not even loaded.',
  }),
  OTEL_EXPORTER_OTLP_PROTOCOL: optional('text', {
    defaultNote: '`http/protobuf`',
    description: 'With an endpoint only `http/protobuf`; another stops the start.',
  }),
  OTEL_EXPORTER_OTLP_HEADERS: optional('fields', {
    description: 'Headers that go to the collector, a credential say: `name=value,name=value`.',
  }),
  OTEL_SERVICE_NAME: optional('text', {
    defaultNote: '`service.name` of `OTEL_RESOURCE_ATTRIBUTES`, else `caracal-gateway`',
    description: 'Name of the service in traces.',
  }),
  OTEL_RESOURCE_ATTRIBUTES: optional('attributes', {
    description: 'What every trace tells of this process: `key=value,key=value`, percent-encoded.',
  }),
  OTEL_TRACES_SAMPLER: words(
    [
      'parentbased_always_on',
      'parentbased_always_off',
      'parentbased_traceidratio',
      'always_on',
      'always_off',
      'traceidratio',
    ],
    {
      default: 'parentbased_always_on',
      description:
        'Which requests are traced. `parentbased_...`: as the caller’s `traceparent` says, and by the rest of the name without one. A caller can have everything traced, then; `traceidratio` does not ask it.',
    },
  ),
  OTEL_TRACES_SAMPLER_ARG: variable('share', {
    default: '1',
    unit: '0 to 1',
    description: 'Share of the requests that `traceidratio` and `parentbased_traceidratio` trace.',
  }),
}

// Names that a Caracal deployment sets. They are known so that putting this gateway in place of the
// other one needs no edit, but nothing here acts on them.
const withoutEffect = {
  INSECURE_STS: optional('text', {
    description: '`true`, `1` or `yes` stops the start in `rc` and `stable`.',
  }),
  INSECURE_HTTP: optional('text', {
    description: '`true`, `1` or `yes` stops the start in `rc` and `stable`.',
  }),
  REDIS_WRITE_TIMEOUT: optional('timeout', {
    description: 'Its form is checked; `REDIS_READ_TIMEOUT` covers a command from end to end.',
  }),
  REDIS_POOL_SIZE: optional('text', { description: 'There is no pool: commands are pipelined.' }),
  REDIS_MIN_IDLE_CONNS: optional('text', { description: 'As `REDIS_POOL_SIZE`.' }),
  REDIS_POOL_TIMEOUT: optional('text', { description: 'As `REDIS_POOL_SIZE`.' }),
  DB_HEALTH_CHECK_PERIOD: optional('text', {
    description: 'A connection is judged when it is used, and dropped when it breaks.',
  }),
}

const variables = {
  ...service,
  ...client,
  ...sts,
  ...upstream,
  ...redis,
  ...database,
  ...audit,
  ...operators,
  ...traces,
  ...withoutEffect,
}

type Variables = typeof variables
type OptionalName = {
  [Name in keyof Variables]: Variables[Name] extends Optional<unknown> ? Name : never
}[keyof Variables]
type MeaningOf<V> = V extends Variable<infer T> ? T : never

/** What the variables mean. */
type Env = {
  [Name in Exclude<keyof Variables, OptionalName>]: MeaningOf<Variables[Name]>
} & { [Name in OptionalName]?: MeaningOf<Variables[Name]> }

/** Every variable: type, default and documentation (contract section 9), as JSON Schema. */
export const schema = {
  type: 'object',
  properties: variables,
  required: Object.entries<Entry>(variables)
    .filter(([, entry]) => !('optional' in entry))
    .map(([name]) => name),
  additionalProperties: false,
} as const

/** The variables by subject, in the order of the documentation. */
export const SECTIONS: readonly {
  readonly title: string
  readonly variables: Readonly<Record<string, Entry>>
}[] = [
  { title: 'Process', variables: service },
  { title: 'Callers', variables: client },
  { title: 'STS and mandates', variables: sts },
  { title: 'Upstreams and bindings', variables: upstream },
  { title: 'Redis, replay and revocation', variables: redis },
  { title: 'Database', variables: database },
  { title: 'Audit evidence', variables: audit },
  { title: 'Operator endpoints', variables: operators },
  { title: 'Traces', variables: traces },
  { title: 'Taken without effect', variables: withoutEffect },
]

/** The variables that `NAME_FILE` may stand in for. */
export const SECRETS: readonly string[] = Object.entries<Entry>(schema.properties)
  .filter(([, { secret }]) => secret)
  .map(([name]) => name)

/** `AUDIT_REPLAY_DIR` where there has to be one. */
const AUDIT_REPLAY_DIR = '/var/lib/caracal/audit-replay'

/** The configuration of one gateway. Durations are whole milliseconds. */
export interface Config {
  /** `CARACAL_MODE`: `rc` and `stable` are equally strict. */
  readonly mode: 'dev' | 'rc' | 'stable'
  /** `HOST`: address to listen on. */
  readonly host: string
  /** `PORT`: 0 lets the system choose. */
  readonly port: number
  /** `LOG_LEVEL`: pino's name of it. */
  readonly logLevel: 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent'
  /** `TLS_CERT_FILE`: path; present when `tlsKeyFile` is. */
  readonly tlsCertFile?: string | undefined
  /** `TLS_KEY_FILE`: path; present when `tlsCertFile` is. */
  readonly tlsKeyFile?: string | undefined
  /** `TRUST_PROXY`: nobody, everybody, or these addresses and CIDRs. */
  readonly trustProxy: boolean | readonly string[]
  /** `GATEWAY_PLUGINS`: package names, or paths relative to the working directory. */
  readonly gatewayPlugins: readonly string[]
  /** `MAX_REQUEST_BYTES`. */
  readonly maxRequestBytes: number
  /** `MAX_IN_FLIGHT`: requests without response headers. */
  readonly maxInFlight: number
  /** `WORKERS`: more than 1 only together with `redisUrl`. */
  readonly workers: number
  /** `MAX_EVENT_LOOP_DELAY`, milliseconds. */
  readonly maxEventLoopDelay: number
  /** `SHUTDOWN_DELAY`, milliseconds; may be 0. */
  readonly shutdownDelay: number
  /** `SHUTDOWN_TIMEOUT`, milliseconds. */
  readonly shutdownTimeout: number
  /** `READ_HEADER_TIMEOUT`, milliseconds. */
  readonly readHeaderTimeout: number
  /** `READ_TIMEOUT`, milliseconds; exceeds `stsTimeout + upstreamTimeout`. */
  readonly readTimeout: number
  /** `WRITE_TIMEOUT`, milliseconds. */
  readonly writeTimeout: number
  /** `IDLE_TIMEOUT`, milliseconds. */
  readonly idleTimeout: number
  /** `STS_URL`: without a slash at its end. */
  readonly stsUrl: string
  /** `STS_ISSUER`: the `iss` that mandates must have. */
  readonly stsIssuer?: string | undefined
  /** `STS_TIMEOUT`, milliseconds. */
  readonly stsTimeout: number
  /** `STS_CA_FILE`: path of PEM certificates. */
  readonly stsCaFile?: string | undefined
  /** `STS_CERT_FILE`: path; present when `stsKeyFile` is. */
  readonly stsCertFile?: string | undefined
  /** `STS_KEY_FILE`: path; present when `stsCertFile` is. */
  readonly stsKeyFile?: string | undefined
  /** `GATEWAY_STS_HMAC_KEY`, hex. */
  readonly gatewayStsHmacKey?: Secret | undefined
  /** `MANDATE_USES`: accepted values of the `use` claim, none twice. */
  readonly mandateUses: readonly string[]
  /** `UPSTREAM_TIMEOUT`, milliseconds. */
  readonly upstreamTimeout: number
  /** `STREAM_IDLE_TIMEOUT`, milliseconds. */
  readonly streamIdleTimeout: number
  /** `UPSTREAM_HOST_ALLOWLIST`: as `URL.hostname` writes them, no dot at the end; empty: any host. */
  readonly upstreamHostAllowlist: readonly string[]
  /** `UPSTREAM_PRIVATE_NETWORKS`. */
  readonly upstreamPrivateNetworks: 'allow' | 'deny'
  /** `UPSTREAM_CIDR_ALLOWLIST`: addresses and CIDRs. */
  readonly upstreamCidrAllowlist: readonly string[]
  /** `UPSTREAM_CA_FILE`: path of PEM certificates. */
  readonly upstreamCaFile?: string | undefined
  /** `BINDINGS_FILE`: path. */
  readonly bindingsFile?: string | undefined
  /** `REDIS_URL`. */
  readonly redisUrl?: Secret | undefined
  /** `REDIS_CA_FILE`: path of PEM certificates. */
  readonly redisCaFile?: string | undefined
  /** `REDIS_DIAL_TIMEOUT`, milliseconds. */
  readonly redisDialTimeout: number
  /** `REDIS_READ_TIMEOUT`, milliseconds. */
  readonly redisReadTimeout: number
  /** `DATABASE_URL`: `parseDatabaseUrl` can read it. */
  readonly databaseUrl?: Secret | undefined
  /** `sslrootcert` of `DATABASE_URL`: path of PEM certificates. */
  readonly databaseCaFile?: string | undefined
  /** `DB_MAX_CONNS`. */
  readonly dbMaxConns: number
  /** `DB_MIN_CONNS`: not above `dbMaxConns`. */
  readonly dbMinConns: number
  /** `DB_CONNECT_TIMEOUT`, milliseconds. */
  readonly dbConnectTimeout: number
  /** `DB_MAX_CONN_LIFETIME`, milliseconds. */
  readonly dbMaxConnLifetime: number
  /** `DB_MAX_CONN_IDLE`, milliseconds. */
  readonly dbMaxConnIdle: number
  /** `STREAMS_HMAC_KEY`, hex. */
  readonly streamsHmacKey?: Secret | undefined
  /** `STREAMS_HMAC_KEY_PREVIOUS`, hex; only together with `streamsHmacKey`. */
  readonly streamsHmacKeyPrevious?: Secret | undefined
  /** `JTI_FAIL_OPEN`: true only in `dev`. */
  readonly jtiFailOpen: boolean
  /** `AUDIT_HMAC_KEY`, hex. */
  readonly auditHmacKey?: Secret | undefined
  /** `AUDIT_DURABILITY`: other than `relaxed` only together with `auditReplayDir`. */
  readonly auditDurability: 'relaxed' | 'strict' | 'synced'
  /** `AUDIT_REPLAY_DIR`: path. */
  readonly auditReplayDir?: string | undefined
  /** `CARACAL_ADMIN_TOKEN`. */
  readonly caracalAdminToken?: Secret | undefined
  /** `METRICS_BEARER`. */
  readonly metricsBearer?: Secret | undefined
  /** `OTEL_EXPORTER_OTLP_ENDPOINT`: without a slash at its end; unset: nothing is traced. */
  readonly otelExporterOtlpEndpoint?: string | undefined
  /** `OTEL_EXPORTER_OTLP_HEADERS`: `parseKeyValues` can read it. */
  readonly otelExporterOtlpHeaders?: Secret | undefined
  /** `OTEL_SERVICE_NAME`. */
  readonly otelServiceName: string
  /** `OTEL_RESOURCE_ATTRIBUTES`. */
  readonly otelResourceAttributes: Readonly<Record<string, string>>
  /** `OTEL_TRACES_SAMPLER`. */
  readonly otelTracesSampler: Sampling
  /** `OTEL_TRACES_SAMPLER_ARG`: 0 to 1. */
  readonly otelTracesSamplerArg: number
}

/** Which requests are traced: OpenTelemetry's names. */
export type Sampling =
  | 'parentbased_always_on'
  | 'parentbased_always_off'
  | 'parentbased_traceidratio'
  | 'always_on'
  | 'always_off'
  | 'traceidratio'

/** A configuration that the gateway does not start with. */
export class ConfigError extends Error {
  /** One sentence a problem, each beginning with the variable's name; free of any value's text. */
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    super(['the configuration cannot be used:', ...problems].join('\n  '))
    this.name = 'ConfigError'
    this.problems = problems
  }
}

/**
 * Reads the configuration from environment variables (contract section 9) and from the files they
 * name. Nothing else is read, and `source` is left as it is.
 *
 * @param source - usually `process.env`; an empty string counts as unset, unknown names are ignored
 * @throws ConfigError with every problem there is
 */
export function loadConfig(source: NodeJS.ProcessEnv): Config {
  const report = new Report()
  const env = readForms(readTexts(source, report), report)
  checkRules(env, report)
  if (report.problems.length > 0 || env.STS_URL === undefined) {
    throw new ConfigError(report.problems)
  }
  return Object.freeze({
    mode: env.CARACAL_MODE,
    host: env.HOST ?? (env.CARACAL_MODE === 'dev' ? '127.0.0.1' : '::'),
    port: env.PORT,
    logLevel: env.LOG_LEVEL,
    tlsCertFile: env.TLS_CERT_FILE,
    tlsKeyFile: env.TLS_KEY_FILE,
    trustProxy: env.TRUST_PROXY,
    gatewayPlugins: env.GATEWAY_PLUGINS ?? [],
    maxRequestBytes: env.MAX_REQUEST_BYTES,
    maxInFlight: env.MAX_IN_FLIGHT,
    workers: env.WORKERS,
    maxEventLoopDelay: env.MAX_EVENT_LOOP_DELAY,
    shutdownDelay: env.SHUTDOWN_DELAY,
    shutdownTimeout: env.SHUTDOWN_TIMEOUT,
    readHeaderTimeout: env.READ_HEADER_TIMEOUT,
    readTimeout: env.READ_TIMEOUT,
    writeTimeout: env.WRITE_TIMEOUT,
    idleTimeout: env.IDLE_TIMEOUT,
    stsUrl: env.STS_URL,
    stsIssuer: env.STS_ISSUER,
    stsTimeout: env.STS_TIMEOUT,
    stsCaFile: env.STS_CA_FILE,
    stsCertFile: env.STS_CERT_FILE,
    stsKeyFile: env.STS_KEY_FILE,
    gatewayStsHmacKey: env.GATEWAY_STS_HMAC_KEY,
    mandateUses: env.MANDATE_USES,
    upstreamTimeout: env.UPSTREAM_TIMEOUT,
    streamIdleTimeout: env.STREAM_IDLE_TIMEOUT,
    upstreamHostAllowlist: env.UPSTREAM_HOST_ALLOWLIST ?? [],
    upstreamPrivateNetworks: env.UPSTREAM_PRIVATE_NETWORKS,
    upstreamCidrAllowlist: env.UPSTREAM_CIDR_ALLOWLIST ?? [],
    upstreamCaFile: env.UPSTREAM_CA_FILE,
    bindingsFile: env.BINDINGS_FILE,
    redisUrl: env.REDIS_URL,
    redisCaFile: env.REDIS_CA_FILE,
    redisDialTimeout: env.REDIS_DIAL_TIMEOUT,
    redisReadTimeout: env.REDIS_READ_TIMEOUT,
    databaseUrl: env.DATABASE_URL,
    databaseCaFile: databaseCaFile(env),
    dbMaxConns: env.DB_MAX_CONNS,
    dbMinConns: env.DB_MIN_CONNS,
    dbConnectTimeout: env.DB_CONNECT_TIMEOUT,
    dbMaxConnLifetime: env.DB_MAX_CONN_LIFETIME,
    dbMaxConnIdle: env.DB_MAX_CONN_IDLE,
    streamsHmacKey: env.STREAMS_HMAC_KEY,
    streamsHmacKeyPrevious: env.STREAMS_HMAC_KEY_PREVIOUS,
    jtiFailOpen: env.JTI_FAIL_OPEN,
    auditHmacKey: env.AUDIT_HMAC_KEY,
    auditDurability: env.AUDIT_DURABILITY ?? (env.CARACAL_MODE === 'dev' ? 'relaxed' : 'strict'),
    auditReplayDir: auditReplayDir(env),
    caracalAdminToken: env.CARACAL_ADMIN_TOKEN,
    metricsBearer: env.METRICS_BEARER,
    otelExporterOtlpEndpoint: env.OTEL_EXPORTER_OTLP_ENDPOINT,
    otelExporterOtlpHeaders: env.OTEL_EXPORTER_OTLP_HEADERS,
    otelServiceName:
      env.OTEL_SERVICE_NAME ?? env.OTEL_RESOURCE_ATTRIBUTES?.['service.name'] ?? 'caracal-gateway',
    otelResourceAttributes: env.OTEL_RESOURCE_ATTRIBUTES ?? {},
    otelTracesSampler: env.OTEL_TRACES_SAMPLER,
    otelTracesSamplerArg: env.OTEL_TRACES_SAMPLER_ARG,
  } satisfies Config)
}

/** A worker's part of what its service may take: nobody gets more than the configuration says. */
export function workerShare(config: Config): Config {
  const share = (whole: number) => Math.floor(whole / config.workers)
  return Object.freeze({
    ...config,
    maxInFlight: share(config.maxInFlight),
    dbMaxConns: share(config.dbMaxConns),
    dbMinConns: share(config.dbMinConns),
  })
}

/**
 * The texts that {@link loadConfig} reads, so that a process that starts later has the same: secrets that lie in files are
 * read from them. To be called with what it has accepted.
 */
export function configTexts(source: NodeJS.ProcessEnv): Readonly<Record<string, string>> {
  return readTexts(source, new Report())
}

/** What it takes to use a stream of Redis. */
export type StreamConfig = Pick<Config, 'redisCaFile' | 'redisDialTimeout' | 'redisReadTimeout'> & {
  readonly redisUrl: Secret
}

/** What it takes to read evidence. */
export type EvidenceConfig = StreamConfig & Pick<Config, 'auditHmacKey' | 'auditReplayDir'>

/** What it takes to publish a revocation. */
export type RevocationConfig = StreamConfig & Pick<Config, 'streamsHmacKey'>

/** The variables of {@link StreamConfig}. */
const STREAM = [
  'CARACAL_MODE',
  'REDIS_URL',
  'REDIS_CA_FILE',
  'REDIS_DIAL_TIMEOUT',
  'REDIS_READ_TIMEOUT',
] as const

/**
 * Reads what it takes to read evidence, as {@link loadConfig} reads it, and no other variable.
 *
 * @throws ConfigError with every problem there is
 */
export function loadEvidenceConfig(source: NodeJS.ProcessEnv): EvidenceConfig {
  const [env, stream] = readStream(source, ['AUDIT_HMAC_KEY', 'AUDIT_REPLAY_DIR'])
  return Object.freeze({
    ...stream,
    auditHmacKey: env.AUDIT_HMAC_KEY,
    auditReplayDir: auditReplayDir(env),
  })
}

/**
 * Reads what it takes to publish a revocation, as {@link loadConfig} reads it, and no other variable.
 *
 * @throws ConfigError with every problem there is
 */
export function loadRevocationConfig(source: NodeJS.ProcessEnv): RevocationConfig {
  const [env, stream] = readStream(source, ['STREAMS_HMAC_KEY'])
  return Object.freeze({ ...stream, streamsHmacKey: env.STREAMS_HMAC_KEY })
}

/**
 * Reads where the audit replay directory is; `undefined` when there is none.
 *
 * @throws ConfigError
 */
export function loadReplayDirectory(source: NodeJS.ProcessEnv): string | undefined {
  const report = new Report()
  const env = readForms(readTexts(source, report, ['CARACAL_MODE', 'AUDIT_REPLAY_DIR']), report)
  if (report.problems.length > 0) throw new ConfigError(report.problems)
  return auditReplayDir(env)
}

function readStream(
  source: NodeJS.ProcessEnv,
  further: readonly (keyof typeof variables)[],
): [Env, StreamConfig] {
  const names = [...STREAM, ...further]
  const report = new Report()
  const env = readForms(readTexts(source, report, names), report)
  checkRequired(env, report, names)
  checkCaFile('REDIS_CA_FILE', env, report)
  const { REDIS_URL } = env
  if (REDIS_URL === undefined && !report.has('REDIS_URL')) {
    report.add('REDIS_URL', 'is required: without it there is no stream; set it')
  }
  if (report.problems.length > 0 || REDIS_URL === undefined) throw new ConfigError(report.problems)
  return [
    env,
    {
      redisUrl: REDIS_URL,
      redisCaFile: env.REDIS_CA_FILE,
      redisDialTimeout: env.REDIS_DIAL_TIMEOUT,
      redisReadTimeout: env.REDIS_READ_TIMEOUT,
    },
  ]
}

function auditReplayDir(env: Env): string | undefined {
  return env.AUDIT_REPLAY_DIR ?? (env.CARACAL_MODE === 'dev' ? undefined : AUDIT_REPLAY_DIR)
}

/** The text of a PEM file that the configuration names, and has been checked with. */
export function pem(file: string | undefined): string | undefined {
  return file === undefined ? undefined : readFileSync(file, 'utf8')
}

/** What an operator should know at start of a configuration that is sound but weak, a line each. */
export function configWarnings(config: Config): string[] {
  const warnings: string[] = []
  const { mode, trustProxy, mandateUses } = config
  const trustsEverybody =
    trustProxy === true || (Array.isArray(trustProxy) && trustProxy.some(it => it.endsWith('/0')))
  if (mode !== 'dev' && trustsEverybody) {
    warnings.push(
      'TRUST_PROXY believes everybody: callers can forge X-Forwarded-For; name the addresses of your proxies',
    )
  }
  if (mode !== 'dev' && mayBeReadInTheClear(config)) {
    warnings.push(
      'DATABASE_URL may lead over a network without encryption: the password and what is read can be seen there; set sslmode=require, or better verify-full',
    )
  }
  if (mandateUses.includes('session')) {
    warnings.push(
      "MANDATE_USES accepts session: such a mandate is not consumed by its first use, and Caracal's STS exchanges only gateway",
    )
  }
  if (mandateUses.includes('resource')) {
    warnings.push("MANDATE_USES accepts resource: Caracal's STS exchanges only gateway")
  }
  if (config.jtiFailOpen) {
    warnings.push(
      'JTI_FAIL_OPEN lets a mandate be used again while Redis cannot answer; rc and stable refuse it',
    )
  }
  if (config.upstreamCidrAllowlist.length > 0 && config.upstreamPrivateNetworks === 'allow') {
    warnings.push(
      'UPSTREAM_CIDR_ALLOWLIST names exceptions to UPSTREAM_PRIVATE_NETWORKS=deny; with allow it restricts nothing',
    )
  }
  return warnings
}

/** Whether the way to the database leads over a network, and may go without encryption. */
function mayBeReadInTheClear({ databaseUrl }: Config): boolean {
  const address = databaseUrl && parseDatabaseUrl(databaseUrl.reveal())
  if (address === undefined || 'problem' in address) return false
  return (
    !address.host.startsWith('/') &&
    !isLocalHost(address.host) &&
    ['disable', 'allow', 'prefer'].includes(address.sslMode)
  )
}

/** The problems so far, and the variables that need no second one. */
class Report {
  readonly problems: string[] = []
  readonly #settled = new Set<string>()

  /** @param settles - the variable that is not looked at any further */
  add(name: string, rule: string, settles = name): void {
    this.problems.push(`${name} ${rule}`)
    this.#settled.add(settles)
  }

  has(...names: readonly string[]): boolean {
    return names.some(name => this.#settled.has(name))
  }
}

/** The texts of the known variables that are set, secrets from their files where they lie there. */
function readTexts(
  source: NodeJS.ProcessEnv,
  report: Report,
  names: readonly string[] = Object.keys(schema.properties),
): Record<string, string> {
  const texts: Record<string, string> = {}
  for (const name of names) {
    if (source[name]) texts[name] = source[name]
    const path = SECRETS.includes(name) && source[`${name}_FILE`]
    if (!path || texts[name] !== undefined) continue
    const text = readFile(path, rule => report.add(`${name}_FILE`, rule, name))?.trimEnd()
    if (text === '') {
      report.add(`${name}_FILE`, 'names an empty file; write the secret into it', name)
    } else if (text !== undefined) {
      texts[name] = text
    }
  }
  return texts
}

/** The meaning of the texts. What cannot be read is reported and counts as unset from then on. */
function readForms(texts: Readonly<Record<string, string>>, report: Report): Env {
  try {
    return applySchema(texts)
  } catch (error) {
    if (!isValidationError(error)) throw error
    const sound = { ...texts }
    for (const { instancePath, message, params } of error.errors) {
      const name = instancePath.slice(1)
      const { allowedValues } = params
      report.add(
        name,
        allowedValues ? `must be one of ${allowedValues.join(', ')}` : (message ?? 'is not valid'),
      )
      delete sound[name]
    }
    return applySchema(sound)
  }
}

/** Applies defaults and reads forms; throws a {@link ValidationError}. */
const applySchema = schemaLoader()

function schemaLoader(): (texts: Readonly<Record<string, string>>) => Env {
  // The first call leaves the validator here with the schema compiled, which is most of the work.
  let validator: NonNullable<EnvSchemaOpt['ajv']> = {
    customOptions: ajv => {
      validator = ajv
        .addVocabulary(['form', 'secret', 'optional', 'unit', 'defaultNote', 'requiredIn'])
        .addKeyword({ keyword: 'parse', type: 'string', modifying: true, compile: compileParse })
      return validator
    },
  }
  // Without `env: false` the loader adds the process's own environment to the data.
  return texts => envSchema<Env>({ schema, env: false, data: texts, ajv: validator })
}

/** A compiled keyword as the validator calls it; it leaves its errors on itself. */
interface Validate {
  (
    text: string,
    at?: { parentData: Record<string | number, unknown>; parentDataProperty: string | number },
  ): boolean
  errors?: { keyword: string; message: string; params: object }[]
}

/** The schema keyword `parse`: replaces a text by what it means to the entry of {@link KINDS}. */
function compileParse(name: KindName): Validate {
  const { read }: Kind<unknown> = KINDS[name]
  const validate: Validate = (text, at) => {
    const meaning = read(text)
    if (meaning instanceof Unfit) {
      validate.errors = [{ keyword: 'parse', message: meaning.rule, params: {} }]
      return false
    }
    if (at) at.parentData[at.parentDataProperty] = meaning
    return true
  }
  return validate
}

interface ValidationError extends Error {
  readonly errors: readonly {
    readonly instancePath: string
    readonly message?: string
    readonly params: { readonly allowedValues?: readonly string[] }
  }[]
}

function isValidationError(error: unknown): error is ValidationError {
  return error instanceof Error && 'errors' in error && Array.isArray(error.errors)
}

function checkRequired(env: Env, report: Report, names: readonly string[]): void {
  for (const [name, { requiredIn, secret }] of Object.entries<Entry>(schema.properties)) {
    if (!names.includes(name)) continue
    if (!requiredIn || Object.hasOwn(env, name) || report.has(name)) continue
    if (requiredIn === 'every mode') report.add(name, 'is required; set it')
    else if (env.CARACAL_MODE !== 'dev') {
      report.add(name, `is required in rc and stable; set it${secret ? ` or ${name}_FILE` : ''}`)
    }
  }
}

function checkCaFile(
  name: 'STS_CA_FILE' | 'UPSTREAM_CA_FILE' | 'REDIS_CA_FILE',
  env: Env,
  report: Report,
): void {
  const pem = readNamedFile(name, env, report)
  if (pem !== undefined && readCertificates(pem) === undefined) {
    report.add(name, 'must name a file of PEM certificates')
  }
}

function checkRules(env: Env, report: Report): void {
  const published = env.CARACAL_MODE !== 'dev'
  checkRequired(env, report, Object.keys(schema.properties))
  if (published) checkPublished(env, report)
  if (
    env.READ_TIMEOUT <= env.STS_TIMEOUT + env.UPSTREAM_TIMEOUT &&
    !report.has('READ_TIMEOUT', 'STS_TIMEOUT', 'UPSTREAM_TIMEOUT')
  ) {
    const sum = formatDuration(env.STS_TIMEOUT + env.UPSTREAM_TIMEOUT)
    report.add('READ_TIMEOUT', `must exceed STS_TIMEOUT + UPSTREAM_TIMEOUT (${sum}); raise it`)
  }
  const service = env.SHUTDOWN_TIMEOUT * SHUTDOWN_SHARES.service
  if (env.SHUTDOWN_DELAY >= service && !report.has('SHUTDOWN_DELAY', 'SHUTDOWN_TIMEOUT')) {
    const most = formatDuration(service)
    report.add(
      'SHUTDOWN_DELAY',
      `must be less than three quarters of SHUTDOWN_TIMEOUT (${most}); lower it`,
    )
  }
  if (
    env.STREAMS_HMAC_KEY_PREVIOUS &&
    !env.STREAMS_HMAC_KEY &&
    !report.has('STREAMS_HMAC_KEY') // in a published mode, or when it is malformed
  ) {
    report.add('STREAMS_HMAC_KEY_PREVIOUS', 'needs STREAMS_HMAC_KEY; set that, or unset this')
  }
  if (!published && env.AUDIT_DURABILITY !== undefined && env.AUDIT_DURABILITY !== 'relaxed') {
    if (env.AUDIT_REPLAY_DIR === undefined) {
      report.add('AUDIT_DURABILITY', 'needs AUDIT_REPLAY_DIR; set that, or unset this')
    }
  }
  checkWorkers(env, report)
  checkKeyPair('TLS', env, report)
  checkKeyPair('STS', env, report)
  if (env.STS_CERT_FILE && env.STS_URL?.startsWith('http:') && !report.has('STS_CERT_FILE')) {
    report.add('STS_CERT_FILE', 'needs an https STS_URL; set that, or unset this')
  }
  checkCaFile('STS_CA_FILE', env, report)
  checkCaFile('UPSTREAM_CA_FILE', env, report)
  checkCaFile('REDIS_CA_FILE', env, report)
  readNamedFile('BINDINGS_FILE', env, report)
  checkDatabase(env, report)
  const { OTEL_EXPORTER_OTLP_ENDPOINT: collector, OTEL_EXPORTER_OTLP_PROTOCOL: protocol } = env
  if (collector !== undefined && protocol !== undefined && protocol !== 'http/protobuf') {
    report.add('OTEL_EXPORTER_OTLP_PROTOCOL', 'must be http/protobuf; unset it')
  }
}

function checkWorkers(env: Env, report: Report): void {
  if (env.WORKERS === 1 || report.has('WORKERS')) return
  if (env.REDIS_URL === undefined && !report.has('REDIS_URL')) {
    report.add(
      'WORKERS',
      'needs REDIS_URL, or each worker would take a mandate once; set that, or unset this',
    )
  }
  const shared = [
    'MAX_IN_FLIGHT',
    ...(env.DATABASE_URL ? (['DB_MAX_CONNS'] as const) : []),
  ] as const
  for (const name of shared) {
    if (env[name] < env.WORKERS && !report.has(name)) {
      report.add(name, `must be WORKERS (${env.WORKERS}) at least; raise it`)
    }
  }
}

function checkDatabase(env: Env, report: Report): void {
  if (env.DB_MIN_CONNS > env.DB_MAX_CONNS && !report.has('DB_MIN_CONNS', 'DB_MAX_CONNS')) {
    report.add('DB_MIN_CONNS', 'must not be more than DB_MAX_CONNS; lower it')
  }
  const path = databaseCaFile(env)
  if (path === undefined) return
  const text = readFile(path, rule => report.add('DATABASE_URL', `has an sslrootcert that ${rule}`))
  if (text !== undefined && readCertificates(text) === undefined) {
    report.add('DATABASE_URL', 'has an sslrootcert that must name a file of PEM certificates')
  }
}

/** What `sslrootcert` of the `DATABASE_URL` names. */
function databaseCaFile({ DATABASE_URL }: Env): string | undefined {
  const address = DATABASE_URL && parseDatabaseUrl(DATABASE_URL.reveal())
  return address && 'sslRootCert' in address ? address.sslRootCert : undefined
}

function checkPublished(env: Env, report: Report): void {
  if (env.STS_URL?.startsWith('http:') && !isLocalHost(new URL(env.STS_URL).hostname)) {
    report.add(
      'STS_URL',
      'must be https in rc and stable, unless its host is loopback or a single label',
    )
  }
  if (env.JTI_FAIL_OPEN) {
    report.add('JTI_FAIL_OPEN', 'must not be true in rc and stable; unset it')
  }
  for (const name of ['INSECURE_STS', 'INSECURE_HTTP'] as const) {
    if (/^(?:true|1|yes)$/i.test(env[name] ?? '')) {
      report.add(name, 'must not be set in rc and stable; unset it')
    }
  }
}

function checkKeyPair(side: 'TLS' | 'STS', env: Env, report: Report): void {
  const [certName, keyName] = [`${side}_CERT_FILE`, `${side}_KEY_FILE`] as const
  if (env[certName] && !env[keyName]) {
    report.add(keyName, `is required together with ${certName}; set both or neither`)
  }
  if (env[keyName] && !env[certName]) {
    report.add(certName, `is required together with ${keyName}; set both or neither`)
  }
  const cert = readNamedFile(certName, env, report)
  const key = readNamedFile(keyName, env, report)
  for (const { of, rule } of keyPairProblems(cert, key)) {
    report.add(of === 'cert' ? certName : keyName, rule)
  }
}

/** The content of the file that a variable names; `undefined`, and a problem, if it has none. */
function readNamedFile(
  name:
    | `${'TLS' | 'STS'}_${'CERT' | 'KEY'}_FILE`
    | `${'STS' | 'UPSTREAM' | 'REDIS'}_CA_FILE`
    | 'BINDINGS_FILE',
  env: Env,
  report: Report,
): string | undefined {
  const path = env[name]
  return path === undefined ? undefined : readFile(path, rule => report.add(name, rule))
}

function readFile(path: string, fail: (rule: string) => void): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    // The code alone: the message holds the path, and the path may be a secret set by mistake.
    const code = error instanceof Error && 'code' in error ? ` (${String(error.code)})` : ''
    fail(`names a file that cannot be read${code}; name one that the gateway may read`)
    return undefined
  }
}

// Node's timers take a delay above this for 1 ms.
const LONGEST_TIMER = 2 ** 31 - 1

function readDuration(text: string, least: number): number | Unfit {
  const parsed = parseDuration(text)
  if (parsed === undefined) return new Unfit('must be a duration such as 5s, 1m30s or 250ms')
  // Rounded up: a duration that is not zero must not become zero, which to many means none.
  const milliseconds = Math.ceil(parsed)
  if (milliseconds < least) return new Unfit('must be longer than 0s')
  if (milliseconds > LONGEST_TIMER) {
    return new Unfit(`must not be longer than ${formatDuration(LONGEST_TIMER)}`)
  }
  return milliseconds
}

function readInteger(text: string, least: number, most: number): number | Unfit {
  const number = /^\d+$/.test(text) ? Number(text) : Number.NaN
  return number >= least && number <= most
    ? number
    : new Unfit(`must be a whole number from ${least} to ${most}, in digits`)
}

function readShare(text: string): number | Unfit {
  const number = /^(?:\d+\.?\d*|\.\d+)$/.test(text) ? Number(text) : Number.NaN
  return number <= 1 ? number : new Unfit('must be a number from 0 to 1, such as 0.1')
}

/** Go's `strconv.ParseBool`. */
function readBoolean(text: string): boolean | Unfit {
  if (/^(?:1|t|T|TRUE|true|True)$/.test(text)) return true
  if (/^(?:0|f|F|FALSE|false|False)$/.test(text)) return false
  return new Unfit('must be true or false')
}

function readDurability(text: string): 'relaxed' | 'strict' | 'synced' | Unfit {
  return text === 'relaxed' || text === 'strict' || text === 'synced'
    ? text
    : new Unfit('must be one of relaxed, strict, synced')
}

function readHost(text: string): string | Unfit {
  return isIP(text) !== 0 || /^[\w.-]+$/.test(text)
    ? text
    : new Unfit('must be an address or a host name, without brackets and port')
}

/**
 * The entries of a comma-separated list, each as `read` gives it.
 *
 * A list without an entry is refused: to an allowlist it would mean that everything is allowed.
 */
function readList(
  text: string,
  rule: string,
  read: (entry: string) => string | undefined,
): readonly string[] | Unfit {
  const entries = text
    .split(',')
    .map(entry => entry.trim())
    .filter(entry => entry !== '')
  if (entries.length === 0) return new Unfit('must have an entry; unset it if it should have none')
  const list = new Set<string>()
  for (const [index, entry] of entries.entries()) {
    const meaning = read(entry)
    if (meaning === undefined) return new Unfit(`must be ${rule}; look at entry ${index + 1}`)
    list.add(meaning)
  }
  return Object.freeze([...list])
}

function readUses(text: string): readonly string[] | Unfit {
  return readList(text, 'a comma-separated list of gateway, session and resource', entry =>
    ['gateway', 'session', 'resource'].includes(entry) ? entry : undefined,
  )
}

function readModules(text: string): readonly string[] | Unfit {
  return readList(text, 'a comma-separated list of package names and paths', entry =>
    /^[^\0\s]+$/.test(entry) ? entry : undefined,
  )
}

function readHosts(text: string): readonly string[] | Unfit {
  return readList(
    text,
    'a comma-separated list of host names, without scheme, port, path and wildcards',
    canonicalHost,
  )
}

/** A host as `URL.hostname` writes it, so that the two can be compared, and no dot at its end. */
function canonicalHost(host: string): string | undefined {
  const bare = host.replace(/^\[(.*)\]$/, '$1')
  if (isIP(bare) === 6) {
    return bare.includes('%') ? undefined : new URL(`http://[${bare}]`).hostname
  }
  const url = `http://${host}`
  return /^[\p{L}\p{M}\p{N}_.-]+$/u.test(host) && URL.canParse(url)
    ? new URL(url).hostname.replace(/\.$/, '')
    : undefined
}

function readNetworks(text: string): readonly string[] | Unfit {
  return readList(text, 'a comma-separated list of addresses and CIDRs', networkIn)
}

function networkIn(entry: string): string | undefined {
  return isNetwork(entry) ? entry : undefined
}

function isNetwork(text: string): boolean {
  const [address = '', prefix, ...rest] = text.split('/')
  const family = isIP(address)
  if (family === 0 || address.includes('%') || rest.length > 0) return false
  if (prefix === undefined) return true
  return /^(?:0|[1-9]\d{0,2})$/.test(prefix) && Number(prefix) <= (family === 4 ? 32 : 128)
}

function readProxies(text: string): boolean | readonly string[] | Unfit {
  const all = readBoolean(text)
  return all instanceof Unfit
    ? readList(text, 'true, false, or a comma-separated list of addresses and CIDRs', networkIn)
    : all
}

function readStsUrl(text: string): string | Unfit {
  return readUrl(text, 'https://sts.example.com')
}

function readCollectorUrl(text: string): string | Unfit {
  return readUrl(text, 'http://collector:4318')
}

function readUrl(text: string, example: string): string | Unfit {
  // `URL` passes over white space, backslashes and a missing `//`; an operator's mistake should not.
  const url = /^https?:\/\/[^\s\\/?#@]+(?:\/[^\s\\?#]*)?$/i.test(text) && URL.parse(text)
  if (!url || canonicalHost(url.hostname) === undefined) {
    return new Unfit(
      `must be an absolute http or https URL without credentials, query and fragment, such as ${example}`,
    )
  }
  return `${url.origin}${url.pathname}`.replace(/\/+$/, '')
}

function readAttributes(text: string): Readonly<Record<string, string>> | Unfit {
  return (
    parseKeyValues(text) ??
    new Unfit('must be a list of key=value, separated by commas and percent-encoded, no key twice')
  )
}

function readFields(text: string): Secret | Unfit {
  const fields = Object.entries(parseKeyValues(text) ?? {})
  return fields.length > 0 &&
    fields.every(([name, value]) => isFieldName(name) && isFieldValue(value))
    ? new Secret(text)
    : new Unfit('must be a list of name=value headers, separated by commas and percent-encoded')
}

function isLocalHost(host: string): boolean {
  const address = host.replace(/^\[(.*)\]$/, '$1')
  const family = isIP(address)
  if (family === 0) return !host.includes('.')
  const loopback = new BlockList()
  loopback.addSubnet('127.0.0.0', 8)
  loopback.addAddress('::1', 'ipv6')
  return loopback.check(address, family === 4 ? 'ipv4' : 'ipv6')
}

function readRedisUrl(text: string): Secret | Unfit {
  return parseRedisUrl(text) === undefined
    ? new Unfit(`must be ${REDIS_URL_FORMS}`)
    : new Secret(text)
}

function readDatabaseUrl(text: string): Secret | Unfit {
  const address = parseDatabaseUrl(text)
  return 'problem' in address ? new Unfit(address.problem) : new Secret(text)
}

function readHmacKey(text: string): Secret | Unfit {
  return /^(?:[0-9a-f]{2}){32,}$/i.test(text)
    ? new Secret(text)
    : new Unfit('must be hex digits, 32 bytes (64 digits) at least, such as openssl rand -hex 32')
}

function readBearer(text: string): Secret | Unfit {
  // Anything else never arrives in a header as it was written here: no caller could present it.
  return /^[!-~](?:[ -~]*[!-~])?$/.test(text)
    ? new Secret(text)
    : new Unfit('must be printable ASCII without white space at its ends')
}
