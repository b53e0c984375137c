// Grants nothing that Caracal's STS would refuse: the development STS of the demo, the compose file and the tests.

import {
  createHash,
  createHmac,
  generateKeyPairSync,
  type KeyObject,
  randomUUID,
  sign as signBytes,
  timingSafeEqual,
  verify as verifyBytes,
} from 'node:crypto'
import { once } from 'node:events'
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'

/** A routing directive as the STS answers it (contract section 4); tests pass hostile ones too. */
export type Directive = Readonly<Record<string, unknown>>

/** Claims of a token; a member that is `undefined` is left out of it. */
export type Claims = Readonly<Record<string, unknown>>

/** An answer that replaces the real one. What it does not name stays as it would have been. */
export interface Override {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  /** Sent as it is; an object is sent as JSON. */
  readonly body?: string | Buffer | object
  /** Milliseconds to wait before the answer, or a promise to wait for. */
  readonly delay?: number | Promise<unknown>
  /** Closes the connection instead of answering, or after half of the body. */
  readonly destroy?: 'before' | 'midway'
}

/** What a test may change about the answer to an exchange that passed every check. */
export interface ExchangeOverride extends Override {
  /** Replaces the directive of the resource. */
  readonly directive?: Directive
  /** Members that are laid over the JSON answer; `undefined` removes one. */
  readonly answer?: Claims
}

/** One request to the token endpoint or for a key set, as it arrived. */
export interface RecordedRequest {
  readonly method: string
  /** Path and query. */
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly rawHeaders: readonly string[]
  /** Milliseconds since the epoch. */
  readonly at: number
}

/** One exchange as it arrived, and how it was judged. */
export interface Exchange extends RecordedRequest {
  readonly body: string
  readonly fields: Readonly<Record<string, string>>
  /** Claims of the subject token; absent when the exchange was refused before they were read. */
  readonly claims?: Claims
  /** Why the STS refused; absent when it did not. */
  readonly refusal?: OAuthError
}

/** An error answer after RFC 6749 section 5.2. */
export interface OAuthError {
  readonly status: number
  readonly error: string
  readonly error_description: string
}

/** One signing key of a zone. */
export interface ZoneKey {
  readonly kid: string
  readonly privateKey: KeyObject
  readonly publicKey: KeyObject
  /** The public key as the key set holds it. */
  readonly jwk: Readonly<Record<string, unknown>>
}

/** How a token is signed by {@link DevSts.sign}. */
export interface SignOptions {
  /** Default: the first zone. */
  readonly zone?: string
  /** A private key, or the secret of an HMAC; default: the zone's newest key. */
  readonly key?: KeyObject | Buffer
}

/** Options of {@link createDevSts}. */
export interface DevStsOptions {
  /** `iss` and `aud` of every mandate. Default {@link DEV_ISSUER}. */
  readonly issuer?: string
  /** The zones it knows, at least one. */
  readonly zones: readonly string[]
  /** Resource identifier -> directive. */
  readonly resources: Readonly<Record<string, Directive>>
  /** `GATEWAY_STS_HMAC_KEY`: hex text or bytes, 32 bytes at least. Unset: signatures are not asked for. */
  readonly hmacKey?: string | Buffer
  /** Milliseconds since the epoch. Default `Date.now`. */
  readonly clock?: () => number
  /** Keeps what arrived in `exchanges` and `jwksRequests`, the last 10,000 of each. Default false. */
  readonly record?: boolean
  /** Serves `/mint`. Default true. */
  readonly mint?: boolean
  /** Serves TLS with this PEM key and certificate. */
  readonly tls?: { readonly key: string | Buffer; readonly cert: string | Buffer }
  /** Sees every exchange once it is judged. */
  readonly onExchange?: (exchange: Exchange) => void
  /** Changes the answer to an exchange that passed every check. */
  readonly respond?: Respond
}

