// What is deployed is valid by the tools and the schemas of those who run it. `npm run test:deploy` builds the tools.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { parse, parseAllDocuments } from 'yaml'
import { loadConfig, schema, SECRETS } from '../../config.ts'
import { readBindingsFile } from '../../lib/bindings-file.ts'
import { createCertificate } from '../certificate.ts'
import { dashboardQueries } from './dashboard.ts'
import { type Manifest, validateFields, validateValues } from './kubernetes.ts'

const DEPLOY = fileURLToPath(new URL('../../deploy/', import.meta.url))
const CHART = join(DEPLOY, 'helm/caracal-gateway')
const VALUES = readdirSync(join(CHART, 'ci'))

/** The oldest Kubernetes that `Chart.yaml` allows. */
const OLDEST = ['--kube-version', '1.27.0']

/** Where the container's `/etc/caracal` is for {@link loadConfig}. */
const etc = mkdtempSync(join(tmpdir(), 'caracal-etc-'))
after(() => rmSync(etc, { recursive: true }))

function run(variable: 'HELM' | 'PROMTOOL' | 'COMPOSE_SPEC', ...args: string[]) {
  const program = process.env[variable]
  assert.ok(program, 'start this by `npm run test:deploy`')
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8', cwd: CHART })
  return { status, output: stdout + stderr, stdout }
}

function render(...args: string[]): Manifest[] {
  const { status, output, stdout } = run('HELM', 'template', 'edge', '.', ...OLDEST, ...args)
  assert.equal(status, 0, output)
  const documents = parseAllDocuments(stdout)
  if (!Array.isArray(documents)) return []
  return documents.map(document => document.toJS()).filter(object => object !== null)
}

interface Probe {
  readonly httpGet: { readonly path: string; readonly scheme: string }
}

interface Container {
  readonly command: string[]
  readonly env: { name: string; value: string }[]
  readonly volumeMounts: { name: string; mountPath: string }[]
  readonly securityContext: unknown
  readonly startupProbe: Probe
  readonly livenessProbe: Probe
  readonly readinessProbe: Probe
}

interface Pod {
  readonly containers: [Container]
  readonly volumes: { name: string; [source: string]: unknown }[]
  readonly terminationGracePeriodSeconds: number
  readonly automountServiceAccountToken: boolean
  readonly securityContext: Readonly<Record<string, unknown>>
}

interface Workload extends Manifest {
  readonly spec: {
    readonly replicas?: number
    readonly template: { readonly metadata: Manifest['metadata']; readonly spec: Pod }
    readonly volumeClaimTemplates?: readonly { readonly metadata: { readonly name: string } }[]
  }
}

const isWorkload = (object: Manifest): object is Workload =>
  object.kind === 'StatefulSet' || object.kind === 'Deployment'

function workloadOf(objects: readonly Manifest[]): Workload {
  const [workload, ...more] = objects.filter(isWorkload)
  assert.ok(workload && more.length === 0)
  return workload
}

const kindsOf = (objects: readonly Manifest[]) => objects.map(({ kind }) => kind).sort()

/** What an operator puts into the Secrets. */
const CONTENTS: Readonly<Record<string, string>> = {
  REDIS_URL: 'rediss://redis:6379',
  DATABASE_URL: 'postgres://gateway@postgresql/caracal',
  METRICS_BEARER: 'a-bearer-of-metrics',
  CARACAL_ADMIN_TOKEN: 'a-token-of-administrators',
}

/** The environment of the container, with the files that it names. */
function environmentOf(workload: Workload): Record<string, string> {
  const [{ env }] = workload.spec.template.spec.containers
  const { cert, key } = createCertificate(['gateway'])
  const texts: Readonly<Record<string, string>> = {
    '/etc/caracal/tls/tls.crt': cert,
    '/etc/caracal/tls/tls.key': key,
    '/etc/caracal/authorities/ca.crt': cert,
    '/etc/caracal/bindings/bindings.yaml': 'version: 1\nzones: {}\n',
  }
  return Object.fromEntries(
    env.map(({ name, value }) => {
      if (!value.startsWith('/etc/caracal/')) return [name, value]
      const file = join(etc, value)
      mkdirSync(dirname(file), { recursive: true })
      const secret = name.replace(/_FILE$/, '')
      writeFileSync(file, texts[value] ?? CONTENTS[secret] ?? 'ab'.repeat(32))
      return [name, file]
    }),
  )
}

