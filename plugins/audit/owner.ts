/**
 * Guarantees that no living process is taken for a dead one, whose evidence somebody else may recover.
 */
import { readFile, readlink } from 'node:fs/promises'
import { hostname } from 'node:os'

/** Who a process is, told apart from all that had or will have its number. */
export interface Owner {
  readonly pid: number
  readonly host: string
  /** Clock ticks from the boot to the process's start; undefined where there is no `/proc`. */
  readonly startTime: string | undefined
  readonly boot: string | undefined
  readonly pidNamespace: string | undefined
}

/** This process. */
export async function thisProcess(): Promise<Owner> {
  const [stat, boot, pidNamespace] = await Promise.all([
    processStat(process.pid),
    readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => undefined),
    readlink('/proc/self/ns/pid').catch(() => undefined),
  ])
  return {
    pid: process.pid,
    host: hostname(),
    startTime: stat?.startTime,
    boot: boot?.trim(),
    pidNamespace,
  }
}

/** The owner that a file tells of; `undefined` when it is none. */
export function readOwner(text: string): Owner | undefined {
  try {
    const owner: unknown = JSON.parse(text)
    if (typeof owner !== 'object' || owner === null || !('pid' in owner)) return undefined
    const { pid } = owner
    if (typeof pid !== 'number' || !Number.isInteger(pid) || pid < 1) return undefined
    return {
      pid,
      host: member(owner, 'host') ?? '',
      startTime: member(owner, 'startTime'),
      boot: member(owner, 'boot'),
      pidNamespace: member(owner, 'pidNamespace'),
    }
  } catch {
    return undefined
  }
}

/** Whether a process lives, as seen by `self`; `undefined` when it cannot be seen from here. */
export async function lives(owner: Owner, self: Owner): Promise<boolean | undefined> {
  const visible =
    self.boot === undefined
      ? owner.boot === undefined && owner.host === self.host
      : owner.boot === self.boot &&
        owner.pidNamespace === self.pidNamespace &&
        self.pidNamespace !== undefined
  if (!visible) return undefined
  if (!exists(owner.pid)) return false
  const stat = await processStat(owner.pid)
  // Ended, and waiting for its parent to take note.
  if (stat?.state === 'Z' || stat?.state === 'X') return false
  // Without a start time it may be another process by now: then its heartbeat decides.
  if (stat === undefined || owner.startTime === undefined) return undefined
  return stat.startTime === owner.startTime
}

function exists(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    // EPERM: it is somebody else's.
    return !(error instanceof Error && 'code' in error && error.code === 'ESRCH')
  }
}

async function processStat(pid: number): Promise<{ state: string; startTime: string } | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  // The second field is the program's name in parentheses, which may hold anything.
  const fields = text?.slice(text.lastIndexOf(')') + 2).split(' ')
  const [state, startTime] = [fields?.[0], fields?.[19]]
  return state !== undefined && startTime !== undefined ? { state, startTime } : undefined
}

function member(object: object, name: string): string | undefined {
  const value: unknown = Reflect.get(object, name)
  return typeof value === 'string' ? value : undefined
}
