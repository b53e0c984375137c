// A real PgBouncer for tests: a pooler in transaction mode before a server of test/postgres.ts.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DATABASE, PASSWORD, ROLE, type TestPostgres, unprivileged } from './postgres.ts'
import { type Cleanup, freePort, withFreshPort } from './redis.ts'

/**
 * Starts `pgbouncer` on a free port and ends it when the test is over.
 *
 * @param connections how many it opens to the server
 * @returns the URL of the gateway's role through the pooler
 * @throws Error when it does not come up; is it installed?
 */
export async function startPgBouncer(
  t: Cleanup,
  postgres: TestPostgres,
  connections: number,
): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'gateway-pgbouncer-'))
  const users = join(dir, 'users.txt')
  await writeFile(users, `"${ROLE}" "${PASSWORD}"\n`)
  const user = unprivileged()
  if (user !== undefined) await chown(dir, user.uid, user.gid)
  const port = await withFreshPort(async () => {
    const port = await freePort()
    const file = join(dir, `${port}.ini`)
    await writeFile(
      file,
      `[databases]
${DATABASE} = host=127.0.0.1 port=${postgres.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = ${users}
pool_mode = transaction
default_pool_size = ${connections}
`,
    )
    const program = process.env['PGBOUNCER'] || 'pgbouncer'
    // Debian keeps it off the PATH of ordinary users.
    const env = { PATH: `${process.env['PATH']}:/usr/sbin` }
    const pooler = spawn(program, [file], { ...user, env, stdio: ['ignore', 'ignore', 'pipe'] })
    const onExit = () => pooler.kill('SIGKILL')
    process.once('exit', onExit)
    pooler.once('exit', () => process.off('exit', onExit))
    t.after(async () => {
      if (pooler.exitCode !== null || pooler.signalCode !== null) return
      const ended = once(pooler, 'exit')
      pooler.kill('SIGKILL')
      await ended
    })
    let output = ''
    await new Promise<void>((resolve, reject) => {
      pooler.once('error', reject)
      pooler.once('close', () => reject(new Error(`pgbouncer ended: ${output}`)))
      pooler.stderr.setEncoding('utf8').on('data', (text: string) => {
        if (output.includes('process up')) return
        output += text
        if (output.includes('process up')) resolve()
      })
    })
    return port
  })
  t.after(() => rm(dir, { recursive: true, force: true }))
  return `postgres://${ROLE}:${encodeURIComponent(PASSWORD)}@127.0.0.1:${port}/${DATABASE}`
}