/** See {@link DevStsOptions.respond}. */
export type Respond = (
  exchange: Exchange,
) => ExchangeOverride | undefined | Promise<ExchangeOverride | undefined>

/** A running development STS. */
export interface DevSts {
  readonly issuer: string
  /** Where it listens, without a trailing slash; throws before `listen`. */
  readonly url: string
  readonly exchanges: Exchange[]
  readonly jwksRequests: RecordedRequest[]
  /** May be replaced while it runs. */
  respond: Respond | undefined
  /** Listens; port 0 lets the system choose. Resolves with {@link DevSts.url}. */
  listen(port?: number, host?: string): Promise<string>
  /** Stops at once; open connections are closed. */
  close(): Promise<void>
  /** A mandate that passes every check, with these claims laid over it. */
  mint(claims?: Claims): string
  /**
   * Any token. A header or a payload given as text is signed as it is. `alg` HS256 signs with the
   * key as HMAC secret, `none` leaves the signature empty, all else is ES256.
   */
  sign(header: Claims | string, claims: Claims | string, options?: SignOptions): string
  /** The zone's keys, newest last. Throws when the zone is unknown. */
  keys(zone?: string): readonly ZoneKey[]
  /** Adds a key that signs from now on, keeps the old ones, and returns its `kid`. */
  rotate(zone?: string): string
  /** Takes every key but the newest out of the key set. */
  dropOldKeys(zone?: string): void
  /** Sets or removes a resource's directive. */
  setResource(resource: string, directive: Directive | undefined): void
  /** Replaces the answer to a zone's key set; `undefined` ends that. */
  setJwks(zone: string, override: Override | undefined): void
  /** Replaces the answer of `/health`; `undefined` ends that. */
  setHealth(override: Override | undefined): void
}

/** The issuer when none is given. */
export const DEV_ISSUER = 'https://dev-sts.caracal.invalid'

const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token'
const FIELDS = [
  'grant_type',
  'zone_id',
  'application_id',
  'subject_token',
  'subject_token_type',
  'resource',
  'request_method',
  'request_path',
  'gateway_request_id',
] as const
const MAX_BODY_BYTES = 64 * 1024
const MAX_RECORDS = 10_000
const MAX_NONCES = 100_000
const CLOCK_SKEW_SECONDS = 60
const MANDATE_SECONDS = 300
const RESOURCE_TOKEN_SECONDS = 300
const MAX_TTL_SECONDS = 86_400
const MINT_MEMBERS = ['zone_id', 'client_id', 'scope', 'sub', 'sub_type'] as const

class Refusal extends Error {
  readonly answer: OAuthError
  constructor(status: number, error: string, description: string) {
    super(description)
    this.answer = { status, error, error_description: description }
  }
}

const invalidRequest = (text: string) => new Refusal(400, 'invalid_request', text)
const invalidGrant = (text: string) => new Refusal(400, 'invalid_grant', text)
const invalidClient = (text: string) => new Refusal(401, 'invalid_client', text)

/**
 * Makes a development STS. It does not listen yet.
 *
 * @throws TypeError when no zone is named, or the HMAC key is not hex or under 32 bytes.
 */
