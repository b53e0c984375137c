// Holds the log to hold up nobody, whoever reads it, and to lose no line of an orderly end.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

const WRITER = fileURLToPath(new URL('./log-output-writer.ts', import.meta.url))

interface Run {
  readonly lines: Record<string, unknown>[]
  /** Milliseconds: the longest that a line took, and from the last one to the end. */
  readonly longest: number
  readonly exit: number
}

/** Runs the writer before a reader, a shell command, on a real pipe. */
async function run(reader: string, ...args: number[]): Promise<Run> {
  const child = spawn(
    'sh',
    ['-c', `"$0" "$@" | ${reader}`, process.execPath, WRITER, ...args.map(String)],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  const [out, err] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])
  const lines = out
    .split('\n')
    .filter(line => line !== '')
    .map(line => JSON.parse(line))
  return { lines, ...JSON.parse(err) }
}

/** Runs the writer into a file. */
async function runInto(file: string, ...args: number[]): Promise<Pick<Run, 'exit'>> {
  const out = await open(file, 'w')
  const child = spawn(process.execPath, [WRITER, ...args.map(String)], {
    stdio: ['ignore', out.fd, 'pipe'],
  })
  await out.close()
  if (child.stderr === null) throw new Error('no output')
  return JSON.parse(await text(child.stderr))
}

describe('the log', { concurrency: 2 }, () => {
  test('has every line, to the last before the end', async () => {
    const { lines } = await run('cat', 500)
    assert.deepEqual(
      lines.map(({ n, last }) => n ?? last),
      [...Array.from({ length: 500 }, (_, n) => n), true],
    )
  })

  test('goes to a file as well, and waits for none that takes nothing', async t => {
    const directory = await mkdtemp(join(tmpdir(), 'gateway-log-'))
    t.after(() => rm(directory, { recursive: true }))
    const file = join(directory, 'log')
    assert.ok((await runInto(file, 10)).exit < 500)
    assert.deepEqual((await readFile(file, 'utf8')).match(/"n":\d|"last":true/g)?.length, 11)
    assert.ok((await runInto('/dev/full', 10)).exit < 500)
  })

  test('tears no line of several processes that write to one pipe, however slow its reader', async () => {
    const writers = '("$0" "$@" & "$0" "$@" & wait) 2>/dev/null | (sleep 1; cat)'
    const child = spawn('sh', ['-c', writers, process.execPath, WRITER, '400', '3000'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const lines = (await text(child.stdout)).trimEnd().split('\n')
    assert.equal(lines.length, 802)
    for (const line of lines) JSON.parse(line)
  })

  test('waits for a reader that takes nothing neither between two lines nor at the end', async () => {
    const { longest, exit } = await run('sleep 3', 3_000)
    assert.ok(longest < 1_000, String(longest))
    assert.ok(exit < 1_500, String(exit))
  })

  test('waits for no reader that has gone', async () => {
    const { longest, exit } = await run('true', 1_000, 300)
    assert.ok(longest < 1_000, String(longest))
    assert.ok(exit < 500, String(exit))
  })

  test('drops what a slow reader has no room for, line by line, and says how many', async () => {
    const { lines } = await run('(sleep 2; cat)', 3_000, 3_000)
    const kept = lines.filter(({ n }) => n !== undefined)
    const { dropped } = lines.find(line => line['dropped'] !== undefined) ?? {}
    assert.ok(kept.length > 1_000, 'a MiB is kept')
    assert.equal(kept.length + Number(dropped), 3_000)
    assert.deepEqual(lines.at(-1), { last: true })
  })
})
