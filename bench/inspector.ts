// A CPU profile of another process, by its inspector.

/** A node of a profile's call tree (the inspector's `Profiler.ProfileNode`). */
export interface ProfileNode {
  readonly id: number
  readonly callFrame: {
    readonly functionName: string
    readonly url: string
    readonly lineNumber: number
  }
  readonly children?: readonly number[]
}

/** A profile (`Profiler.Profile`): which node was seen when. */
export interface Profile {
  readonly nodes: readonly ProfileNode[]
  /** Node ids. */
  readonly samples: readonly number[]
  /** Microseconds from the sample before to each sample. */
  readonly timeDeltas: readonly number[]
}

interface Answer {
  readonly id?: number
  readonly result?: { readonly profile?: Profile }
  readonly error?: { readonly message: string }
}

/** Where a process that was started with `--inspect` says that it listens. */
export function inspectorUrl(errors: string): string {
  const url = /Debugger listening on (ws:\S+)/.exec(errors)?.[1]
  if (url === undefined) throw new Error('the gateway listens for no inspector')
  return url
}

/** Profiles while the work lasts. @param interval microseconds between two samples */
export async function profileWhile(
  url: string,
  interval: number,
  work: () => Promise<void>,
): Promise<Profile> {
  const socket = new WebSocket(url)
  const waiting = new Map<number, PromiseWithResolvers<Answer>>()
  socket.addEventListener('message', ({ data }) => {
    const answer: Answer = JSON.parse(String(data))
    waiting.get(answer.id ?? -1)?.resolve(answer)
  })
  const { promise: open, resolve, reject } = Promise.withResolvers<void>()
  socket.addEventListener('open', () => resolve())
  socket.addEventListener('close', () => {
    const error = new Error('the inspector has gone')
    reject(error)
    for (const { reject: fail } of waiting.values()) fail(error)
  })
  await open
  let last = 0
  const ask = async (method: string, params: object = {}) => {
    const answered = Promise.withResolvers<Answer>()
    waiting.set(++last, answered)
    socket.send(JSON.stringify({ id: last, method, params }))
    const { error, result } = await answered.promise
    if (error !== undefined) throw new Error(`${method}: ${error.message}`)
    return result
  }
  await ask('Profiler.enable')
  await ask('Profiler.setSamplingInterval', { interval })
  await ask('Profiler.start')
  await work()
  const stopped = await ask('Profiler.stop')
  socket.close()
  if (stopped?.profile === undefined) throw new Error('the inspector gave no profile')
  return stopped.profile
}
