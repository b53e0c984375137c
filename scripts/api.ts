// Guarantees that a change of what the package offers is seen: writes the report of its public surface, from the
// declarations that `npm run build` has emitted. `test/package/api.test.ts` fails when they differ.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Extractor, ExtractorConfig, ExtractorLogLevel } from '@microsoft/api-extractor'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const DIST = join(ROOT, 'dist')
const NAME = 'caracal-gateway.api.md'

/** The report that is recorded. */
export const API_REPORT = join(ROOT, 'etc', NAME)

const FAULTS = [ExtractorLogLevel.Warning, ExtractorLogLevel.Error]
const REPORTED = {
  default: { logLevel: ExtractorLogLevel.Warning },
  // Whatever the entry point exports is public.
  'ae-missing-release-tag': { logLevel: ExtractorLogLevel.None },
}

/**
 * The report of the public surface, as `dist/` has it.
 *
 * @throws Error with a line for each declaration that is not sound, such as an export without a comment
 */
export function renderApiReport(): string {
  const folder = mkdtempSync(join(tmpdir(), 'caracal-api-'))
  try {
    const problems: string[] = []
    Extractor.invoke(
      ExtractorConfig.prepare({
        configObjectFullPath: undefined,
        packageJsonFullPath: join(ROOT, 'package.json'),
        configObject: {
          projectFolder: ROOT,
          mainEntryPointFilePath: join(DIST, 'app.d.ts'),
          compiler: {
            overrideTsconfig: {
              compilerOptions: {
                target: 'es2024',
                module: 'nodenext',
                lib: ['es2024'],
                types: ['node'],
                strict: true,
                skipLibCheck: true,
              },
              files: ['dist/app.d.ts'],
            },
          },
          apiReport: {
            enabled: true,
            reportFileName: NAME,
            reportFolder: folder,
            reportTempFolder: folder,
          },
          docModel: { enabled: false },
          dtsRollup: { enabled: false },
          tsdocMetadata: { enabled: false },
          messages: { extractorMessageReporting: REPORTED },
        },
      }),
      {
        localBuild: true,
        messageCallback: message => {
          message.handled = true
          if (FAULTS.includes(message.logLevel)) {
            problems.push(message.formatMessageWithLocation(ROOT))
          }
        },
      },
    )
    if (problems.length > 0) throw new Error(`the public surface:\n${problems.join('\n')}`)
    return `${readFileSync(join(folder, NAME), 'utf8')}\n${renderAugmentations()}`
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** What the declarations that an importer sees add to Fastify's, which API Extractor leaves out. */
function renderAugmentations(): string {
  const blocks = [...reachableFrom('app.d.ts')].sort().flatMap(file => {
    const text = readFileSync(join(DIST, file), 'utf8')
    return [...text.matchAll(/^declare module 'fastify' \{\n[^]*?^\}/gm)].map(
      ([block]) => `// ${file}\n${block}`,
    )
  })
  return `## What it adds to Fastify\n\n\`\`\`ts\n${blocks.join('\n\n')}\n\`\`\`\n`
}

/** The declarations that an import of this one loads, itself included; names relative to `dist/`. */
function reachableFrom(file: string, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return seen
  seen.add(file)
  const text = readFileSync(join(DIST, file), 'utf8')
  for (const [, specifier = ''] of text.matchAll(/(?:from|import|import\() ?'(\.[^']+)\.ts'/g)) {
    reachableFrom(join(dirname(file), `${specifier}.d.ts`), seen)
  }
  return seen
}

if (import.meta.main) writeFileSync(API_REPORT, renderApiReport())
