// The profile's stages: the nearest file of the gateway on the stack owns the time.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { ProfileNode } from '../../bench/inspector.ts'
import { sharesOf } from '../../bench/stages.ts'

/** A stack of files, outermost first, that was seen for so many microseconds. */
type Seen = readonly [microseconds: number, ...urls: string[]]

function stagesOf(...seen: Seen[]): Record<string, number> {
  const nodes: ProfileNode[] = []
  const samples: number[] = []
  const timeDeltas: number[] = []
  for (const [microseconds, ...urls] of seen) {
    for (const [depth, url] of urls.entries()) {
      const id = nodes.length + 1
      const functionName = url.startsWith('(') ? url : 'work'
      const children = depth < urls.length - 1 ? [id + 1] : []
      nodes.push({
        id,
        callFrame: { functionName, url: functionName === url ? '' : url, lineNumber: 0 },
        children,
      })
    }
    samples.push(nodes.length)
    timeDeltas.push(microseconds)
  }
  const { stages } = sharesOf({ nodes, samples, timeDeltas })
  return Object.fromEntries(stages.map(({ name, microseconds }) => [name, microseconds]))
}

describe('the stages of a profile', () => {
  it('give what a library does to the file that called it', () => {
    assert.deepEqual(
      stagesOf(
        [
          3,
          'file:///g/node_modules/fastify/lib/hooks.js',
          'file:///g/dist/hooks/replayed.js',
          'file:///g/node_modules/ioredis/built/Redis.js',
          'node:net',
        ],
        [
          5,
          'file:///g/dist/plugins/passage.js',
          'file:///g/dist/hooks/invalid-signature.js',
          'node:internal/crypto/sig',
        ],
      ),
      { signature: 5, 'replay claim': 3 },
    )
  })

  it('give what no file of the gateway called to the client that it belongs to', () => {
    assert.deepEqual(
      stagesOf(
        [
          1,
          'node:internal/stream_base_commons',
          'file:///g/node_modules/ioredis/built/DataHandler.js',
        ],
        [
          2,
          'node:internal/stream_base_commons',
          'file:///g/node_modules/undici/lib/dispatcher/client-h1.js',
        ],
        [4, 'node:internal/timers'],
      ),
      { other: 4, 'HTTP client: exchange or upstream': 2, 'Redis client: claims and evidence': 1 },
    )
  })

  it('leave out the time in which nothing was to be done, and name the collector', () => {
    assert.deepEqual(stagesOf([9, '(root)', '(idle)'], [2, '(root)', '(garbage collector)']), {
      'garbage collection, on the main thread': 2,
    })
  })
})
