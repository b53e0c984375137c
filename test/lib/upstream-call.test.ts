// A request goes out once, whatever the dispatcher makes of it.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Dispatcher } from 'undici'
import { UpstreamCall } from '../../lib/upstream-call.ts'

class Starting extends Dispatcher {
  readonly aborted: (Error | undefined)[] = []

  override dispatch(
    _options: Dispatcher.DispatchOptions,
    handler: Dispatcher.DispatchHandler,
  ): boolean {
    const controller: Dispatcher.DispatchController = {
      aborted: false,
      paused: false,
      reason: null,
      rawHeaders: [],
      rawTrailers: [],
      abort: reason => {
        this.aborted.push(reason)
        handler.onResponseError?.(controller, reason)
      },
      pause() {},
      resume() {},
    }
    handler.onRequestStart?.(controller, null)
    return true
  }
}

test('the call is cut when a dispatcher starts it a second time', () => {
  const dispatcher = new Starting()
  const failures: Error[] = []
  const call = new UpstreamCall(
    {
      origin: 'http://127.0.0.1:1',
      path: '/',
      method: 'GET',
      headers: [],
      body: null,
      headersTimeout: 1_000,
      idleTimeout: 1_000,
    },
    () => assert.fail('no response'),
    error => failures.push(error),
  )
  call.start(dispatcher)
  assert.deepEqual([call.dispatched, dispatcher.aborted.length], [true, 0])
  call.start(dispatcher)
  assert.equal(dispatcher.aborted.length, 1)
  assert.match(failures[0]?.message ?? '', /sent before/)
  assert.equal(call.failed, true)
})
