// Evidence on disk: where it goes while Redis is away, who sends it, and what becomes of a directory in trouble.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  rmdir,
  stat,
  unlink,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { pino } from 'pino'
import { createMemoryStore } from '../../../dev/memory-store.ts'
import { type WrittenEvent, writeEvent } from '../../../lib/audit-event.ts'
import { doneLine, intentLine, outcomeLine } from '../../../lib/journal.ts'
import { uuidv7 } from '../../../lib/uuid.ts'
import { Homes } from '../../../plugins/audit/homes.ts'
import { AUDIT_STREAM } from '../../../plugins/audit/index.ts'
import { ReplayDirectory } from '../../../plugins/audit/directory.ts'
import { thisProcess } from '../../../plugins/audit/owner.ts'
import { lastFirst } from '../../cleanup.ts'
import { assertEvidence } from '../../evidence.ts'
import { type Cleanup, startRedis } from '../../redis.ts'
import { until } from '../../until.ts'
import {
  event,
  KEY,
  number,
  redisStore,
  type Running,
  start,
  type StubbornStore,
  stubbornStore,
  temporaryDirectory,
} from './support.ts'

const LONG = 20_000

const replayFiles = async (path: string) =>
  (await readdir(path)).filter(name => name.endsWith('.ndjson')).toSorted()
const homes = async (path: string) =>
  (await readdir(path)).filter(name => name.startsWith('gateway-'))
const numbers = (entries: readonly { fields: Readonly<Record<string, string>> }[]) =>
  entries.map(({ fields }) => number(fields['data']))
const taken = (store: StubbornStore) => store.taken.map(({ data }) => number(data))
const upTo = (count: number) => Array.from({ length: count }, (_, n) => n)

function record({ audit }: Running, from: number, to: number): void {
  for (let n = from; n < to; n += 1) audit.record(event(n))
}

/** What a dead process left: its directory with a journal of these lines. */
async function leaveHome(
  directory: string,
  name: string,
  lines: readonly string[],
  owner: object | undefined,
): Promise<string> {
  const home = join(directory, name)
  await mkdir(home, { mode: 0o700 })
  await writeFile(join(home, '1.journal'), lines.join(''))
  if (owner !== undefined) await writeFile(join(home, 'owner'), JSON.stringify(owner))
  return home
}

const written = (status: string, n: number, id = uuidv7()): WrittenEvent =>
  writeEvent(id, { ...event(n), evaluation_status: status }, Date.now())

/** A journal: one request interrupted, one ended, one delivered, one denial. */
function journal(n: number): { lines: string[]; due: WrittenEvent[] } {
  const [open, ended, sent] = [written('interrupted', n), uuidv7(), uuidv7()]
  const outcome = written('executed', n + 1, ended)
  const denial = written('revoked', n + 3)
  const lines = [
    intentLine(open),
    intentLine(written('interrupted', n + 1, ended)),
    intentLine(written('interrupted', n + 2, sent)),
    outcomeLine(outcome),
    outcomeLine(written('executed', n + 2, sent)),
    outcomeLine(denial),
    doneLine([sent]),
  ]
  return { lines, due: [open, outcome, denial] }
}

async function deadOwner(): Promise<object> {
  const child = spawn(process.execPath, ['--version'], { stdio: 'ignore' })
  await once(child, 'exit')
  return { ...(await thisProcess()), pid: child.pid, startTime: '1' }
}