export function createDevSts(options: DevStsOptions): DevSts {
  const issuer = options.issuer ?? DEV_ISSUER
  const now = options.clock ?? Date.now
  const hmacKey = hmacKeyBytes(options.hmacKey)
  const zones = new Set(options.zones)
  const [firstZone] = options.zones
  if (firstZone === undefined) throw new TypeError('zones: name at least one zone')
  const resources = new Map(Object.entries(options.resources))
  const keySets = new Map<string, ZoneKey[]>()
  const jwksOverrides = new Map<string, Override>()
  let healthOverride: Override | undefined
  const spendNonce = nonceGuard(now)

  function keys(zone: string = firstZone ?? ''): ZoneKey[] {
    if (!zones.has(zone)) throw new RangeError(`zone ${zone} is not known to the development STS`)
    let set = keySets.get(zone)
    if (set === undefined) {
      set = [createZoneKey()]
      keySets.set(zone, set)
    }
    return set
  }

  function sign(header: Claims | string, claims: Claims | string, using: SignOptions = {}): string {
    const zoneKey = newest(keys(using.zone))
    const key = using.key ?? zoneKey.privateKey
    const algorithm = typeof header === 'string' ? 'ES256' : (header['alg'] ?? 'ES256')
    const head =
      typeof header === 'string'
        ? header
        : JSON.stringify({ alg: 'ES256', kid: zoneKey.kid, typ: 'JWT', ...header })
    const payload = typeof claims === 'string' ? claims : JSON.stringify(claims)
    const input = `${base64url(head)}.${base64url(payload)}`
    if (algorithm === 'none') return `${input}.`
    if (algorithm === 'HS256') {
      return `${input}.${createHmac('sha256', key).update(input).digest('base64url')}`
    }
    if (Buffer.isBuffer(key)) throw new TypeError('key: ES256 needs a private key')
    const signature = signBytes('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' })
    return `${input}.${signature.toString('base64url')}`
  }

  function mandateClaims(overrides: Claims): Claims {
    const issuedAt = Math.floor(now() / 1000)
    const session = randomUUID()
    return {
      iss: issuer,
      aud: issuer,
      sub: 'dev-user',
      sub_type: 'user',
      iat: issuedAt,
      exp: issuedAt + MANDATE_SECONDS,
      jti: randomUUID(),
      zone_id: firstZone,
      client_id: 'dev-client',
      sid: session,
      root_sid: session,
      use: 'gateway',
      scope: '',
      target: [...resources.keys()],
      ...overrides,
    }
  }

  function mint(overrides: Claims = {}): string {
    const claims = mandateClaims(overrides)
    const zone = claims['zone_id']
    return sign({}, claims, typeof zone === 'string' && zones.has(zone) ? { zone } : {})
  }

  function verifySubject(token: string, zone: string): Claims {
    const parts = token.split('.')
    const [head = '', payload = '', signature = ''] = parts
    const header = parseObject(Buffer.from(head, 'base64url').toString())
    if (parts.length !== 3 || header === undefined || !parts.every(isCanonical)) {
      throw invalidGrant('subject_token is malformed')
    }
    if (!zones.has(zone)) throw invalidGrant('zone_id is not known')
    const key = keys(zone).find(candidate => candidate.kid === header['kid'])
    const verified =
      key !== undefined &&
      header['alg'] === 'ES256' &&
      header['crit'] === undefined &&
      verifyBytes(
        'sha256',
        Buffer.from(`${head}.${payload}`),
        { key: key.publicKey, dsaEncoding: 'ieee-p1363' },
        Buffer.from(signature, 'base64url'),
      )
    if (!verified) throw invalidGrant('subject_token signature is invalid')
    const claims = parseObject(Buffer.from(payload, 'base64url').toString())
    if (claims === undefined) throw invalidGrant('subject_token is malformed')
    return claims
  }

  function judge(request: RecordedRequest, body: string, fields: Record<string, string>): Claims {
    requireHeader(request, 'accept', 'application/json')
    requireHeader(request, 'user-agent', 'caracal-gateway')
    if (hmacKey !== undefined) verifyGatewaySignature(request, body, hmacKey, now(), spendNonce)
    readForm(request, body, fields)
    if (fields['grant_type'] !== TOKEN_EXCHANGE) {
      throw new Refusal(400, 'unsupported_grant_type', 'grant_type is not token-exchange')
    }
    if (fields['subject_token_type'] !== ACCESS_TOKEN) {
      throw invalidRequest('subject_token_type is not access_token')
    }
    if (fields['gateway_request_id'] !== onlyHeader(request, 'x-request-id')) {
      throw invalidRequest('gateway_request_id differs from X-Request-Id')
    }
    if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(fields['request_method'] ?? '')) {
      throw invalidRequest('request_method is not a method')
    }
    if (!fields['request_path']?.startsWith('/')) throw invalidRequest('request_path is not a path')

    const claims = verifySubject(fields['subject_token'] ?? '', fields['zone_id'] ?? '')
    const seconds = now() / 1000
    const audience = claims['aud']
    const target = claims['target']
    if (claims['iss'] !== issuer) throw invalidGrant('subject_token iss is another issuer')
    if (audience !== issuer && !(Array.isArray(audience) && audience.includes(issuer))) {
      throw invalidGrant('subject_token aud is not this issuer')
    }
    if (!(typeof claims['exp'] === 'number' && claims['exp'] > seconds)) {
      throw invalidGrant('subject_token has expired')
    }
    if (claims['nbf'] !== undefined && !(Number(claims['nbf']) <= seconds)) {
      throw invalidGrant('subject_token is not valid yet')
    }
    if (claims['use'] !== 'gateway') throw invalidGrant('subject_token use is not gateway')
    if (typeof claims['jti'] !== 'string') throw invalidGrant('subject_token has no jti')
    if (claims['zone_id'] !== fields['zone_id'])
      throw invalidGrant('zone_id differs from the token')
    if (claims['client_id'] !== fields['application_id']) {
      throw invalidClient('application_id differs from the client_id of the token')
    }
    if (!(Array.isArray(target) && target.includes(fields['resource']))) {
      throw new Refusal(403, 'access_denied', 'resource is not in the target of the token')
    }
    if (!resources.has(fields['resource'] ?? '')) {
      throw new Refusal(403, 'access_denied', 'resource is not known')
    }
    return claims
  }

  function grant(claims: Claims, resource: string, override: ExchangeOverride): object {
    const issuedAt = Math.floor(now() / 1000)
    const accessToken = sign(
      {},
      {
        ...claims,
        aud: resource,
        use: 'resource',
        iat: issuedAt,
        exp: issuedAt + RESOURCE_TOKEN_SECONDS,
        jti: randomUUID(),
        sid: randomUUID(),
        target: [resource],
      },
      { zone: String(claims['zone_id']) },
    )
    return {
      access_token: accessToken,
      token_type: 'Bearer',
      expires_in: RESOURCE_TOKEN_SECONDS,
      scope: claims['scope'] ?? '',
      issued_token_type: ACCESS_TOKEN,
      target_resources: [resource],
      upstreams: { [resource]: override.directive ?? resources.get(resource) },
      ...override.answer,
    }
  }

  async function answerExchange(request: IncomingMessage, reply: ServerResponse): Promise<void> {
    if (request.method !== 'POST') return answerError(reply, methodNotAllowed('POST'))
    const body = await readBody(request)
    const seen = recordOf(request, now())
    const fields: Record<string, string> = {}
    try {
      const claims = judge(seen, body, fields)
      const exchange = { ...seen, body, fields, claims }
      remember(sts.exchanges, exchange)
      options.onExchange?.(exchange)
      const override = (await sts.respond?.(exchange)) ?? {}
      const granted = grant(claims, fields['resource'] ?? '', override)
      await answer(reply, { body: granted, ...override })
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      const exchange = { ...seen, body, fields, refusal: error.answer }
      remember(sts.exchanges, exchange)
      options.onExchange?.(exchange)
      await answerError(reply, error.answer)
    }
  }

  async function answerKeys(
    request: IncomingMessage,
    reply: ServerResponse,
    query: URLSearchParams,
  ): Promise<void> {
    remember(sts.jwksRequests, recordOf(request, now()))
    const [zone, ...more] = query.getAll('zone_id')
    if (!zone || more.length > 0) {
      return answerError(reply, invalidRequest('zone_id must be given once').answer)
    }
    const override = jwksOverrides.get(zone)
    if (!zones.has(zone) && override === undefined) {
      return answerError(reply, new Refusal(404, 'not_found', 'zone is not known').answer)
    }
    const body = zones.has(zone) ? { keys: keys(zone).map(key => key.jwk) } : { keys: [] }
    return answer(reply, { body, ...override })
  }

  async function answerMint(
    request: IncomingMessage,
    reply: ServerResponse,
    query: URLSearchParams,
  ): Promise<void> {
    const plain = request.method === 'GET'
    const wanted = plain ? queryMembers(query) : parseObject(await readBody(request))
    const overrides = mintOverrides(wanted, Math.floor(now() / 1000))
    const claims = mandateClaims(overrides)
    if (!zones.has(String(claims['zone_id']))) throw invalidRequest('zone_id is not known')
    const token = mint(claims)
    const headers = { 'content-type': 'text/plain', 'cache-control': 'no-store' }
    return answer(
      reply,
      plain
        ? { headers, body: token }
        : { body: { token, jti: claims['jti'], expires_at: claims['exp'] } },
    )
  }

  async function route(request: IncomingMessage, reply: ServerResponse): Promise<void> {
    const [path, search] = splitOnce(request.url ?? '', '?')
    const query = new URLSearchParams(search)
    const reading = request.method === 'GET' || request.method === 'HEAD'
    switch (path) {
      case '/health':
        if (!reading) return answerError(reply, methodNotAllowed('GET'))
        return answer(reply, { body: { ok: true }, ...healthOverride })
      case '/.well-known/jwks.json':
        if (!reading) return answerError(reply, methodNotAllowed('GET'))
        return answerKeys(request, reply, query)
      case '/oauth/2/token':
        return answerExchange(request, reply)
      case '/mint':
        if (options.mint === false) break
        if (request.method !== 'GET' && request.method !== 'POST') {
          return answerError(reply, methodNotAllowed('GET or POST'))
        }
        return answerMint(request, reply, query)
    }
    return answerError(reply, new Refusal(404, 'not_found', 'no such endpoint').answer)
  }

  function remember<T>(list: T[], item: T): void {
    if (options.record !== true) return
    list.push(item)
    if (list.length > MAX_RECORDS) list.shift()
  }

  const handle = (request: IncomingMessage, reply: ServerResponse): void => {
    route(request, reply).catch((error: unknown) => {
      if (error instanceof Refusal && !reply.headersSent) return answerError(reply, error.answer)
      // A client that left, or a test's own callback that threw: nobody can be answered any more.
      reply.destroy()
    })
  }
  const server = options.tls ? createTlsServer({ ...options.tls }, handle) : createServer(handle)

  const sts: DevSts = {
    issuer,
    get url() {
      return urlOf(server.address(), options.tls !== undefined)
    },
    exchanges: [],
    jwksRequests: [],
    respond: options.respond,
    async listen(port = 0, host = '127.0.0.1') {
      server.listen(port, host)
      await once(server, 'listening')
      return sts.url
    },
    async close() {
      if (!server.listening) return
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      await closed
    },
    mint,
    sign,
    keys,
    rotate(zone) {
      const key = createZoneKey()
      keys(zone).push(key)
      return key.kid
    },
    dropOldKeys(zone) {
      const set = keys(zone)
      set.splice(0, set.length - 1)
    },
    setResource(resource, directive) {
      if (directive === undefined) resources.delete(resource)
      else resources.set(resource, directive)
    },
    setJwks(zone, override) {
      if (override === undefined) jwksOverrides.delete(zone)
      else jwksOverrides.set(zone, override)
    },
    setHealth(override) {
      healthOverride = override
    },
  }
  return sts
}

