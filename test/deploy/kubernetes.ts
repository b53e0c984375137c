// Holds objects to the schemas of the Kubernetes API and of the Prometheus Operator, and refuses fields that these do
// not know, as the API server does for `kubectl apply`.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const PACKAGES = fileURLToPath(new URL('../../node_modules', import.meta.url))

/** An object as it stands in a manifest. */
export interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { readonly name: string; readonly labels?: Readonly<Record<string, string>> }
  readonly [member: string]: unknown
}

function moduleOf({ apiVersion }: Manifest): string {
  const name = apiVersion.startsWith('monitoring.coreos.com/')
    ? '@kubernetes-models/prometheus-operator'
    : 'kubernetes-models'
  return `${name}/${apiVersion}`
}

/**
 * Validates objects by value (ranges, formats, required fields).
 *
 * @throws Error that names the object and what is wrong with it
 */
export async function validateValues(manifests: readonly Manifest[]): Promise<void> {
  for (const manifest of manifests) {
    const { [manifest.kind]: Model } = await import(moduleOf(manifest))
    try {
      new Model(manifest).validate()
    } catch (error) {
      const object = `${manifest.kind} ${manifest.metadata.name}`
      throw new Error(`${object}: ${String(error)}`, { cause: error })
    }
  }
}

/**
 * Validates objects by type. The schemas allow unknown fields; the compiler, which gets each object as a literal of the
 * type that the same schemas give, does not.
 *
 * @returns what the compiler says; empty when every field is known
 */
export function validateFields(manifests: readonly Manifest[]): string {
  const directory = mkdtempSync(join(tmpdir(), 'caracal-manifests-'))
  try {
    symlinkSync(PACKAGES, join(directory, 'node_modules'))
    writeFileSync(join(directory, 'package.json'), '{"type":"module"}')
    const lines = manifests.map((manifest, index) => {
      const type = `import('${moduleOf(manifest)}').I${manifest.kind}`
      return `export const object${index}: ${type} = ${JSON.stringify(manifest, null, 1)}\n`
    })
    writeFileSync(join(directory, 'manifests.ts'), lines.join('\n'))
    const flags = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'nodenext', '--types', '']
    const { status, stdout } = spawnSync(
      join(PACKAGES, '.bin', 'tsc'),
      [...flags, 'manifests.ts'],
      { cwd: directory, encoding: 'utf8' },
    )
    return status === 0 ? '' : stdout || 'tsc did not run'
  } finally {
    rmSync(directory, { recursive: true })
  }
}