describe('while Redis is away, the gateway', () => {
  test(
    'keeps events in files of its own, synced, and sends them when it is back',
    lastFirst(async t => {
      const redis = await startRedis(t)
      const directory = join(await temporaryDirectory(t), 'audit', 'replay')
      const running = await start(t, redisStore(redis.port), { directory })
      assert.equal((await stat(directory)).mode & 0o777, 0o700)
      await redis.stop()
      record(running, 0, 700)
      await until(() => running.seen.persisted === 700)
      assert.equal(running.audit.depth, 0)
      assert.equal(running.audit.accepting(), true)
      const names = await replayFiles(directory)
      let bytes = 0
      for (const name of names) {
        assert.match(name, new RegExp(`^pending-${process.pid}-\\d+\\.ndjson$`))
        const { mode, size } = await stat(join(directory, name))
        assert.equal(mode & 0o777, 0o600)
        bytes += size
      }
      assert.ok(running.audit.backlog.files >= 1)
      assert.ok(running.audit.backlog.bytes >= bytes)
      assert.ok(running.audit.backlog.ageSeconds < 60)
      const begin = performance.now()
      await redis.restart()
      await until(() => running.seen.drained === 700, LONG)
      assert.ok(performance.now() - begin < 5_000)
      const entries = await redis.entries(AUDIT_STREAM)
      assertEvidence(entries, KEY)
      assert.deepEqual(
        numbers(entries).toSorted((a, b) => a - b),
        upTo(700),
      )
      await until(async () => (await replayFiles(directory)).length === 0)
      await until(() => running.audit.backlog.files === 0)
      assert.deepEqual(running.audit.backlog, { files: 0, bytes: 0, ageSeconds: 0 })
      record(running, 700, 701)
      await until(async () => (await redis.entries(AUDIT_STREAM)).length === 701)
      assert.deepEqual([running.seen.persisted, running.seen.dropped], [700, 0])
      await running.app.close()
      assert.deepEqual(await readdir(directory), [])
    }),
  )

  const refusals: readonly (readonly [name: string, on: string[], off: string[]])[] = [
    ['out of memory', ['CONFIG', 'SET', 'maxmemory', '1'], ['CONFIG', 'SET', 'maxmemory', '0']],
    ['a replica', ['REPLICAOF', '127.0.0.1', '1'], ['REPLICAOF', 'NO', 'ONE']],
    [
      'not allowed to write',
      ['ACL', 'SETUSER', 'default', '-xadd'],
      ['ACL', 'SETUSER', 'default', '+xadd'],
    ],
  ]
  for (const [name, [on = '', ...onArgs], [off = '', ...offArgs]] of refusals) {
    test(
      `takes a Redis that is ${name} for one that is away`,
      lastFirst(async t => {
        const redis = await startRedis(t)
        const directory = await temporaryDirectory(t)
        const running = await start(t, redisStore(redis.port), { directory, durability: 'strict' })
        await redis.command(on, ...onArgs)
        record(running, 0, 20)
        await until(() => running.seen.persisted === 20)
        await redis.command(off, ...offArgs)
        await until(() => running.seen.drained === 20, LONG)
        const entries = await redis.entries(AUDIT_STREAM)
        assertEvidence(entries, KEY)
        assert.deepEqual(
          numbers(entries).toSorted((a, b) => a - b),
          upTo(20),
        )
      }),
    )
  }

  test(
    'sends no event twice that Redis has accepted, wherever it refuses',
    lastFirst(async t => {
      const store = stubbornStore()
      const directory = await temporaryDirectory(t)
      const running = await start(t, { store }, { directory })
      record(running, 0, 300)
      store.taking = 100
      await until(() => running.seen.persisted === 200)
      assert.deepEqual(taken(store), upTo(100))
      // One, which opens the way; and some of what follows in one batch.
      store.taking = 51
      await until(() => store.taken.length === 151)
      const { sinkErrors } = running.seen
      await until(() => running.seen.sinkErrors > sinkErrors)
      record(running, 300, 400)
      store.taking = Infinity
      await until(() => store.taken.length >= 400, LONG)
      await running.app.close()
      assert.deepEqual(
        taken(store).toSorted((a, b) => a - b),
        upTo(400),
      )
      assert.deepEqual(await readdir(directory), [])
    }),
  )

  test(
    'ends with everything on disk, less what Redis has accepted',
    lastFirst(async t => {
      const store = stubbornStore()
      const directory = await temporaryDirectory(t)
      const running = await start(t, { store }, { directory })
      record(running, 0, 300)
      await until(() => running.seen.persisted === 300)
      store.taking = 41
      await until(() => store.taken.length === 41)
      record(running, 300, 310)
      await running.app.close()
      assert.equal(running.seen.dropped, 0)
      assert.deepEqual(await homes(directory), [])
      const texts = await Promise.all(
        (await replayFiles(directory)).map(name => readFile(join(directory, name), 'utf8')),
      )
      const kept = texts.join('').trim().split('\n').map(number)
      assert.deepEqual(
        kept.toSorted((a, b) => a - b),
        upTo(310).slice(41),
      )
      const next = stubbornStore()
      next.taking = Infinity
      await start(t, { store: next }, { directory })
      await until(() => next.taken.length === 269, LONG)
      assert.deepEqual(
        taken(next).toSorted((a, b) => a - b),
        upTo(310).slice(41),
      )
      await until(async () => (await replayFiles(directory)).length === 0)
    }),
  )

  test(
    'ends in time although Redis hangs, with everything on disk',
    lastFirst(async t => {
      const redis = await startRedis(t)
      const directory = await temporaryDirectory(t)
      const running = await start(
        t,
        { ...redisStore(redis.port), readTimeout: 10_000 },
        { directory, durability: 'strict' },
      )
      redis.pause()
      record(running, 0, 7)
      await turn()
      const begin = performance.now()
      await running.app.close()
      assert.ok(performance.now() - begin < 2_000)
      assert.equal(running.seen.dropped, 0)
      assert.equal(running.seen.persisted, 7)
      assert.equal((await replayFiles(directory)).length, 1)
      assert.deepEqual(await homes(directory), [])
    }),
  )
})