/** Contract section 4: who may call the token endpoint as the gateway, and only once per nonce. */
function verifyGatewaySignature(
  request: RecordedRequest,
  body: string,
  key: Buffer,
  now: number,
  spendNonce: (nonce: string) => boolean,
): void {
  const timestamp = onlyHeader(request, 'x-caracal-gateway-timestamp') ?? ''
  const nonce = onlyHeader(request, 'x-caracal-gateway-request') ?? ''
  const signature = onlyHeader(request, 'x-caracal-gateway-signature') ?? ''
  if (!/^\d{1,12}$/.test(timestamp)) throw invalidClient('gateway timestamp is missing')
  if (Math.abs(now / 1000 - Number(timestamp)) > CLOCK_SKEW_SECONDS) {
    throw invalidClient('gateway timestamp is outside the window')
  }
  if (!/^[0-9a-f]{64}$/.test(nonce)) throw invalidClient('gateway nonce is missing or malformed')
  if (!/^[0-9a-f]{64}$/.test(signature)) throw invalidClient('gateway signature is missing')
  const digest = createHash('sha256').update(body).digest('hex')
  const input = `${timestamp}\n${nonce}\n${request.method}\n${request.path}\n${digest}`
  const expected = createHmac('sha256', key).update(input).digest()
  if (!timingSafeEqual(expected, Buffer.from(signature, 'hex'))) {
    throw invalidClient('gateway signature is invalid')
  }
  // After the signature: a stranger's nonces must not fill the memory.
  if (!spendNonce(nonce)) throw invalidClient('gateway nonce was used before')
}

