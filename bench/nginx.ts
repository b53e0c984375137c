// nginx as a plain reverse proxy, where it is installed: one worker, connections to the upstream kept, no log.
import { spawn, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { request } from 'undici'
import { type Cleanup, freePort, withFreshPort } from '../test/redis.ts'
import { until } from '../test/until.ts'
import { stop } from './processes.ts'
import type { Subject } from './subject.ts'

/** Where Debian puts it, and the PATH. */
const CANDIDATES = ['nginx', '/usr/sbin/nginx']

/** The program and its version. */
export interface Nginx {
  readonly program: string
  readonly version: string
}

/** Finds nginx; undefined where it is not installed. */
export function findNginx(): Nginx | undefined {
  for (const program of CANDIDATES) {
    const { stderr, error } = spawnSync(program, ['-v'], { encoding: 'utf8' })
    const version = error === undefined ? /nginx\/(\S+)/.exec(stderr)?.[1] : undefined
    if (version !== undefined) return { program, version }
  }
  return undefined
}

/** Starts it before an upstream. @param folder a folder of the benchmark's own */
export function startNginx(
  ends: Cleanup,
  { program }: Nginx,
  folder: string,
  upstream: string,
): Promise<Subject> {
  return withFreshPort(async () => {
    const port = await freePort()
    const prefix = join(folder, `nginx-${port}`)
    await mkdir(prefix)
    await writeFile(join(prefix, 'nginx.conf'), configuration(port, new URL(upstream).host))
    const child = spawn(program, ['-p', prefix, '-c', 'nginx.conf', '-e', 'stderr'], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let errors = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text
    })
    ends.after(() => stop(child))
    await until(async () => {
      if (child.exitCode !== null) throw new Error(`nginx ended: ${errors}`)
      const answer = await request(`http://127.0.0.1:${port}/`).catch(() => undefined)
      await answer?.body.dump()
      return answer?.statusCode === 200
    })
    return { port, pid: workerOf(child.pid ?? 0), errors: () => errors, stop: () => stop(child) }
  })
}

/** The one child of nginx's master process: it does all the work. */
function workerOf(master: number): number {
  return Number(readFileSync(`/proc/${master}/task/${master}/children`, 'utf8').trim())
}

function configuration(port: number, upstream: string): string {
  const folders = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  return `daemon off;
worker_processes 1;
pid nginx.pid;
events { worker_connections 10240; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  ${folders.map(name => `${name}_temp_path ${name};`).join('\n  ')}
  upstream bench {
    server ${upstream};
    keepalive 256;
    keepalive_requests 1000000000;
  }
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location / {
      proxy_pass http://bench;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
      proxy_read_timeout 1h;
    }
  }
}
`
}
