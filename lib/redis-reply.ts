// Guarantees that what Redis answers about streams has the shape that the gateway counts on.

/** One entry of a stream; of a field that occurs twice the last counts. */
export interface StreamEntry {
  /** `<Unix milliseconds>-<sequence>`. */
  readonly id: string
  readonly fields: Readonly<Record<string, string>>
}

/** Enough to tell whether entries of a stream have gone missing (`XINFO STREAM`). */
export interface StreamInfo {
  /** Entries that are there. */
  readonly length: number
  /** The oldest and the newest entry that are there; undefined when the stream is empty. */
  readonly firstId: string | undefined
  readonly lastId: string | undefined
  /** The id that was given last, whether its entry is still there or not. */
  readonly lastGeneratedId: string
  /** Entries that were ever added, those included that are gone; undefined before Redis 7. */
  readonly entriesAdded: number | undefined
}

/** The members of a reply that lists names and values in turn. */
export function replyFields(reply: unknown): ReadonlyMap<unknown, unknown> {
  const flat: readonly unknown[] = Array.isArray(reply) ? reply : []
  const fields = new Map<unknown, unknown>()
  for (let at = 0; at + 1 < flat.length; at += 2) fields.set(flat[at], flat[at + 1])
  return fields
}

/** Reads the reply of `XINFO STREAM`. */
export function streamInfo(reply: unknown): StreamInfo {
  const fields = replyFields(reply)
  const entryId = (name: string) => {
    const entry = fields.get(name)
    return Array.isArray(entry) && typeof entry[0] === 'string' ? entry[0] : undefined
  }
  const added = fields.get('entries-added')
  const lastGeneratedId = fields.get('last-generated-id')
  return {
    length: Number(fields.get('length') ?? 0),
    firstId: entryId('first-entry'),
    lastId: entryId('last-entry'),
    lastGeneratedId: typeof lastGeneratedId === 'string' ? lastGeneratedId : '0-0',
    entriesAdded: added === undefined ? undefined : Number(added),
  }
}

/** Reads the reply of `XRANGE`, and of `XREAD` for one stream. */
export function streamEntries(reply: unknown): StreamEntry[] {
  if (!Array.isArray(reply)) return []
  const entries: StreamEntry[] = []
  for (const item of reply as readonly unknown[]) {
    if (!Array.isArray(item)) continue
    const [id, flat] = item as readonly unknown[]
    // A deleted entry may be listed without fields.
    if (typeof id !== 'string') continue
    const values: readonly unknown[] = Array.isArray(flat) ? flat : []
    const pairs: [string, string][] = []
    for (let at = 0; at + 1 < values.length; at += 2) {
      pairs.push([String(values[at]), String(values[at + 1])])
    }
    // fromEntries defines members: a field called __proto__ stays a field.
    entries.push({ id, fields: Object.fromEntries(pairs) })
  }
  return entries
}
