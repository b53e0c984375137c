// The root of the image on this machine, and what a container runtime would do with it: no Docker engine is needed.

import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync } from 'node:fs'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** uid and gid of the image's user. */
export const NOBODY = 65532

/** Why this machine cannot confine a process as a container runtime does; `undefined` when it can. */
export function whyNotHere(): string | undefined {
  if (process.platform !== 'linux') return 'containers of Linux need Linux'
  if (process.getuid?.() !== 0) return 'only root may confine a process as a container runtime does'
  const args = ['--mount', '--pid', '--fork', 'mount', '-t', 'proc', 'proc', '/proc']
  const tried = spawnSync('unshare', args, { encoding: 'utf8' })
  if (tried.error !== undefined) return 'util-linux is not installed'
  if (tried.status !== 0) return `this machine allows no namespaces: ${tried.stderr}`.trim()
  for (const tool of ['prlimit', 'setpriv', 'ldd']) {
    if (spawnSync(tool, ['--version']).error !== undefined) return `${tool} is not installed`
  }
  return undefined
}

/** Packages of the lock file that `npm ci --omit=dev --omit=optional` installs, as paths from the root. */
function productionPackages(): string[] {
  const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'))
  return Object.entries<{ dev?: boolean; optional?: boolean; devOptional?: boolean }>(packages)
    .filter(([path, { dev, optional, devOptional }]) => path && !dev && !optional && !devOptional)
    .map(([path]) => path)
}

/** Lays out in a new directory what the Dockerfile copies into the image; `dist` must be built. */
export function layOutImage(): string {
  const root = mkdtempSync(join(tmpdir(), 'caracal-image-'))
  chmodSync(root, 0o755)
  const copy = (from: string, to: string, mode = 0o755) => {
    mkdirSync(dirname(join(root, to)), { recursive: true })
    copyFileSync(from, join(root, to))
    chmodSync(join(root, to), mode)
  }
  copy(process.execPath, 'usr/local/bin/node')
  const libraries = execFileSync('ldd', [process.execPath], { encoding: 'utf8' })
  for (const library of libraries.match(/\/\S+/g) ?? []) copy(library, library)
  copy(join(ROOT, 'deploy/container/gateway'), 'usr/local/bin/gateway')
  copy(join(ROOT, 'deploy/container/healthcheck'), 'healthcheck')
  copy(join(ROOT, 'package.json'), 'app/package.json', 0o644)
  cpSync(join(ROOT, 'dist'), join(root, 'app/dist'), { recursive: true })
  for (const path of productionPackages()) {
    // A package within a package comes along with it.
    if (!path.slice(1).includes('/node_modules/')) {
      cpSync(join(ROOT, path), join(root, 'app', path), { recursive: true, dereference: true })
    }
  }
  mkdirSync(join(root, 'var/lib/caracal'), { recursive: true })
  // What a runtime brings along.
  for (const mountpoint of ['proc', 'dev']) mkdirSync(join(root, mountpoint))
  for (const device of ['null', 'zero', 'random', 'urandom']) {
    writeFileSync(join(root, 'dev', device), '')
  }
  return root
}

/** Removes what {@link layOutImage} made. */
export function removeImage(root: string): void {
  rmSync(root, { recursive: true, force: true })
}

/** How a volume is mounted: options of a tmpfs. */
export interface Volume {
  readonly path: string
  readonly options: string
}

/**
 * Runs a program of the image as `docker run --read-only --cap-drop=ALL --user=65532:65532 --pids-limit=256
 * --security-opt=no-new-privileges` would: alone in its pid namespace and its mounts, on this machine's network.
 */
export function runInImage(
  root: string,
  command: readonly string[],
  env: Readonly<Record<string, string>>,
  volume?: Volume,
): ChildProcess {
  const path = volume && `"$0${volume.path}"`
  const mounts = [
    'mount --bind "$0" "$0"',
    ...(path === undefined ? [] : [`mkdir -p ${path}`]),
    'mount -o remount,bind,ro,nosuid,nodev "$0"',
    ...(path === undefined
      ? []
      : [`mount -t tmpfs -o size=64m,noexec,nosuid,nodev,${volume?.options} evidence ${path}`]),
    'mount -t proc -o nosuid,nodev,noexec proc "$0/proc"',
    'for device in null zero random urandom; do mount --bind "/dev/$device" "$0/dev/$device"; done',
  ]
  const limits = 'prlimit --nproc=256 setpriv --no-new-privs --inh-caps=-all'
  const user = `unshare --root="$0" --wd=/app --setuid ${NOBODY} --setgid ${NOBODY}`
  // Each program becomes the next, and the last one is the gateway: the first of its namespace, as in a container.
  const script = [...mounts, `exec ${limits} ${user} "$@"`].join(' && ')
  const namespaces = ['--mount', '--pid', '--ipc', '--uts', '--fork', '--kill-child']
  const args = [...namespaces, 'sh', '-c', script, root, ...command]
  return spawn('unshare', args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
}

/** The process that {@link runInImage} started inside, once it is what was asked for: its pid as seen from here. */
export function insidePid(child: ChildProcess): number | undefined {
  const file = `/proc/${child.pid}/task/${child.pid}/children`
  if (!existsSync(file)) return undefined
  const [pid] = readFileSync(file, 'utf8').trim().split(' ')
  return pid ? Number(pid) : undefined
}
