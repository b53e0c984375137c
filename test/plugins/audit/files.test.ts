// Files in the replay directory that somebody else put there: they neither lead out of it nor keep anybody waiting.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdir, readFile, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { appendLines, readLines } from '../../../plugins/audit/files.ts'
import { lastFirst } from '../../cleanup.ts'
import { temporaryDirectory } from './support.ts'

const run = promisify(execFile)

function pathsIn(directory: string) {
  const path = (name: string) => join(directory, name)
  return { file: path('file'), link: path('link'), fifo: path('fifo'), other: path('other') }
}

const lines = (...texts: string[]) => texts.map(text => ({ bytes: Buffer.from(text), text }))

async function textsIn(path: string): Promise<(string | undefined)[]> {
  const texts: (string | undefined)[] = []
  for await (const lines of readLines(path)) texts.push(...lines.map(({ text }) => text))
  return texts
}

test(
  'the gateway reads no evidence by way of a link, nor waits for a FIFO',
  lastFirst(async t => {
    const directory = await temporaryDirectory(t)
    const { file, link, fifo } = pathsIn(directory)
    await writeFile(file, 'a\nb')
    await symlink(file, link)
    await run('mkfifo', [fifo])
    assert.deepEqual(await textsIn(file), ['a', 'b'])
    await assert.rejects(textsIn(link), { code: 'ELOOP' })
    assert.deepEqual(await textsIn(fifo), [])
  }),
)

test(
  'the gateway sets nothing aside by way of a link, or into a FIFO',
  lastFirst(async t => {
    const directory = await temporaryDirectory(t)
    const { file, link, fifo, other } = pathsIn(directory)
    await symlink(other, link)
    await run('mkfifo', [fifo])
    await appendLines(file, lines('a', 'b'))
    await appendLines(file, lines('c'))
    assert.equal(await readFile(file, 'utf8'), 'a\nb\nc\n')
    assert.equal((await stat(file)).mode & 0o777, 0o600)
    await assert.rejects(appendLines(link, lines('a')), { code: 'ELOOP' })
    await assert.rejects(stat(other), { code: 'ENOENT' })
    await assert.rejects(appendLines(fifo, lines('a')), { code: 'ENXIO' })
    await mkdir(other)
    await assert.rejects(appendLines(other, lines('a')), { code: 'EISDIR' })
  }),
)