describe('of what it finds in the directory, the gateway', () => {
  const line = (n: number) => writeEvent(uuidv7(), event(n), Date.now()).data

  /** A file that nobody has changed for a while. */
  async function leave(path: string, content: string | Buffer): Promise<void> {
    await writeFile(path, content)
    await utimes(path, new Date(), new Date(Date.now() - 60_000))
  }

  test(
    'sends the files of other gateways, whole lines alone, and sets the rest aside',
    lastFirst(async t => {
      const redis = await startRedis(t)
      const directory = await temporaryDirectory(t)
      const spaced = line(2).replace('{', '{ ')
      const torn = line(3).slice(0, 50)
      await leave(
        join(directory, 'pending-7-1.ndjson'),
        `${line(0)}\n\n${line(1)}\n${spaced}\n${torn}`,
      )
      await leave(
        join(directory, 'anything.ndjson'),
        Buffer.concat([Buffer.from([0, 0, 0xff, 0x0a]), Buffer.from(line(4))]),
      )
      await leave(join(directory, 'notes.txt'), line(9))
      await leave(join(directory, 'empty.ndjson'), '')
      const running = await start(t, redisStore(redis.port), { directory })
      await until(() => running.seen.drained === 4)
      const entries = await redis.entries(AUDIT_STREAM)
      assertEvidence(entries, KEY)
      assert.deepEqual(
        numbers(entries).toSorted((a, b) => a - b),
        [0, 1, 2, 4],
      )
      assert.ok(entries.some(({ fields }) => fields['data'] === spaced))
      // A torn line comes last, when the file has been taken and what is whole in it sent.
      await until(() => running.seen.corrupt === 2)
      await until(async () => (await replayFiles(directory)).length === 0)
      const aside = join(directory, 'pending-7-1.ndjson.corrupt')
      assert.equal(await readFile(aside, 'utf8'), `${torn}\n`)
      assert.equal((await stat(aside)).mode & 0o777, 0o600)
      assert.deepEqual(
        await readFile(join(directory, 'anything.ndjson.corrupt')),
        Buffer.from([0, 0, 0xff, 0x0a]),
      )
      await running.app.close()
      assert.deepEqual((await readdir(directory)).toSorted(), [
        'anything.ndjson.corrupt',
        'notes.txt',
        'pending-7-1.ndjson.corrupt',
      ])
    }),
  )

  test(
    'sets aside a file that is no evidence at all, without a sync and a line of the log for each of its lines',
    lastFirst(async t => {
      const store = stubbornStore()
      store.taking = Infinity
      const directory = await temporaryDirectory(t)
      const junk = upTo(50_000).map(n => `junk ${n}\n`)
      await leave(join(directory, 'a.ndjson'), `${junk.join('')}${line(0)}\n`)
      await leave(join(directory, 'b.ndjson'), `${line(1)}\n`)
      const running = await start(t, { store }, { directory })
      await until(() => running.seen.drained === 2, LONG)
      assert.equal(running.seen.corrupt, junk.length)
      assert.equal(await readFile(join(directory, 'a.ndjson.corrupt'), 'utf8'), junk.join(''))
      assert.ok(running.lines.filter(logged => logged.includes('set aside')).length < 20)
    }),
  )

  test(
    'leaves a file alone that somebody still writes',
    lastFirst(async t => {
      const store = stubbornStore()
      store.taking = Infinity
      const directory = await temporaryDirectory(t)
      const path = join(directory, 'pending-7-1.ndjson')
      const running = await start(t, { store }, { directory })
      let text = ''
      const begin = performance.now()
      for (let n = 0; performance.now() - begin < 2_500; n += 1) {
        text += `${line(n)}\n`
        await writeFile(path, text)
        await new Promise(resolve => setTimeout(resolve, 100))
      }
      assert.equal(running.seen.drained, 0)
      await until(() => running.seen.drained === text.split('\n').length - 1, LONG)
      assert.equal(running.seen.corrupt, 0)
    }),
  )

  const byId = (events: readonly WrittenEvent[]) =>
    Object.fromEntries(events.map(({ id, data }) => [id, data]))
  const sent = (store: StubbornStore) =>
    byId(store.taken.map(({ id = '', data = '' }) => ({ id, data })))

  test(
    'recovers the journal of a dead process, once, however many start at the same time',
    lastFirst(async t => {
      const store = stubbornStore()
      store.taking = Infinity
      const directory = await temporaryDirectory(t)
      const owner = await deadOwner()
      const due: WrittenEvent[] = []
      for (let n = 0; n < 20; n += 1) {
        const left = journal(n * 10)
        due.push(...left.due)
        const name = `gateway-${n + 2}-${'ab'.repeat(8)}`
        await leaveHome(directory, name, [...left.lines, 'I torn'], owner)
      }
      const starts = upTo(5).map(() => start(t, { store }, { directory, durability: 'strict' }))
      const running = await Promise.all(starts)
      await until(() => store.taken.length >= due.length, LONG)
      await Promise.all(running.map(({ app }) => app.close()))
      assert.equal(store.taken.length, due.length)
      assert.deepEqual(sent(store), byId(due))
      assert.equal(
        running.reduce((sum, { seen }) => sum + seen.corrupt, 0),
        20,
      )
      const left = await readdir(directory)
      assert.equal(left.filter(name => name.endsWith('-1.journal.corrupt')).length, 20)
      assert.equal(left.length, 20)
    }),
  )

  test(
    'recovers what a dead process had taken over from others',
    lastFirst(async t => {
      const store = stubbornStore()
      store.taking = Infinity
      const directory = await temporaryDirectory(t)
      const owner = await deadOwner()
      const [outer, inner] = [journal(0), journal(10)]
      const home = await leaveHome(directory, 'gateway-2-aaaaaaaaaaaaaaaa', outer.lines, owner)
      await leaveHome(home, 'gateway-3-bbbbbbbbbbbbbbbb', inner.lines, owner)
      await leave(join(home, 'pending-3-1.ndjson'), `${line(20)}\n`)
      await writeFile(join(home, 'half.tmp'), line(30))
      const running = await start(t, { store }, { directory, durability: 'strict' })
      await until(() => store.taken.length === 7, LONG)
      for (const { id, data } of [...outer.due, ...inner.due]) assert.equal(sent(store)[id], data)
      assert.ok(taken(store).includes(20))
      await running.app.close()
      assert.deepEqual(await readdir(directory), [])
    }),
  )

  test(
    'moves it to a replay file while Redis is away',
    lastFirst(async t => {
      const store = stubbornStore()
      const directory = await temporaryDirectory(t)
      const left = journal(0)
      await leaveHome(directory, 'gateway-2-aaaaaaaaaaaaaaaa', left.lines, await deadOwner())
      const running = await start(t, { store }, { directory, durability: 'strict' })
      await until(() => running.seen.persisted === 3)
      store.taking = Infinity
      await until(() => store.taken.length === 3, LONG)
      assert.deepEqual(sent(store), byId(left.due))
      await running.app.close()
      assert.deepEqual(await readdir(directory), [])
    }),
  )

  test(
    'holds nothing up for what it cannot read, and tries that again',
    lastFirst(async t => {
      const store = stubbornStore()
      store.taking = Infinity
      const directory = await temporaryDirectory(t)
      // Nothing can be set aside under these names.
      for (const name of ['a.ndjson', 'b.ndjson']) await mkdir(join(directory, `${name}.corrupt`))
      await leave(join(directory, 'a.ndjson'), `torn\n${line(0)}`)
      // More than is read at once: Redis has accepted some of it when the trouble begins.
      const many = upTo(2_000).map(n => `${line(100 + n)}\n`)
      await leave(join(directory, 'b.ndjson'), `${many.join('')}torn`)
      await leave(join(directory, 'c.ndjson'), line(1))
      const home = `gateway-2-${'aa'.repeat(8)}`
      await leaveHome(directory, home, [], await deadOwner())
      await rm(join(directory, home, '1.journal'))
      await mkdir(join(directory, home, '1.journal'))
      const running = await start(t, { store }, { directory, durability: 'strict' })
      await until(() => taken(store).includes(1))
      assert.equal(running.seen.corrupt, 0)
      assert.equal(running.lines.filter(line => line.includes('cannot be read')).length, 3)
      assert.deepEqual(await replayFiles(directory), ['a.ndjson'])
      for (const name of ['a.ndjson', 'b.ndjson']) await rmdir(join(directory, `${name}.corrupt`))
      await until(() => running.seen.corrupt === 2, LONG)
      await until(() => store.taken.length === 2_002)
      assert.deepEqual(
        taken(store).toSorted((a, b) => a - b),
        [0, 1, ...upTo(2_100).slice(100)],
      )
      await running.app.close()
      const left = (await readdir(directory)).toSorted()
      assert.deepEqual(left.slice(0, 2), ['a.ndjson.corrupt', 'b.ndjson.corrupt'])
      // What could not be read is still there, for the next start.
      assert.equal(left.length, 3)
      assert.ok((await readdir(join(directory, left[2] ?? ''))).includes(home))
    }),
  )

  test(
    'never touches what belongs to a process that lives',
    lastFirst(async t => {
      const store = stubbornStore()
      store.taking = Infinity
      const directory = await temporaryDirectory(t)
      const child: ChildProcess = spawn(
        process.execPath,
        [
          '--eval',
          `import('${new URL('../../../plugins/audit/owner.ts', import.meta.url).href}')
           .then(({ thisProcess }) => thisProcess())
           .then(owner => console.log(JSON.stringify(owner)))
         setInterval(() => undefined, 1000)`,
        ],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      )
      t.after(async () => void child.kill('SIGKILL'))
      const [text] = child.stdout === null ? [] : await once(child.stdout, 'data')
      const left = journal(0)
      await leaveHome(directory, 'gateway-2-aaaaaaaaaaaaaaaa', left.lines, JSON.parse(String(text)))
      const other = await start(
        t,
        { store: createMemoryStore() },
        { directory, durability: 'strict' },
      )
      const self = await start(t, { store }, { directory, durability: 'strict' })
      // It has looked, for it has taken this.
      await leaveHome(directory, 'gateway-3-bbbbbbbbbbbbbbbb', journal(10).lines, await deadOwner())
      await until(() => store.taken.length + other.seen.drained === 3, LONG)
      assert.equal((await homes(directory)).length, 3)
      child.kill('SIGKILL')
      await once(child, 'exit')
      await until(() => store.taken.length + other.seen.drained === 6, LONG)
      await self.app.close()
      await other.app.close()
      assert.deepEqual(await readdir(directory), [])
    }),
  )

  test(
    'waits for 30 s without a heartbeat of a process that it cannot see',
    lastFirst(async t => {
      const directory = await temporaryDirectory(t)
      const self = await thisProcess()
      const home = join(directory, 'gateway-1-self')
      await mkdir(home)
      const elsewhere = { ...self, boot: 'another' }
      const path = await leaveHome(directory, 'gateway-1-aa', [], elsewhere)
      await leaveHome(directory, 'gateway-1-bb', [], undefined)
      const names = ['gateway-1-self', 'gateway-1-aa', 'gateway-1-bb']
      let now = 0
      const logger = pino({ level: 'silent' })
      const looking = new Homes({ root: directory, home, self }, logger, () => now)
      const looks = async (count: number) => {
        const claimed: string[] = []
        for (let n = 0; n < count; n += 1) {
          claimed.push(...(await looking.claim(names)))
          now += 5_000
        }
        return claimed
      }
      assert.deepEqual(await looks(6), [])
      await utimes(join(path, 'owner'), new Date(), new Date(Date.now() + 5_000))
      assert.deepEqual(await looks(1), [join(home, 'gateway-1-bb')])
      assert.deepEqual(await looks(3), [])
      // This process was stopped, and so may the other have been.
      now += 3_600_000
      assert.deepEqual(await looks(1), [])
      await utimes(join(path, 'owner'), new Date(), new Date(Date.now() + 10_000))
      assert.deepEqual(await looks(6), [])
      assert.deepEqual(await looks(1), [join(home, 'gateway-1-aa')])
    }),
  )
})

