// Guarantees that DATABASE_URL is read as libpq reads it, or refused in words that hold nothing of it.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as fc from 'fast-check'
import {
  type DatabaseAddress,
  parseDatabaseUrl,
  type SslMode,
  tlsWays,
} from '../../lib/database-url.ts'

function address(url: string): DatabaseAddress {
  const parsed = parseDatabaseUrl(url)
  assert.ok('host' in parsed, 'problem' in parsed ? parsed.problem : url)
  return parsed
}

function problem(url: string): string {
  const parsed = parseDatabaseUrl(url)
  assert.ok('problem' in parsed, url)
  return parsed.problem
}

describe('parseDatabaseUrl', () => {
  it('reads every part', () => {
    assert.deepEqual(
      address(
        'postgresql://user:pass@db.example.com:5433/caracal?sslmode=verify-full&sslrootcert=/ca.pem&application_name=edge&options=-c%20caracal.zone_id%3D*&connect_timeout=3',
      ),
      {
        host: 'db.example.com',
        port: 5433,
        user: 'user',
        password: 'pass',
        database: 'caracal',
        applicationName: 'edge',
        options: '-c caracal.zone_id=*',
        connectTimeout: 3_000,
        sslMode: 'verify-full',
        sslRootCert: '/ca.pem',
      },
    )
  })

  it('fills in what is absent as libpq does, and names the application', () => {
    assert.deepEqual(address('postgres://user@db'), {
      host: 'db',
      port: 5432,
      user: 'user',
      password: undefined,
      database: 'user',
      applicationName: 'caracal-gateway',
      options: undefined,
      connectTimeout: undefined,
      sslMode: 'prefer',
      sslRootCert: undefined,
    })
    assert.deepEqual(address('postgres://user@db'), address('POSTGRES://user:@db:/?sslmode='))
  })

  it('decodes credentials and names, whatever they are', () => {
    const text = fc
      .string({ unit: 'grapheme', minLength: 1 })
      .filter(it => it.isWellFormed() && !it.includes('\0'))
    fc.assert(
      fc.property(text, text, text, (user, password, database) => {
        const [u, p, d] = [user, password, database].map(encodeURIComponent)
        const inside = address(`postgres://${u}:${p}@db/${d}`)
        assert.deepEqual(
          [inside.user, inside.password, inside.database],
          [user, password, database],
        )
        const beside = address(`postgres://db?user=${u}&password=${p}&dbname=${d}`)
        assert.deepEqual(beside, inside)
      }),
      { numRuns: 200 },
    )
  })

  for (const [url, host, port] of [
    ['postgres://u@[::1]/x', '::1', 5432],
    ['postgres://u@[fd00::1]:5433/x', 'fd00::1', 5433],
    ['postgres://u@10.0.0.1:1/x', '10.0.0.1', 1],
    ['postgres://u:p@/x?host=/run/postgresql', '/run/postgresql', 5432],
    ['postgres:///x?user=u&host=/run/postgresql&port=5433', '/run/postgresql', 5433],
    ['postgres://u@%2Frun%2Fpostgresql:65535/x', '/run/postgresql', 65_535],
    ['postgres://u:p@ss@db/x', 'db', 5432],
  ] as const) {
    it(`finds the host in ${url}`, () => {
      const found = address(url)
      assert.deepEqual([found.host, found.port, found.user], [host, port, 'u'])
    })
  }

  it('takes the system’s authorities for a server that is verified by name', () => {
    const system = address('postgres://u@db?sslrootcert=system')
    assert.deepEqual([system.sslMode, system.sslRootCert], ['verify-full', undefined])
    assert.match(problem('postgres://u@db?sslrootcert=system&sslmode=verify-ca'), /verify-full/)
  })

  for (const [url, words] of [
    ['', /must be postgres:/],
    ['db', /must be postgres:/],
    ['host=db user=u', /must be postgres:/],
    ['https://u@db', /must be postgres:/],
    ['postgres:/u@db', /must be postgres:/],
    [' postgres://u@db', /must be postgres:/],
    ['postgres://u@db/x/y', /must be postgres:/],
    ['postgres://u@db#x', /must be postgres:/],
    ['postgres://u@db:port', /must be postgres:/],
    ['postgres://u@[::1', /must be postgres:/],
    ['postgres://u:%zz@db', /must be postgres:/],
    ['postgres://u%00x@db', /must be postgres:/],
    ['postgres://u@db?options=x%00y', /must be postgres:/],
    ['postgres://u:p?w@db', /must be postgres:/],
    ['postgres://u@', /must name a host/],
    ['postgres://db/x', /must name a user/],
    ['postgres://u@db:0', /must have a port/],
    ['postgres://u@db:65536', /must have a port/],
    ['postgres://u@db?port=x', /must have a port/],
    ['postgres://u@a,b/x', /must name one host/],
    ['postgres://u@db?host=a,b', /must name one host/],
    ['postgres://u@db?port=1,2', /must name one host/],
    ['postgres://u@db?sslmode=no-verify', /must have an sslmode of disable, allow, prefer/],
    ['postgres://u@db?sslmode=Require', /must have an sslmode/],
    ['postgres://u@db?sslmode=verify-ca', /needs sslrootcert/],
    ['postgres://u@db?connect_timeout=3s', /must have a connect_timeout/],
    ['postgres://u@db?connect_timeout=-1', /must have a connect_timeout/],
    ['postgres://u@db?sslmode=disable&sslmode=require', /has the parameter sslmode twice/],
    // What the driver would take for its own options.
    ['postgres://u@db?ssl=0', /look at parameter 1/],
    ['postgres://u@db?sslmode=require&uselibpqcompat=true', /look at parameter 2/],
    ['postgres://u@db?query_timeout=0', /takes only the parameters host, port,/],
    ['postgres://u@db?target_session_attrs=any', /takes only the parameters/],
  ] as const) {
    it(`refuses ${JSON.stringify(url)}`, () => assert.match(problem(url), words))
  }

  it('never throws, and says nothing of what it was given', () => {
    const part = fc.oneof(
      fc.constantFrom(':', '@', '/', '?', '&', '=', '[', ']', '%', ',', 'port', 'sslmode'),
      fc.string(),
    )
    fc.assert(
      fc.property(fc.array(part, { maxLength: 8 }), parts => {
        const parsed = parseDatabaseUrl(`postgres://canary-${parts.join('canary-')}`)
        if ('problem' in parsed) assert.doesNotMatch(parsed.problem, /canary-/)
      }),
      { numRuns: 500 },
    )
  })
})

