// The built tree serves under the limits of its container (contract section 15): nobody's uid, no capability, a root
// that is read-only, no /tmp, 256 processes, and one directory to write to.
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { after, before, describe, it } from 'node:test'
import { createDevSts } from '../../dev/sts.ts'
import { schema } from '../../config.ts'
import { assertEvidence } from '../evidence.ts'
import { lastFirst } from '../cleanup.ts'
import { call, KEYS, RESOURCE, startUpstream, ZONE } from '../gateway/harness.ts'
import { type Cleanup, freePort, startRedis, withFreshPort } from '../redis.ts'
import { until } from '../until.ts'
import {
  insidePid,
  layOutImage,
  NOBODY,
  removeImage,
  runInImage,
  type Volume,
  whyNotHere,
} from './image-root.ts'

const REPLAY_DIRECTORY = '/var/lib/caracal/audit-replay'

const VOLUMES: readonly (Volume & { readonly name: string })[] = [
  {
    name: 'the image’s own directory, or a named volume made from it',
    path: '/var/lib/caracal',
    options: `mode=0750,uid=${NOBODY},gid=${NOBODY}`,
  },
  {
    name: 'a replay volume that belongs to a group (fsGroup)',
    path: REPLAY_DIRECTORY,
    options: `mode=2770,uid=0,gid=${NOBODY}`,
  },
  {
    name: 'a replay volume of mode 0750',
    path: REPLAY_DIRECTORY,
    options: `mode=0750,uid=${NOBODY},gid=${NOBODY}`,
  },
]

/** Every variable that may be empty, as a compose file hands on what nobody has set. */
const EMPTY = Object.fromEntries(Object.keys(schema.properties).map(name => [name, '']))

const reason = whyNotHere()

describe('the gateway in its container', { skip: reason }, () => {
  let image: string
  before(() => {
    image = layOutImage()
  })
  after(() => removeImage(image))

  async function startServices(t: Cleanup) {
    const [redis, upstream] = await Promise.all([startRedis(t), startUpstream(t)])
    const sts = createDevSts({
      zones: [ZONE],
      resources: { [RESOURCE]: { url: upstream.url, auth_mode: 'none' } },
      hmacKey: KEYS.sts,
      record: true,
    })
    await sts.listen(0)
    t.after(() => sts.close())
    const env = {
      NODE_ENV: 'production',
      HOST: '127.0.0.1',
      STS_URL: sts.url,
      REDIS_URL: redis.url,
      GATEWAY_STS_HMAC_KEY: KEYS.sts,
      STREAMS_HMAC_KEY: KEYS.streams,
      AUDIT_HMAC_KEY: KEYS.audit,
    }
    return { redis, sts, env }
  }

  /** Starts the gateway; resolves once `/ready` answers with this reason, or without one. */
  function start(t: Cleanup, base: NodeJS.Dict<string>, volume?: Volume, unready?: string) {
    return withFreshPort(async () => {
      const env = { ...EMPTY, ...base, PORT: String(await freePort()) }
      const url = `http://127.0.0.1:${env.PORT}`
      const child = runInImage(image, ['/usr/local/bin/gateway'], env, volume)
      t.after(() => end(child))
      let output = ''
      child.stdout?.on('data', chunk => (output += chunk))
      child.stderr?.on('data', chunk => (output += chunk))
      await until(async () => {
        if (child.exitCode !== null) throw new Error(`the gateway ended: ${output}`)
        const answer = await call(url, '/ready', { resource: null }).catch(() => undefined)
        return answer !== undefined && answer.json()['reason'] === unready
      }, 30_000)
      return { env, url, child, stop: () => stop(child) }
    })
  }

  async function stop(child: ChildProcess): Promise<number | null> {
    const pid = insidePid(child)
    assert.ok(pid)
    const ended = once(child, 'exit')
    process.kill(pid, 'SIGTERM')
    const [code] = await ended
    return code
  }

  async function end(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    // `--kill-child` takes the gateway along.
    child.kill('SIGKILL')
    await ended
  }

  async function healthcheck(env: Readonly<Record<string, string>>): Promise<number | null> {
    const child = runInImage(image, ['/healthcheck'], env)
    const [code] = await once(child, 'exit')
    return code
  }

  for (const { name, ...volume } of VOLUMES) {
    it(
      `starts, serves, leaves evidence and stops with ${name}`,
      lastFirst(async t => {
        const { redis, sts, env: base } = await startServices(t)
        const { env, url, child, stop } = await start(t, base, volume)
        assert.equal(await healthcheck(env), 0)

        const pid = insidePid(child)
        assert.ok(pid)
        const status = readFileSync(`/proc/${pid}/status`, 'utf8')
        const field = (key: string) => new RegExp(`^${key}:\\s+(.*)$`, 'm').exec(status)?.[1]
        assert.equal(field('Uid'), Array(4).fill(NOBODY).join('\t'))
        assert.equal(field('Gid'), Array(4).fill(NOBODY).join('\t'))
        assert.equal(field('NoNewPrivs'), '1')
        for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb']) {
          assert.equal(field(set), '0000000000000000', set)
        }
        const limits = readFileSync(`/proc/${pid}/limits`, 'utf8')
        assert.match(limits, /^Max processes\s+256\s+256\s/m)
        const mounts = readFileSync(`/proc/${pid}/mounts`, 'utf8').trimEnd().split('\n')
        const writable = mounts
          .map(line => line.split(' '))
          .filter(([, path, type, options]) => {
            const device = type === 'proc' || path?.startsWith('/dev/')
            return !device && options?.split(',').includes('rw')
          })
        assert.deepEqual(
          writable.map(([, path]) => path),
          [volume.path],
        )

        const token = sts.mint({ zone_id: ZONE, target: [RESOURCE] })
        assert.equal((await call(url, '/v1/invoices', { token })).status, 200)
        assert.equal((await call(url, '/v1/invoices', { token })).status, 401)

        assert.equal(await stop(), 0)
        const entries = await redis.entries('caracal.audit.events')
        assertEvidence(entries, KEYS.audit)
        const types = entries.map(({ fields }) => JSON.parse(fields['data'] ?? '').event_type)
        assert.deepEqual(new Set(types), new Set(['gateway_resource_request', 'replay_detected']))
        assert.equal(types.length, 2)
      }),
    )
  }

  it(
    'lets nothing through, and says why, when nothing is writable',
    lastFirst(async t => {
      const { sts, env: base } = await startServices(t)
      const reason = 'audit_replay_unavailable'
      const { env, url, stop } = await start(t, base, undefined, reason)
      assert.equal(await healthcheck(env), 1)
      const token = sts.mint({ zone_id: ZONE, target: [RESOURCE] })
      const answer = await call(url, '/v1/invoices', { token })
      assert.equal(answer.status, 503)
      assert.equal(answer.json()['error_description'], 'audit evidence unavailable')
      assert.equal(await stop(), 0)
    }),
  )

  it('fails its health check when nobody listens', async () => {
    assert.equal(await healthcheck({ ...EMPTY, PORT: String(await freePort()) }), 1)
  })
})
