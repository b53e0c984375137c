// A real PostgreSQL for tests: a child process on loopback, gone with the test that started it.
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, existsSync, readdirSync, readFileSync } from 'node:fs'
import { appendFile, chmod, chown, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { Client, escapeIdentifier } from 'pg'
import type { TestCertificate } from './certificate.ts'
import { type Cleanup, freePort, withFreshPort } from './redis.ts'

/** A running server and the ways to trouble it. */
export interface TestPostgres {
  readonly port: number
  /** Where its Unix socket lies. */
  readonly dir: string
  /** URL of the gateway's role, which may select and nothing else once there is a {@link TestPostgres.schema}. */
  readonly url: string
  /** URL of the owner, who is a superuser: no row-level security applies. */
  readonly adminUrl: string
  /** Runs a statement as the owner; several, separated by semicolons, where there are no parameters. */
  query(sql: string, parameters?: readonly unknown[]): Promise<Record<string, unknown>[]>
  /** Adds rows; a column that a row does not name gets its default. */
  insert(table: string, ...rows: readonly Readonly<Record<string, unknown>>[]): Promise<void>
  /** Creates the tables of contract section 14, with row-level security by zone, and lets the role select. */
  schema(): Promise<void>
  /** Ends the server at once and hard; what was committed is kept. */
  stop(): Promise<void>
  /** Starts it again on the same port, with the same data. */
  start(): Promise<void>
  /** It answers nothing, new connections included, but keeps what it has, until {@link TestPostgres.resume}. */
  pause(): void
  resume(): void
}

/** Options of {@link startPostgres}. */
export interface TestPostgresOptions {
  /** What the server shows to clients that ask for TLS. Default: it offers none. */
  readonly certificate?: TestCertificate
  /** Lines of `pg_hba.conf` that come before the usual ones. */
  readonly access?: readonly string[]
}

/** The gateway's role. */
export const ROLE = 'caracal_gateway'
/** Its password; percent-encoded in a URL. */
export const PASSWORD = 'pass/word@1'
/** The database of the tables. */
export const DATABASE = 'caracal'

/**
 * Starts PostgreSQL on a free port and ends it when the test is over.
 *
 * @throws Error when the server does not come up; is it installed?
 */
export async function startPostgres(
  t: Cleanup,
  options: TestPostgresOptions = {},
): Promise<TestPostgres> {
  const bin = binaries()
  const user = unprivileged()
  const dir = await mkdtemp(join(tmpdir(), 'gateway-postgres-'))
  let server: ChildProcess | undefined
  t.after(async () => {
    if (server !== undefined) await end(server)
    await rm(dir, { recursive: true, force: true })
  })
  if (user !== undefined) await chown(dir, user.uid, user.gid)
  const data = join(dir, 'data')
  const initialise = ['-D', data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--no-locale']
  // In a folder of its own: a current directory that the other user must not read is an error to it.
  await run(join(bin, 'initdb'), [...initialise, '--no-sync'], { cwd: dir, ...user })
  const access = [
    ...(options.access ?? []),
    'local all all trust',
    'host all postgres 127.0.0.1/32 trust',
    'host all all 127.0.0.1/32 scram-sha-256',
  ]
  await writeFile(join(data, 'pg_hba.conf'), `${access.join('\n')}\n`)
  const settings = [
    '-F',
    '-k',
    dir,
    '-c',
    'listen_addresses=127.0.0.1',
    '-c',
    'shared_buffers=16MB',
  ]
  if (options.certificate !== undefined) {
    const { key, cert } = options.certificate
    await writeFile(join(data, 'server.crt'), cert)
    await writeFile(join(data, 'server.key'), key)
    await chmod(join(data, 'server.key'), 0o600)
    // Not on the command line, so that a test can switch it by `alter system`.
    await appendFile(join(data, 'postgresql.conf'), 'ssl = on\n')
  }
  if (user !== undefined) {
    for (const name of readdirSync(data)) chownSync(join(data, name), user.uid, user.gid)
  }
  const serve = (port: number) =>
    startServer(join(bin, 'postgres'), ['-D', data, '-p', `${port}`, ...settings], {
      cwd: dir,
      ...user,
    })
  let port = 0
  server = await withFreshPort(async () => {
    port = await freePort()
    return serve(port)
  })

  const connect = async (database: string) => {
    const client = new Client({ host: dir, port, user: 'postgres', database })
    client.on('error', () => undefined)
    await client.connect()
    return client
  }
  const query = async (sql: string, parameters?: readonly unknown[], database = DATABASE) => {
    const client = await connect(database)
    try {
      const { rows } = await client.query<Record<string, unknown>>(
        sql,
        parameters === undefined ? undefined : [...parameters],
      )
      return rows
    } finally {
      await client.end()
    }
  }
  await query(`create database ${DATABASE}`, undefined, 'postgres')
  await query(`create role ${ROLE} login password '${PASSWORD}'`)

  let stopped: readonly number[] = []
  const resume = () => {
    for (const pid of stopped) signal(pid, 'SIGCONT')
    stopped = []
  }
  return {
    port,
    dir,
    url: `postgres://${ROLE}:${encodeURIComponent(PASSWORD)}@127.0.0.1:${port}/${DATABASE}`,
    adminUrl: `postgres://postgres@127.0.0.1:${port}/${DATABASE}`,
    query: (sql, parameters) => query(sql, parameters),
    async insert(table, ...rows) {
      const client = await connect(DATABASE)
      try {
        for (const row of rows) {
          const columns = Object.keys(row).map(escapeIdentifier).join(', ')
          const places = Object.keys(row).map((_, index) => `$${index + 1}`)
          await client.query(
            `insert into ${escapeIdentifier(table)} (${columns}) values (${places.join(', ')})`,
            // The driver would write an array as one of PostgreSQL's; here it is always JSON.
            Object.values(row).map(it => (Array.isArray(it) ? JSON.stringify(it) : it)),
          )
        }
      } finally {
        await client.end()
      }
    },
    async schema() {
      await query(SCHEMA)
    },
    async stop() {
      resume()
      if (server !== undefined) await end(server)
    },
    async start() {
      if (server !== undefined) await end(server)
      server = await serve(port)
    },
    pause() {
      // The postmaster first: what it starts afterwards would go on.
      const postmaster = server?.pid ?? 0
      signal(postmaster, 'SIGSTOP')
      const backends = childrenOf(postmaster)
      for (const pid of backends) signal(pid, 'SIGSTOP')
      stopped = [...backends, postmaster]
    },
    resume,
  }
}

const TABLES = ['resources', 'authority_records', 'sessions', 'delegation_edges']

const SCHEMA = [
  `create table resources (
    id text primary key default gen_random_uuid()::text,
    zone_id text not null,
    identifier text not null,
    upstream_url text,
    operations jsonb not null default '[]',
    operation_enforcement text not null default 'enforced',
    archived_at timestamptz,
    updated_at timestamptz not null default now(),
    check (operation_enforcement in ('enforced', 'transport_uniform'))
  )`,
  `create table authority_records (
    id text primary key,
    zone_id text not null,
    status text not null check (status in ('active', 'revoked', 'expired')),
    expires_at timestamptz not null default now() + interval '1 hour',
    revoked_at timestamptz
  )`,
  `create table sessions (
    id text primary key,
    zone_id text not null,
    status text not null check (status in ('active', 'suspended', 'terminated', 'expired')),
    updated_at timestamptz not null default now()
  )`,
  `create table delegation_edges (
    id text primary key,
    zone_id text not null,
    status text not null check (status in ('active', 'revoked', 'expired')),
    revoked_at timestamptz
  )`,
  ...TABLES.flatMap(table => [
    `alter table ${table} enable row level security`,
    `create policy zone on ${table} using (current_setting('caracal.zone_id', true) in (zone_id, '*'))`,
    `grant select on ${table} to ${ROLE}`,
  ]),
].join(';\n')

const run = promisify(execFile)

/** The folder that holds `initdb` and `postgres`. */
function binaries(): string {
  const { POSTGRES_BIN, PATH = '' } = process.env
  if (POSTGRES_BIN) return POSTGRES_BIN
  const debian = '/usr/lib/postgresql'
  const versions = existsSync(debian) ? readdirSync(debian).map(Number) : []
  const folders = [
    ...PATH.split(delimiter),
    ...versions.sort((a, b) => b - a).map(version => join(debian, `${version}`, 'bin')),
  ]
  const found = folders.find(folder =>
    ['initdb', 'postgres'].every(name => existsSync(join(folder, name))),
  )
  if (found === undefined) {
    throw new Error('PostgreSQL is needed: install it, or set POSTGRES_BIN to the folder of initdb')
  }
  return found
}

/** Whom to run as where the test runs as root, which PostgreSQL and PgBouncer refuse. */
export function unprivileged(): { uid: number; gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined
  const users = readFileSync('/etc/passwd', 'utf8')
  const entry = /^postgres:.*/m.exec(users) ?? /^nobody:.*/m.exec(users)
  const [, , uid, gid] = entry?.[0].split(':') ?? []
  if (uid === undefined) throw new Error('PostgreSQL needs a user that is not root')
  return { uid: Number(uid), gid: Number(gid) }
}

async function startServer(
  program: string,
  args: readonly string[],
  options: { readonly cwd: string; readonly uid?: number; readonly gid?: number },
): Promise<ChildProcess> {
  const server = spawn(program, args, { ...options, stdio: ['ignore', 'ignore', 'pipe'] })
  // A test run that breaks off leaves no server behind: SIGKILL ends those that are stopped too.
  const onExit = () => {
    const { pid = 0 } = server
    for (const process of [...childrenOf(pid), pid]) signal(process, 'SIGKILL')
  }
  process.once('exit', onExit)
  server.once('exit', () => process.off('exit', onExit))
  let output = ''
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.once('close', () => reject(new Error(`postgres ended: ${output}`)))
    server.stderr.setEncoding('utf8').on('data', (text: string) => {
      if (output.includes('ready to accept connections')) return
      output += text
      if (output.includes('ready to accept connections')) resolve()
    })
  })
  return server
}

async function end(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return
  const { pid = 0 } = server
  const ended = once(server, 'exit')
  // Ends its backends with it, without waiting for anyone; those that are stopped must run for that.
  server.kill('SIGQUIT')
  for (const process of [...childrenOf(pid), pid]) signal(process, 'SIGCONT')
  await ended
}

function childrenOf(parent: number): number[] {
  if (process.platform === 'linux') {
    const file = `/proc/${parent}/task/${parent}/children`
    if (existsSync(file)) return readFileSync(file, 'utf8').split(' ').filter(Boolean).map(Number)
  }
  const { stdout } = spawnSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' })
  return stdout
    .split('\n')
    .map(line => line.trim().split(/\s+/).map(Number))
    .flatMap(([pid = 0, ppid]) => (ppid === parent ? [pid] : []))
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {
    // It has ended meanwhile.
  }
}
