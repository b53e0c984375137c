// The programs that `npm run test:deploy` needs: each built from its Go module, at one version, once.

import { spawnSync } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'

/** The one place that says which versions. `variable` tells the tests where the program is. */
const TOOLS = [
  { variable: 'HELM', module: 'helm.sh/helm/v4', package: 'cmd/helm', version: 'v4.3.1' },
  {
    variable: 'PROMTOOL',
    module: 'github.com/prometheus/prometheus',
    package: 'cmd/promtool',
    version: 'v0.316.0',
  },
  {
    variable: 'COMPOSE_SPEC',
    module: 'github.com/compose-spec/compose-go/v2',
    package: 'cmd',
    version: 'v2.16.2',
  },
]

/**
 * Builds what is not there yet into `directory`, and names each program in the environment.
 *
 * @param directory where they are kept
 * @param say takes a line for whoever waits: a build takes minutes
 * @returns what is missing, a line each; empty when all is there
 */
export function ensureDeployTools(directory, say) {
  const missing = []
  for (const { variable, module, package: path, version } of TOOLS) {
    const bin = join(directory, `${variable.toLowerCase()}-${version}`)
    const program = join(bin, path.slice(path.lastIndexOf('/') + 1))
    const target = `${module}/${path}@${version}`
    if (!existsSync(program)) {
      say(`go install ${target}`)
      const env = { ...process.env, GOBIN: bin, GOFLAGS: '-buildvcs=false', CGO_ENABLED: '0' }
      const { status, error } = spawnSync('go', ['install', target], { env, stdio: 'inherit' })
      if (error !== undefined || status !== 0) {
        rmSync(bin, { recursive: true, force: true })
        missing.push(`${target}: ${error === undefined ? 'it cannot be built' : 'install Go'}`)
        continue
      }
    }
    process.env[variable] = program
  }
  return missing
}
