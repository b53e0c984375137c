// The pages of the documentation lead somewhere, their commands do what they say, and a page that errs is found.

import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { pageProblems, runPages } from '../../scripts/docs-check.ts'
import { brokenLinks, runBlocks, unmarkedBlocks } from '../../scripts/pages.ts'

function folder(t: TestContext, page: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'caracal-pages-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  writeFileSync(join(directory, 'page.md'), page)
  return directory
}

const fenced = (info: string, text: string) => `\`\`\`${info}\n${text}\n\`\`\`\n`

test('every relative link and anchor of the pages resolves, and every block of commands says who runs it', () => {
  assert.deepEqual(pageProblems(), [])
})

test('every test that docs/security.md names is there', () => {
  const page = readFileSync(new URL('../../docs/security.md', import.meta.url), 'utf8')
  const named = [...page.matchAll(/`(test\/[^`]+)`/g)].map(([, file]) => file ?? '')
  assert.ok(named.length > 20)
  assert.deepEqual(
    named.filter(file => !existsSync(new URL(`../../${file}`, import.meta.url))),
    [],
  )
})

test('the commands of the pages do what the pages say', async () => {
  assert.ok((await runPages()) > 3)
})

test('a link to nowhere, to no heading, or out of the project is found, and one in a block is none', t => {
  const page = [
    '# A `b`: C',
    '[good](page.md#a-b-c) [web](https://example.com/x)',
    '[bad](other.md) [bad](#c) [bad](../page.md)',
    fenced('md', '[none](nowhere.md)'),
  ].join('\n')
  assert.deepEqual(brokenLinks(folder(t, page), 'page.md'), [
    'page.md:3: other.md: no such file',
    'page.md:3: #c: no such heading',
    'page.md:3: ../page.md: lies outside',
  ])
})

test('a block of commands that nobody runs is found', t => {
  const page = `${fenced('sh run', 'true')}${fenced('sh', 'true')}`
  const [problem, ...others] = unmarkedBlocks(folder(t, page), 'page.md')
  assert.match(problem ?? '', /^page.md:4: mark the block/)
  assert.deepEqual(others, [])
})

test('a command that fails or prints something else is found', async t => {
  const directory = folder(t, '')
  const place = { directory, env: process.env, substitutes: new Map([['world', 'moon']]) }
  const run = (page: string) => runBlocks('page.md', page, place)
  const hello = fenced('sh run', 'echo hello\necho world')
  assert.equal(await run(`${hello}${fenced('text output', 'h…o\nmoon')}`), 1)
  await assert.rejects(run(`${hello}${fenced('text output', 'moon\nhello')}`), /no line "hello"/)
  await assert.rejects(run(fenced('sh run', 'false\ntrue')), /status 1: page.md:1/)
})
