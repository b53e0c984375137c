// Guarantees that a caller's query can neither set nor shadow what the directive or the credential sets.

/** A credential that travels in the query (`auth_location: "query"`), not encoded yet. */
export interface QueryCredential {
  /** The directive's `query_param_name`. */
  readonly name: string
  /** The provider's token. */
  readonly value: string
}

/**
 * The upstream's query without its `?`, `''` when there is none: the caller's pairs, then the
 * directive's, then the credential.
 *
 * The caller's pairs stay byte for byte (empty ones too), less those whose decoded name the
 * directive or the credential sets. Names are case-sensitive and compared in every reading that an
 * upstream may have of them: as written, decoded with `+` as itself and as a space, with what cannot
 * be decoded left as it is, and with `;` as a separator. A caller's `#` becomes `%23`, so that it
 * cannot cut off what follows. The directive's pairs stay byte for byte, less those whose name the
 * credential sets. Source: contract section 5.
 *
 * @param caller the request's query, one character per byte.
 * @param directive the query of the directive's URL.
 * @throws URIError when the credential's name or value holds a lone surrogate.
 */
export function mergeQuery(
  caller: string | undefined,
  directive: string | undefined,
  credential?: QueryCredential,
): string {
  const owned = new Set<string>()
  if (credential !== undefined) owned.add(credential.name)
  // The directive is not out to smuggle: a semicolon in it is more likely a value than a pair.
  const fixed = without(directive, owned, pair => readings(nameOf(pair)))
  if (directive !== undefined) addNames(directive, owned)
  const kept = without(caller, owned, names)

  const parts: string[] = []
  if (kept !== '') parts.push(kept.replaceAll('#', '%23'))
  if (fixed !== '') parts.push(fixed)
  if (credential !== undefined) {
    parts.push(`${encodeURIComponent(credential.name)}=${encodeURIComponent(credential.value)}`)
  }
  return parts.join('&')
}

function without(
  query: string | undefined,
  owned: ReadonlySet<string>,
  namesOf: (pair: string) => string[],
): string {
  if (query === undefined || query === '') return ''
  if (owned.size === 0) return query
  return query
    .split('&')
    .filter(pair => pair === '' || !namesOf(pair).some(name => owned.has(name)))
    .join('&')
}

function addNames(query: string, owned: Set<string>): void {
  for (const pair of query.split('&')) {
    // An empty pair sets nothing.
    if (pair === '') continue
    for (const reading of readings(nameOf(pair))) owned.add(reading)
    // `a=1;b=2` sets `b` for an upstream that splits there; `a=x;y` is more likely a value.
    for (const piece of pair.split(';')) {
      if (piece.includes('=')) for (const reading of readings(nameOf(piece))) owned.add(reading)
    }
  }
}

// Every name that some upstream may read in one pair.
function names(pair: string): string[] {
  const whole = readings(nameOf(pair))
  return pair.includes(';')
    ? [...whole, ...pair.split(';').flatMap(piece => readings(nameOf(piece)))]
    : whole
}

function nameOf(pair: string): string {
  const equals = pair.indexOf('=')
  return equals === -1 ? pair : pair.slice(0, equals)
}

// Parsers that are handed the query with its mark cut one leading `?` off.
function readings(name: string): string[] {
  const bare = name.startsWith('?') ? name.replace(/^\?+/, '') : name
  const decoded = decodeLeniently(bare)
  const spaced = bare.includes('+') ? decodeLeniently(bare.replaceAll('+', ' ')) : decoded
  return [name, decoded, spaced]
}

const BEYOND_PLAIN = /[^\u0021-\u0024\u0026-\u007e]/
const TRIPLET = /%([0-9A-Fa-f]{2})/g

function decodeLeniently(name: string): string {
  if (!BEYOND_PLAIN.test(name)) return name
  const bytes = name.replace(TRIPLET, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  )
  return Buffer.from(bytes, 'latin1').toString('utf8')
}