describe('of requests under way, the gateway', () => {
  const intend = ({ audit }: Running, n: number) =>
    audit.intend({ ...event(n), evaluation_status: 'interrupted' })
  const status = (data: string | undefined) => JSON.parse(data ?? '').evaluation_status

  for (const durability of ['strict', 'synced'] as const) {
    test(
      `leaves those that have no end to the next start (${durability})`,
      lastFirst(async t => {
        const store = stubbornStore()
        store.taking = Infinity
        const directory = await temporaryDirectory(t)
        const first = await start(t, { store }, { directory, durability })
        const [ended, open] = [intend(first, 0), intend(first, 1)]
        await Promise.all([first.audit.safe(ended), first.audit.safe(open)])
        first.audit.record(event(0), ended)
        await until(() => store.taken.length === 1)
        assert.equal(store.taken[0]?.['id'], ended.id)
        await first.app.close()
        assert.equal((await homes(directory)).length, 1)
        const next = await start(t, { store }, { directory, durability })
        await until(() => store.taken.length === 2, LONG)
        assert.equal(store.taken[1]?.['id'], open.id)
        assert.equal(status(store.taken[1]?.['data']), 'interrupted')
        // It comes too late: the next start has spoken.
        first.audit.record(event(1), open)
        assert.equal(first.seen.dropped, 0)
        await next.app.close()
        assert.equal(store.taken.length, 2)
        assert.deepEqual(await readdir(directory), [])
      }),
    )
  }

  test(
    'writes no intent when it promises nothing',
    lastFirst(async t => {
      const relaxed = await start(
        t,
        { store: createMemoryStore() },
        { directory: await temporaryDirectory(t) },
      )
      assert.equal(relaxed.audit.journaled, false)
      assert.throws(() => intend(relaxed, 0), { check: 'evidence_unavailable' })
    }),
  )

  test(
    'gives an outcome another id when its journal was taken away',
    lastFirst(async t => {
      const store = stubbornStore()
      store.taking = Infinity
      const directory = await temporaryDirectory(t)
      const running = await start(t, { store }, { directory, durability: 'strict' })
      const intent = intend(running, 0)
      const [home = ''] = await homes(directory)
      await rename(join(directory, home), join(directory, 'taken'))
      await until(async () => (await homes(directory)).length === 1)
      await until(() => running.audit.accepting())
      running.audit.record(event(0), intent)
      await until(() => store.taken.length === 1)
      assert.notEqual(store.taken[0]?.['id'], intent.id)
      assert.equal(number(store.taken[0]?.['data']), 0)
      assert.equal(JSON.parse(store.taken[0]?.['data'] ?? '').id, store.taken[0]?.['id'])
    }),
  )
})

