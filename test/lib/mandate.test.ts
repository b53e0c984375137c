// Holds the mandate to contract section 3: a claim of a wrong type never reads as a permission.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { describe, it } from 'node:test'
import { isIdentifier, mandateOf, subjectFingerprint } from '../../lib/mandate.ts'

const presented = { token: 't', header: {}, claims: {}, exp: 1_790_000_000 }
const mandate = (claims: Record<string, unknown>) => mandateOf(presented, claims)

describe('isIdentifier', () => {
  const cases: [value: unknown, is: boolean][] = [
    ['z', true],
    ['Zone-1._:x', true],
    ['a'.repeat(128), true],
    ['a'.repeat(129), false],
    ['', false],
    ['a b', false],
    ['a\n', false],
    ['a/b', false],
    ['ä', false],
    ['*', false],
    [undefined, false],
    [null, false],
    [1, false],
    [['a'], false],
  ]
  for (const [value, is] of cases) {
    it(`is ${is} for ${JSON.stringify(value)?.slice(0, 20)}`, () => {
      assert.equal(isIdentifier(value), is)
    })
  }
})

describe('mandateOf', () => {
  it('names the claims in the gateway’s terms', () => {
    const claims = {
      zone_id: 'zone-1',
      client_id: 'client-1',
      jti: 'j',
      use: 'gateway',
      target: ['resource://a', 'resource://b'],
      scope: 'a:read  b:write ',
      sub_type: 'user',
      sid: 's',
      root_sid: 'r',
      agent_session_id: 'a',
      delegation_edge_id: 'd',
    }
    assert.deepEqual(mandate(claims), {
      zoneId: 'zone-1',
      clientId: 'client-1',
      jti: 'j',
      use: 'gateway',
      exp: 1_790_000_000,
      target: ['resource://a', 'resource://b'],
      scopes: new Set(['a:read', 'b:write']),
      subjectKind: 'user',
      anchors: { sid: 's', rootSid: 'r', agentSessionId: 'a', delegationEdgeId: 'd' },
      claims,
    })
  })

  it('leaves empty what is absent', () => {
    const { jti, use, target, scopes, subjectKind, anchors } = mandate({})
    assert.deepEqual(
      { jti, use, target, scopes, subjectKind, anchors },
      {
        jti: '',
        use: '',
        target: undefined,
        scopes: new Set(),
        subjectKind: undefined,
        anchors: {},
      },
    )
  })

  for (const wrong of [null, 1, true, {}, ['x'], '']) {
    it(`takes a ${JSON.stringify(wrong)} for no token id, use, scope or anchor`, () => {
      const { jti, use, scopes, subjectKind, anchors } = mandate({
        jti: wrong,
        use: wrong,
        scope: wrong,
        sub_type: wrong,
        sid: wrong,
        root_sid: wrong,
        agent_session_id: wrong,
        delegation_edge_id: wrong,
      })
      assert.deepEqual(
        { jti, use, scopes, subjectKind, anchors },
        { jti: '', use: '', scopes: new Set(), subjectKind: undefined, anchors: {} },
      )
    })
  }

  const targets: [target: unknown, read: readonly string[] | undefined][] = [
    [undefined, undefined],
    ['resource://a', ['resource://a']],
    ['', ['']],
    [[], []],
    [['resource://a', 1, null], ['resource://a']],
    [null, []],
    [1, []],
    [{ 0: 'resource://a' }, []],
  ]
  for (const [target, read] of targets) {
    it(`reads a target of ${JSON.stringify(target)} as ${JSON.stringify(read)}`, () => {
      assert.deepEqual(mandate({ target }).target, read)
    })
  }

  it('splits scopes at spaces alone', () => {
    assert.deepEqual(mandate({ scope: 'a,b c\td' }).scopes, new Set(['a,b', 'c\td']))
  })

  it('knows two kinds of subjects', () => {
    assert.equal(mandate({ sub_type: 'application' }).subjectKind, 'application')
    assert.equal(mandate({ sub_type: 'admin' }).subjectKind, undefined)
  })
})

describe('subjectFingerprint', () => {
  it('is the first 16 hex digits of the SHA-256', () => {
    const whole = createHash('sha256').update('a.b.c').digest('hex')
    assert.equal(subjectFingerprint('a.b.c'), whole.slice(0, 16))
  })
})