describe('the Helm chart', () => {
  for (const file of VALUES) {
    const values = ['-f', join('ci', file)]

    it(`passes helm lint with ${file}`, () => {
      const { status, output } = run('HELM', 'lint', '--strict', '.', ...values)
      assert.equal(status, 0, output)
    })

    it(`renders objects that the Kubernetes API knows, with ${file}`, async () => {
      const objects = render(...values)
      await validateValues(objects)
      assert.equal(validateFields(objects), '')
      for (const { kind, metadata } of objects) {
        for (const label of ['name', 'instance', 'version', 'managed-by']) {
          assert.ok(metadata.labels?.[`app.kubernetes.io/${label}`], `${label} of ${kind}`)
        }
      }
    })

    it(`confines the pod and gives the gateway what it can start with, with ${file}`, () => {
      const workload = workloadOf(render(...values))
      const pod = workload.spec.template.spec
      const [container] = pod.containers
      assert.deepEqual(container.command, ['/usr/local/bin/gateway'])
      assert.equal(pod.automountServiceAccountToken, false)
      const { runAsNonRoot, runAsUser, runAsGroup, fsGroup, seccompProfile } = pod.securityContext
      assert.deepEqual([runAsNonRoot, runAsUser, runAsGroup, fsGroup], [true, 65532, 65532, 65532])
      assert.deepEqual(seccompProfile, { type: 'RuntimeDefault' })
      assert.deepEqual(container.securityContext, {
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      })
      for (const { name } of container.env) {
        assert.ok(!SECRETS.includes(name), `${name} is in the open`)
        const secret = name.replace(/_FILE$/, '')
        assert.ok(name in schema.properties || SECRETS.includes(secret), `${name} is no variable`)
      }
      const config = loadConfig(environmentOf(workload))
      assert.ok(config.shutdownDelay < config.shutdownTimeout)
      assert.ok(pod.terminationGracePeriodSeconds * 1000 > config.shutdownTimeout)
      const scheme = config.tlsCertFile === undefined ? 'HTTP' : 'HTTPS'
      for (const [probe, path] of [
        ['startupProbe', '/health'],
        ['livenessProbe', '/health'],
        ['readinessProbe', '/ready'],
      ] as const) {
        const { httpGet } = container[probe]
        assert.deepEqual([httpGet.path, httpGet.scheme], [path, scheme])
      }
      const volumes = [
        ...pod.volumes,
        ...(workload.spec.volumeClaimTemplates ?? []).map(({ metadata }) => metadata),
      ].map(({ name }) => name)
      const mounted = container.volumeMounts.map(({ name }) => name)
      assert.deepEqual(mounted.sort(), volumes.sort())
    })
  }

  it('renders what is on, and nothing that is off', () => {
    const always = ['NetworkPolicy', 'PodDisruptionBudget', 'Service', 'ServiceAccount']
    assert.deepEqual(
      kindsOf(render('-f', 'ci/minimal-values.yaml')),
      [...always, 'HorizontalPodAutoscaler', 'StatefulSet'].sort(),
    )
    assert.deepEqual(
      kindsOf(render('-f', 'ci/everything-values.yaml')),
      [
        ...always,
        'ConfigMap',
        'ConfigMap',
        'HorizontalPodAutoscaler',
        'PrometheusRule',
        'ServiceMonitor',
        'StatefulSet',
      ].sort(),
    )
    assert.deepEqual(
      kindsOf(render('-f', 'ci/shared-values.yaml')),
      [...always, 'Deployment'].sort(),
    )
    assert.deepEqual(kindsOf(render('-f', 'ci/off-values.yaml')), ['Deployment', 'Service'])
  })

  it('hands the bindings on whole, and the rules with links that lead somewhere', () => {
    const objects = render('-f', 'ci/everything-values.yaml')
    const bindings = objects.find(({ metadata }) => metadata.name === 'edge-bindings')
    const data = bindings?.['data']
    assert.ok(typeof data === 'object' && data !== null && 'bindings.yaml' in data)
    const read = readBindingsFile(String(data['bindings.yaml']))
    assert.deepEqual(read.ok ? [] : read.problems, [])
    const rules = objects.find(({ kind }) => kind === 'PrometheusRule')
    const text = readFileSync(join(DEPLOY, 'prometheus/rules.yml'), 'utf8')
    const expected = text.replaceAll('docs/operations.md#', 'https://runbooks.example/gateway#')
    assert.deepEqual(rules?.['spec'], parse(expected))
  })

  for (const [what, args, message] of [
    ['no STS_URL', [], /config\.STS_URL is required/],
    [
      'a delay that outlasts the stop',
      ['--set', 'shutdown.delaySeconds=15'],
      /shutdown\.delaySeconds/,
    ],
    ['a scrape that would be refused', ['--set', 'serviceMonitor.enabled=true'], /METRICS_BEARER/],
    ['a shared volume that nobody names', ['--set', 'audit.storage=shared'], /existingClaim/],
    ['a variable that does not exist', ['--set', 'config.STS_ULR=x'], /STS_ULR/],
  ] as const) {
    it(`refuses ${what}, and says so`, () => {
      const values = args.length === 0 ? [] : ['-f', 'ci/minimal-values.yaml']
      const { status, output } = run('HELM', 'template', '.', ...OLDEST, ...values, ...args)
      assert.notEqual(status, 0)
      assert.match(output, message)
    })
  }
})

