// Who a process is, and whether it lives: what decides over somebody else's journal.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { lives, type Owner, readOwner, thisProcess } from '../../../plugins/audit/owner.ts'
import { lastFirst } from '../../cleanup.ts'
import { until } from '../../until.ts'

test('the gateway knows itself again from what it has written', async () => {
  const self = await thisProcess()
  assert.deepEqual(readOwner(JSON.stringify(self)), self)
  assert.equal(self.pid, process.pid)
  assert.equal(await lives(self, self), true)
})

test('the gateway takes no owner from a file that names none', () => {
  for (const text of ['', '{', 'null', '[]', '{}', '{"pid":"1"}', '{"pid":0}', '{"pid":1.5}']) {
    assert.equal(readOwner(text), undefined, text)
  }
  const nobody = { host: '', startTime: undefined, boot: undefined, pidNamespace: undefined }
  assert.deepEqual(readOwner('{"pid":7,"boot":1}'), { pid: 7, ...nobody })
})

test(
  'the gateway knows the living from the dead, and from those that had their number before',
  lastFirst(async t => {
    const self = await thisProcess()
    if (self.startTime === undefined) return t.skip('there is no /proc here')
    const child = spawn('sleep', ['60'], { stdio: 'ignore' })
    t.after(async () => void child.kill('SIGKILL'))
    await once(child, 'spawn')
    const reused: Owner = { ...self, pid: child.pid ?? 0, startTime: '1' }
    assert.equal(await lives(reused, self), false)
    child.kill('SIGKILL')
    await once(child, 'exit')
    assert.equal(await lives({ ...reused, startTime: self.startTime }, self), false)
  }),
)

test(
  'the gateway takes a process that has ended, and of which its parent takes no note, for dead',
  lastFirst(async t => {
    const self = await thisProcess()
    if (self.startTime === undefined) return t.skip('there is no /proc here')
    // The shell becomes a program that waits for no child.
    const parent = spawn('sh', ['-c', 'sleep 0 & echo $!; exec sleep 60'])
    t.after(async () => void parent.kill('SIGKILL'))
    const [text] = await once(parent.stdout, 'data')
    const owner: Owner = { ...self, pid: Number(String(text)) }
    await until(async () => (await lives({ ...owner, startTime: '1' }, self)) === false)
    await until(async () => (await lives(owner, self)) === false)
  }),
)

test('the gateway says of no process that it cannot see whether it lives', async () => {
  const self = await thisProcess()
  assert.equal(await lives({ ...self, boot: 'another' }, self), undefined)
  assert.equal(await lives({ ...self, pidNamespace: 'pid:[1]' }, self), undefined)
  assert.equal(await lives({ ...self, startTime: undefined }, self), undefined)
  const nowhere: Owner = { ...self, boot: undefined, pidNamespace: undefined, startTime: undefined }
  assert.equal(await lives(self, nowhere), undefined)
  assert.equal(await lives({ ...nowhere, host: 'another' }, nowhere), undefined)
  assert.equal(await lives({ ...nowhere, pid: 2 ** 22 + 1 }, nowhere), false)
})
