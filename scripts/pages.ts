// Guarantees that what the pages of the documentation point at is there, and that their commands do what they say.

import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'

/** A fenced block of a page. */
export interface Block {
  /** 1-based line of the opening fence. */
  readonly line: number
  /** What follows the fence: language, and what is to be done with the block. */
  readonly info: string
  readonly text: string
}

/** What a block of shell commands must say of itself: it is run here, by a test or a script, or is an example. */
const MARKS = ['sh run', 'sh tested', 'sh example']

/** The fenced blocks of a page. */
export function blocksOf(page: string): Block[] {
  return [...page.matchAll(/^```([^\n`]*)\n([^]*?)^```$/gm)].map(({ index, 1: info, 2: text }) => ({
    line: page.slice(0, index).split('\n').length,
    info: info ?? '',
    text: text ?? '',
  }))
}

/** Blocks of shell commands that do not say who runs them, one text each. */
export function unmarkedBlocks(root: string, file: string): string[] {
  return blocksOf(readFileSync(join(root, file), 'utf8'))
    .filter(({ info }) => /^(sh|bash|shell|console)\b/.test(info) && !MARKS.includes(info))
    .map(({ line }) => `${file}:${line}: mark the block as one of ${MARKS.join(', ')}`)
}

/** Links of a page, relative ones and anchors, that lead nowhere; one text each. */
export function brokenLinks(root: string, file: string): string[] {
  const page = withoutCode(readFileSync(join(root, file), 'utf8'))
  const links = [...page.matchAll(/\]\(([^()\s]+)\)|(?:href|src)="([^"]+)"/g)]
  return links.flatMap(({ index, 1: link, 2: attribute }) => {
    const target = link ?? attribute ?? ''
    if (/^[a-z]+:/.test(target)) return []
    const [path = '', anchor] = target.split('#')
    const named = path === '' ? file : relative(root, join(root, dirname(file), path))
    const problem = problemWith(root, named, anchor)
    const line = page.slice(0, index).split('\n').length
    return problem === undefined ? [] : [`${file}:${line}: ${target}: ${problem}`]
  })
}

function problemWith(root: string, file: string, anchor: string | undefined): string | undefined {
  if (file.startsWith('..')) return 'lies outside'
  if (!existsSync(join(root, file))) return 'no such file'
  if (anchor === undefined) return undefined
  return anchorsOf(readFileSync(join(root, file), 'utf8')).has(anchor)
    ? undefined
    : 'no such heading'
}

/** The anchors that the headings of a page get on GitHub. */
function anchorsOf(page: string): Set<string> {
  const anchors = new Set<string>()
  for (const [, heading = ''] of withoutCode(page).matchAll(/^#{1,6} +(.*)$/gm)) {
    const text = heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase()
    const slug = text.replaceAll(/[^\p{L}\p{N}\s_-]/gu, '').replaceAll(' ', '-')
    let anchor = slug
    for (let turn = 1; anchors.has(anchor); turn++) anchor = `${slug}-${turn}`
    anchors.add(anchor)
  }
  return anchors
}

/** The page with its fenced blocks emptied, line by line. */
function withoutCode(page: string): string {
  return page.replaceAll(/^```[^]*?^```$/gm, block => block.replaceAll(/[^\n]+/g, ''))
}

/** Where the commands of a page run. */
export interface Place {
  readonly directory: string
  readonly env: NodeJS.ProcessEnv
  /** What stands in a page, and what it is here: the usual ports and the ones that were free. */
  readonly substitutes: ReadonlyMap<string, string>
}

/**
 * Runs the blocks of a page that are marked `sh run`, in order. A block with `output` in its mark that follows holds
 * lines that the output must have in that order; `…` stands for anything.
 *
 * @returns how many ran
 * @throws Error that names the block, when a command fails or prints something else
 */
export async function runBlocks(file: string, page: string, place: Place): Promise<number> {
  const blocks = blocksOf(page)
  let count = 0
  for (const [index, { info, text, line }] of blocks.entries()) {
    if (info !== 'sh run') continue
    count += 1
    let commands = text
    for (const [usual, actual] of place.substitutes) commands = commands.replaceAll(usual, actual)
    const { status, output } = await shell(commands, place)
    const told = `${file}:${line}: ${commands.trim()}\n${output}`
    if (status !== 0) throw new Error(`status ${status}: ${told}`)
    const next = blocks[index + 1]
    if (next === undefined || !next.info.endsWith(' output')) continue
    const missing = firstMissing(next.text, output)
    if (missing !== undefined) throw new Error(`printed no line "${missing}": ${told}`)
  }
  return count
}

function firstMissing(expected: string, output: string): string | undefined {
  const printed = output.split(/\r?\n/).map(line => line.trim())
  let from = 0
  for (const line of expected.split('\n').map(text => text.trim())) {
    if (line === '') continue
    const pattern = new RegExp(`^${line.split('…').map(literally).join('.*')}$`)
    const at = printed.findIndex((text, index) => index >= from && pattern.test(text))
    if (at === -1) return line
    from = at + 1
  }
  return undefined
}

function literally(text: string): string {
  return text.replaceAll(/[\\^$.*+?()[\]{}|/]/g, String.raw`\$&`)
}

function shell(commands: string, { directory, env }: Place) {
  return new Promise<{ status: number | null; output: string }>((resolve, reject) => {
    const child = spawn('sh', ['-e', '-c', commands], { cwd: directory, env })
    let output = ''
    child.stdout.on('data', chunk => (output += chunk))
    child.stderr.on('data', chunk => (output += chunk))
    child.on('error', reject)
    child.on('close', status => resolve({ status, output }))
  })
}