/** Takes each nonce once. Forgets the oldest only when its timestamp is outside the window anyhow. */
function nonceGuard(now: () => number): (nonce: string) => boolean {
  const seen = new Map<string, number>()
  return nonce => {
    if (seen.has(nonce)) return false
    const [oldest] = seen
    if (seen.size >= MAX_NONCES && oldest !== undefined) {
      if (now() - oldest[1] <= 2 * CLOCK_SKEW_SECONDS * 1000) {
        throw new Refusal(503, 'temporarily_unavailable', 'too many exchanges')
      }
      seen.delete(oldest[0])
    }
    seen.set(nonce, now())
    return true
  }
}

function readForm(request: RecordedRequest, body: string, fields: Record<string, string>): void {
  const contentType = onlyHeader(request, 'content-type')?.toLowerCase().replaceAll(' ', '')
  if (!/^application\/x-www-form-urlencoded(?:;charset=utf-8)?$/.test(contentType ?? '')) {
    throw invalidRequest('content type is not application/x-www-form-urlencoded')
  }
  for (const [name, value] of new URLSearchParams(body)) {
    if (Object.hasOwn(fields, name)) throw invalidRequest(`${name} is given twice`)
    fields[name] = value
  }
  for (const name of FIELDS) {
    if (!fields[name]) throw invalidRequest(`${name} is missing`)
  }
}