describe('with a directory that cannot be used, the gateway', () => {
  for (const [what, spoil, mend] of [
    ['a file in its place', (path: string) => writeFile(path, ''), (path: string) => unlink(path)],
    [
      'a parent that is a file',
      (path: string) => writeFile(join(path, '..'), ''),
      (path: string) => unlink(join(path, '..')),
    ],
  ] as const) {
    test(
      `starts, accepts what it can keep its word for, and finds it when it is mended: ${what}`,
      lastFirst(async t => {
        const store = stubbornStore()
        store.taking = Infinity
        const directory = join(await temporaryDirectory(t), 'parent', 'replay')
        if (what === 'a file in its place') await mkdir(join(directory, '..'))
        await spoil(directory)
        const strict = await start(t, { store }, { directory, durability: 'strict' })
        const relaxed = await start(t, { store }, { directory })
        for (const { audit, lines } of [strict, relaxed]) {
          assert.deepEqual([audit.replayUnavailable, audit.lost], [true, false])
          assert.equal(lines.filter(line => line.includes('directory cannot be used')).length, 1)
        }
        assert.equal(strict.audit.accepting(), false)
        assert.throws(() => strict.audit.intend(event()), { check: 'evidence_unavailable' })
        assert.equal(relaxed.audit.accepting(), true)
        record(relaxed, 0, 3)
        record(strict, 3, 6)
        await until(() => store.taken.length === 6)
        store.taking = 0
        record(relaxed, 6, 9)
        await until(() => !relaxed.audit.accepting())
        assert.equal(relaxed.audit.depth, 3)
        await mend(directory)
        await until(() => strict.audit.accepting() && relaxed.audit.accepting(), LONG)
        assert.deepEqual(
          [strict.audit.replayUnavailable, relaxed.audit.replayUnavailable],
          [false, false],
        )
        await until(() => relaxed.seen.persisted === 3)
        store.taking = Infinity
        await until(() => store.taken.length === 9, LONG)
        assert.equal(strict.seen.dropped + relaxed.seen.dropped, 0)
      }),
    )
  }

  test(
    'makes it anew when it was removed',
    lastFirst(async t => {
      const store = stubbornStore()
      store.taking = Infinity
      const directory = join(await temporaryDirectory(t), 'replay')
      const { audit } = await start(t, { store }, { directory, durability: 'strict' })
      await rm(directory, { recursive: true })
      await until(async () => (await homes(directory).catch(() => [])).length === 1)
      await until(() => audit.accepting())
      audit.record(event(0), audit.intend(event(0)))
      await until(() => store.taken.length === 1)
    }),
  )

  test(
    'finds out that Redis is back although nothing is left that waits for it',
    lastFirst(async t => {
      const store = stubbornStore()
      const directory = join(await temporaryDirectory(t), 'replay')
      const running = await start(t, { store }, { directory })
      record(running, 0, 3)
      await until(() => running.seen.persisted === 3)
      await rm(directory, { recursive: true })
      await writeFile(directory, '')
      await until(() => running.audit.replayUnavailable)
      store.taking = Infinity
      await until(() => running.audit.accepting())
    }),
  )

  test(
    'counts what is lost for good when it ends with nowhere to put it',
    lastFirst(async t => {
      const store = stubbornStore()
      const directory = join(await temporaryDirectory(t), 'replay')
      await writeFile(directory, '')
      const running = await start(t, { store }, { directory })
      record(running, 0, 3)
      await running.app.close()
      assert.deepEqual([running.seen.dropped, running.audit.lost], [3, true])
    }),
  )
})

