// Guarantees that DATABASE_URL means what it means to libpq, `sslmode` above all, and that nothing in it can switch
// anything else of the driver.

/** How the connection is encrypted, and what of the server is verified: libpq's `sslmode`. */
export type SslMode = (typeof SSL_MODES)[number]

/** What a `DATABASE_URL` says. */
export interface DatabaseAddress {
  /** Name or address without brackets; the folder of a Unix socket when it begins with a slash. */
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string | undefined
  readonly database: string
  readonly applicationName: string
  /** Settings that the server is given when a connection starts. */
  readonly options: string | undefined
  /** Milliseconds. */
  readonly connectTimeout: number | undefined
  readonly sslMode: SslMode
  /** Path of PEM certificates. */
  readonly sslRootCert: string | undefined
}

/** What is wrong with a URL: the rest of a sentence that begins with the variable's name, free of the URL's text. */
export interface DatabaseUrlProblem {
  readonly problem: string
}

/** What TLS is to be like, as `node:tls` takes it. */
export interface TlsDemand {
  readonly rejectUnauthorized: boolean
  /** PEM; undefined: the authorities that Node.js trusts. */
  readonly ca?: string
  /** Accepts whatever name the certificate bears. */
  readonly checkServerIdentity?: () => undefined
}

const SSL_MODES = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full'] as const

const PARAMETERS = [
  'host',
  'port',
  'user',
  'password',
  'dbname',
  'sslmode',
  'sslrootcert',
  'application_name',
  'options',
  'connect_timeout',
]

// The password may hold a bare `@`, as in other parsers of URLs; everything else is percent-encoded.
const FORM =
  /^postgres(?:ql)?:\/\/(?:([^:/?#\s@]*)(?::([^/?#\s]*))?@)?(\[[\da-f:.]+\]|[^[\]:/?#\s@]*)(?::(\d*))?(?:\/([^/?#\s]*))?(?:\?([^#\s]*))?$/i

/**
 * Reads a `DATABASE_URL` (libpq's connection URI, contract section 14).
 *
 * The parser of the driver is not used: it takes every query parameter for one of the driver's own options, takes an
 * unknown `sslmode`, and an absent one, for something else than libpq does, and reads files.
 */
export function parseDatabaseUrl(text: string): DatabaseAddress | DatabaseUrlProblem {
  const parts = FORM.exec(text)
  // The protocol ends a text with NUL: what follows one would be read as something else.
  if (parts === null || text.includes('%00')) return { problem: MALFORMED }
  const [, userPart, passwordPart, hostPart = '', portPart, databasePart, query = ''] = parts
  const parameters = new Map<string, string>()
  for (const [index, [name, value]] of [...new URLSearchParams(query)].entries()) {
    if (!PARAMETERS.includes(name)) {
      const known = PARAMETERS.join(', ')
      return { problem: `takes only the parameters ${known}; look at parameter ${index + 1}` }
    }
    if (parameters.has(name)) return { problem: `has the parameter ${name} twice; leave one` }
    if (value !== '') parameters.set(name, value)
  }
  const decode = (name: string, part: string | undefined) =>
    parameters.get(name) ?? (part ? decodeURIComponent(part) : undefined)
  try {
    return checked({
      host: decode('host', hostPart.replace(/^\[(.*)\]$/, '$1')),
      port: decode('port', portPart),
      user: decode('user', userPart),
      password: decode('password', passwordPart),
      database: decode('dbname', databasePart),
      parameters,
    })
  } catch {
    // A percent sign that begins no encoded character.
    return { problem: MALFORMED }
  }
}

const MALFORMED =
  'must be postgres://user:password@host:port/database, user and password percent-encoded'

interface Raw {
  readonly host: string | undefined
  readonly port: string | undefined
  readonly user: string | undefined
  readonly password: string | undefined
  readonly database: string | undefined
  readonly parameters: ReadonlyMap<string, string>
}

function checked(raw: Raw): DatabaseAddress | DatabaseUrlProblem {
  const { host, port = '5432', user, password, database = user, parameters } = raw
  if (host === undefined) return { problem: 'must name a host' }
  if (/,/.test(host) || /,/.test(port)) {
    return { problem: 'must name one host; several are not supported, put a proxy before them' }
  }
  if (!/^\d{1,5}$/.test(port) || Number(port) < 1 || Number(port) > 65_535) {
    return { problem: 'must have a port from 1 to 65535, or none' }
  }
  // libpq would take the system's user, the driver a variable of the environment.
  if (user === undefined || database === undefined) return { problem: 'must name a user' }
  const sslRootCert = parameters.get('sslrootcert')
  const fromSystem = sslRootCert === 'system'
  const asked = parameters.get('sslmode') ?? (fromSystem ? 'verify-full' : 'prefer')
  const sslMode = SSL_MODES.find(mode => mode === asked)
  if (sslMode === undefined) return { problem: `must have an sslmode of ${SSL_MODES.join(', ')}` }
  if (fromSystem && sslMode !== 'verify-full') {
    return { problem: 'must have sslmode=verify-full with sslrootcert=system' }
  }
  if (sslMode === 'verify-ca' && sslRootCert === undefined) {
    return { problem: 'needs sslrootcert with sslmode=verify-ca; add it, or use verify-full' }
  }
  const seconds = parameters.get('connect_timeout') ?? '0'
  if (!/^\d{1,6}$/.test(seconds)) return { problem: 'must have a connect_timeout in whole seconds' }
  return {
    host,
    port: Number(port),
    user,
    password,
    database,
    applicationName: parameters.get('application_name') ?? 'caracal-gateway',
    options: parameters.get('options'),
    connectTimeout: Number(seconds) === 0 ? undefined : Number(seconds) * 1_000,
    sslMode,
    sslRootCert: fromSystem ? undefined : sslRootCert,
  }
}

const UNVERIFIED: TlsDemand = { rejectUnauthorized: false }

/**
 * How to connect, the first way first: false is without TLS. `prefer` and `allow` know a second way for a server that
 * will not have the first.
 *
 * @param authorities the certificates of `sslrootcert`, PEM
 */
export function tlsWays(
  { host, sslMode }: Pick<DatabaseAddress, 'host' | 'sslMode'>,
  authorities: string | undefined,
): readonly [false | TlsDemand, (false | TlsDemand)?] {
  // TLS is not spoken through a Unix socket, whatever sslmode says.
  if (host.startsWith('/')) return [false]
  const ca = authorities === undefined ? {} : { ca: authorities }
  const byChain = { rejectUnauthorized: true, ...ca, checkServerIdentity: () => undefined }
  switch (sslMode) {
    case 'disable':
      return [false]
    case 'allow':
      return [false, UNVERIFIED]
    case 'prefer':
      return [UNVERIFIED, false]
    case 'require':
      // libpq documents it so: whoever names an authority wants it to be asked.
      return [authorities === undefined ? UNVERIFIED : byChain]
    case 'verify-ca':
      return [byChain]
    case 'verify-full':
      return [{ rejectUnauthorized: true, ...ca }]
  }
}