describe('tlsWays', () => {
  const CA = 'PEM'
  /** The ways in words. */
  function ways(sslMode: SslMode, authorities?: string, host = 'db'): string[] {
    return tlsWays({ host, sslMode }, authorities).map(way => {
      if (way === undefined || way === false) return 'plain'
      if (!way.rejectUnauthorized) return 'unverified'
      return `${way.checkServerIdentity ? 'chain' : 'chain and name'} by ${way.ca ?? 'Node.js'}`
    })
  }

  it('means by sslmode what libpq means', () => {
    assert.deepEqual(ways('disable'), ['plain'])
    assert.deepEqual(ways('allow'), ['plain', 'unverified'])
    assert.deepEqual(ways('prefer'), ['unverified', 'plain'])
    assert.deepEqual(ways('require'), ['unverified'])
    assert.deepEqual(ways('require', CA), ['chain by PEM'])
    assert.deepEqual(ways('verify-ca', CA), ['chain by PEM'])
    assert.deepEqual(ways('verify-full', CA), ['chain and name by PEM'])
    assert.deepEqual(ways('verify-full'), ['chain and name by Node.js'])
  })

  it('speaks no TLS through a Unix socket', () => {
    assert.deepEqual(ways('verify-full', CA, '/run/postgresql'), ['plain'])
  })

  it('lets any name pass where the chain alone counts', () => {
    const [way] = tlsWays({ host: 'db', sslMode: 'verify-ca' }, CA)
    assert.equal(way && way.checkServerIdentity?.(), undefined)
  })
})