describe('the check of rendered objects', () => {
  const object = (spec: unknown): Manifest => ({
    apiVersion: 'policy/v1',
    kind: 'PodDisruptionBudget',
    metadata: { name: 'gateway' },
    spec,
  })

  it('refuses a field that the API does not know', () => {
    const wrong = object({ maxUnavailable: 1, selector: { matchLabel: { app: 'gateway' } } })
    assert.match(validateFields([wrong]), /matchLabel/)
  })

  it('refuses a value that the API does not take', async () => {
    await assert.rejects(validateValues([object({ maxUnavailable: true })]), /maxUnavailable/)
  })
})

describe('the alert rules and the dashboard', () => {
  it('pass promtool', () => {
    const rules = join(DEPLOY, 'prometheus/rules.yml')
    const { status, output } = run(
      'PROMTOOL',
      'check',
      'rules',
      '--lint=all',
      '--lint-fatal',
      rules,
    )
    assert.equal(status, 0, output)
  })

  it('fire when they should and at no other time', () => {
    const { status, output } = run(
      'PROMTOOL',
      'test',
      'rules',
      join(DEPLOY, 'prometheus/tests.yml'),
    )
    assert.equal(status, 0, output)
  })

  it('ask by expressions whose types fit', () => {
    const text = readFileSync(join(DEPLOY, 'grafana/caracal-gateway.json'), 'utf8')
    const queries = dashboardQueries(JSON.parse(text))
    const rules = queries.map((expr, index) => ({ record: `query:${index}`, expr }))
    const file = join(etc, 'dashboard.yml')
    writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules }] }))
    const { status, output } = run('PROMTOOL', 'check', 'rules', '--lint=none', file)
    assert.equal(status, 0, output)
  })
})

describe('the compose file', () => {
  it('conforms to the Compose Specification', () => {
    const { status, output } = run('COMPOSE_SPEC', join(DEPLOY, '../docker-compose.yml'))
    assert.equal(status, 0, output)
  })
})