/** Mounts a small disk; `undefined` where that is not allowed. */
async function smallDisk(t: Cleanup, bytes: number): Promise<string | undefined> {
  const path = await temporaryDirectory(t)
  const run = async (program: string, ...args: string[]) => {
    const child = spawn(program, args, { stdio: 'ignore' })
    const [status] = await Promise.race([once(child, 'exit'), once(child, 'error').then(() => [1])])
    return status === 0
  }
  if (!(await run('mount', '-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', path))) return undefined
  // Before the directory goes.
  t.after(async () => void (await run('umount', '-l', path)))
  return path
}

test(
  'a gateway that was stopped writes nothing before it knows that nobody has taken over its journal',
  lastFirst(async t => {
    let now = 0
    const root = await temporaryDirectory(t)
    const directory = new ReplayDirectory(root, 'strict', pino({ level: 'silent' }), () => now)
    await directory.open()
    t.after(() => directory.close())
    const { journal, home } = directory
    let woken = 0
    directory.onUsable = () => void (woken += 1)
    assert.equal(directory.usable, true)
    now += 20_000
    assert.equal(directory.usable, true)
    now += 20_000
    await rename(home, join(root, 'taken'))
    assert.equal(directory.usable, false)
    await until(() => directory.usable)
    assert.notEqual(directory.journal, journal)
    assert.equal(woken, 1)
  }),
)