function mintOverrides(wanted: Claims | undefined, issuedAt: number): Claims {
  if (wanted === undefined) throw invalidRequest('body is not a JSON object')
  const { resource, target, ttl = MANDATE_SECONDS, claims = {}, ...members } = wanted
  const targets = target ?? (resource === undefined ? undefined : [resource].flat())
  const seconds = Number(ttl)
  if (!Array.isArray(targets) || targets.length === 0 || !targets.every(isText)) {
    throw invalidRequest('resource or target must name a resource')
  }
  if (!Number.isInteger(seconds) || seconds < 1 || seconds > MAX_TTL_SECONDS) {
    throw invalidRequest(`ttl must be 1 to ${MAX_TTL_SECONDS} seconds`)
  }
  if (typeof claims !== 'object' || claims === null || Array.isArray(claims)) {
    throw invalidRequest('claims must be an object')
  }
  for (const [name, value] of Object.entries(members)) {
    if (!MINT_MEMBERS.some(known => known === name)) throw invalidRequest(`${name} is not a member`)
    if (typeof value !== 'string') throw invalidRequest(`${name} must be text`)
  }
  return { ...members, target: targets, exp: issuedAt + seconds, ...claims }
}

function queryMembers(query: URLSearchParams): Claims {
  const { resource: _, ...members } = Object.fromEntries(query)
  return { ...members, resource: query.getAll('resource') }
}