describe('with a full disk, the gateway', () => {
  test(
    'refuses before anything is promised, loses nothing, and goes on when there is room',
    lastFirst(async t => {
      const disk = await smallDisk(t, 3 * 1024 * 1024)
      if (disk === undefined) return t.skip('no disk can be mounted here')
      const store = stubbornStore()
      store.taking = Infinity
      const running = await start(t, { store }, { directory: disk, durability: 'strict' })
      const { audit, seen } = running
      const open = upTo(50).map(n =>
        audit.intend({ ...event(n), evaluation_status: 'interrupted' }),
      )
      const ballast = join(disk, 'ballast')
      await writeFile(ballast, Buffer.alloc(4 * 1024 * 1024)).catch(() => undefined)
      const late: (typeof open)[number][] = []
      assert.throws(
        () => {
          for (;;) late.push(audit.intend({ ...event(50), evaluation_status: 'interrupted' }))
        },
        { check: 'evidence_unavailable' },
      )
      // The next is refused before it has spent anything, and the outcomes wait: they cannot be written.
      assert.equal(audit.accepting(), false)
      assert.equal(audit.replayUnavailable, true)
      for (const [n, intent] of open.entries()) audit.record(event(n), intent)
      // What has no intent needs no journal.
      audit.record(event(999))
      await until(() => store.taken.length === 1)
      assert.equal(number(store.taken[0]?.['data']), 999)
      assert.equal(audit.depth, 50)
      await unlink(ballast)
      await until(() => audit.accepting(), LONG)
      await until(() => audit.depth === 0)
      assert.deepEqual(taken(store), [999, ...upTo(50)])
      assert.equal(seen.dropped, 0)
      await running.app.close()
      const next = await start(t, { store }, { directory: disk, durability: 'strict' })
      await until(() => store.taken.length === 51 + late.length, LONG)
      assert.equal(next.seen.corrupt, 0)
      await next.app.close()
      assert.deepEqual(await readdir(disk), [])
    }),
  )

  for (const file of ['reserve', 'probe']) {
    test(
      `has room for a start in what others left there: ${file}`,
      lastFirst(async t => {
        const disk = await smallDisk(t, 2 * 1024 * 1024)
        if (disk === undefined) return t.skip('no disk can be mounted here')
        const store = stubbornStore()
        store.taking = Infinity
        const { lines, due } = journal(0)
        const home = await leaveHome(disk, 'gateway-2-aaaaaaaaaaaaaaaa', lines, await deadOwner())
        await writeFile(join(home, file), Buffer.alloc(64 * 1024))
        await assert.rejects(writeFile(join(disk, 'ballast'), Buffer.alloc(2 * 1024 * 1024)), {
          code: 'ENOSPC',
        })
        const running = await start(t, { store }, { directory: disk, durability: 'strict' })
        await until(() => store.taken.length === due.length, LONG)
        assert.equal(running.audit.replayUnavailable, true)
        await unlink(join(disk, 'ballast'))
        await until(() => running.audit.accepting(), LONG)
      }),
    )
  }

  test(
    'keeps events in memory while Redis is away too, and takes no more',
    lastFirst(async t => {
      const disk = await smallDisk(t, 2 * 1024 * 1024)
      if (disk === undefined) return t.skip('no disk can be mounted here')
      const store = stubbornStore()
      const running = await start(t, { store }, { directory: disk })
      let count = 0
      await until(() => {
        if (running.audit.accepting()) record(running, count, (count += 100))
        return !running.audit.accepting()
      }, LONG)
      assert.ok(running.audit.depth > 0)
      store.taking = Infinity
      await until(() => store.taken.length === count, LONG)
      assert.deepEqual(
        taken(store).toSorted((a, b) => a - b),
        upTo(count),
      )
      assert.equal(running.seen.dropped, 0)
      await until(() => running.audit.accepting(), LONG)
    }),
  )
})