function requireHeader(request: RecordedRequest, name: string, value: string): void {
  if (onlyHeader(request, name) !== value) throw invalidRequest(`${name} is not ${value}`)
}

/** The header's value when it was sent exactly once. */
function onlyHeader(request: RecordedRequest, name: string): string | undefined {
  const values = request.rawHeaders.filter(
    (_, index) => index % 2 === 1 && request.rawHeaders[index - 1]?.toLowerCase() === name,
  )
  return values.length === 1 ? values[0] : undefined
}

function recordOf(request: IncomingMessage, at: number): RecordedRequest {
  const { method = '', url: path = '', headers, rawHeaders } = request
  return { method, path, headers, rawHeaders, at }
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of request) {
    size += chunk.length
    if (size > MAX_BODY_BYTES) throw new Refusal(413, 'invalid_request', 'body is too large')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

async function answer(reply: ServerResponse, override: Override): Promise<void> {
  const { status = 200, body = '', delay, destroy } = override
  if (delay !== undefined) await waitFor(delay)
  if (destroy === 'before') {
    reply.destroy()
    return
  }
  const isJson = typeof body === 'object' && !Buffer.isBuffer(body)
  const bytes = Buffer.isBuffer(body) ? body : Buffer.from(isJson ? JSON.stringify(body) : body)
  reply.writeHead(status, {
    'content-type': 'application/json',
    'cache-control': 'no-store',
    'content-length': bytes.length,
    ...override.headers,
  })
  if (destroy === 'midway') {
    reply.write(bytes.subarray(0, Math.ceil(bytes.length / 2)), () => reply.destroy())
    return
  }
  reply.end(bytes)
}

function waitFor(delay: number | Promise<unknown>): Promise<unknown> {
  if (typeof delay !== 'number') return delay
  return new Promise(resolve => {
    setTimeout(resolve, delay).unref()
  })
}

function answerError(reply: ServerResponse, error: OAuthError): Promise<void> {
  const { status, ...body } = error
  const headers = status === 413 ? { connection: 'close' } : {}
  return answer(reply, { status, headers, body })
}

function methodNotAllowed(allowed: string): OAuthError {
  return { status: 405, error: 'invalid_request', error_description: `method must be ${allowed}` }
}

function createZoneKey(): ZoneKey {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const kid = randomUUID()
  const jwk = { ...publicKey.export({ format: 'jwk' }), kid, alg: 'ES256', use: 'sig' }
  return { kid, privateKey, publicKey, jwk }
}

function newest(set: readonly ZoneKey[]): ZoneKey {
  const key = set.at(-1)
  if (key === undefined) throw new RangeError('the zone has no key')
  return key
}

function hmacKeyBytes(key: string | Buffer | undefined): Buffer | undefined {
  if (key === undefined) return undefined
  const bytes = typeof key === 'string' ? Buffer.from(key, 'hex') : key
  const whole = typeof key !== 'string' || bytes.length * 2 === key.length
  if (!whole || bytes.length < 32) throw new TypeError('hmacKey: must be hex, 32 bytes at least')
  return bytes
}

function urlOf(address: AddressInfo | string | null, secure: boolean): string {
  if (address === null || typeof address === 'string') throw new Error('the STS does not listen')
  const host = address.family === 'IPv6' ? `[${address.address}]` : address.address
  return `${secure ? 'https' : 'http'}://${host}:${address.port}`
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isRecord(value) ? value : undefined
  } catch {
    return undefined
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value !== ''
}

function base64url(text: string): string {
  return Buffer.from(text).toString('base64url')
}

/** One text for one sequence of bytes: what Node's lenient decoder would forgive is refused. */
function isCanonical(part: string): boolean {
  return Buffer.from(part, 'base64url').toString('base64url') === part
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator)
  return at === -1 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)]
}
